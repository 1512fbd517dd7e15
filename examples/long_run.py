"""A long run: fine-tune by LoRA, be killed, go on, and see what came of it.

    python examples/long_run.py [--steps 200] [--folder runs/long]

Runs the commands it prints: a fit that is killed half-way by `kill -9`, the same command with
--resume, a report of the whole run, and a certificate of the guide. The model is the larger of the
story models in $BAYESFT_ASSETS, or in ../shared/assets beside the repository.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
BAYESFT = [sys.executable, "-c", "from bayesft.cli import app; app()"]


def start(command: str, *arguments: str | Path | int) -> subprocess.Popen[str]:
    given = [command, *map(str, arguments)]
    print(f"\n$ bayesft {shlex.join(given)}", flush=True)
    return subprocess.Popen([*BAYESFT, *given], text=True)


def finish(command: str, *arguments: str | Path | int) -> None:
    if code := start(command, *arguments).wait():
        sys.exit(code)


def num_lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n") if path.exists() else 0


def main(steps: int, num_tokens: int, save_every: int, folder: Path) -> None:
    run, guide = folder / "run", folder / "guide"
    target = (
        *("--model", ASSETS / "babyllama361", "--prompt", "Once upon a time"),
        *("--reward", "bayesft.cli.stories:sadness", "--beta", 0.2, "--bounds", "-1,1"),
        *("--max-new-tokens", num_tokens),
    )
    fit = (*target, "--num-samples", 32, "--steps", steps, "--run", run, "--out", guide)
    fit = ("fit", *fit, "--save-every", save_every, "--certify-every", steps // 2)

    killed = start(*fit)
    while num_lines(run / "metrics.jsonl") <= steps // 2:
        if killed.poll() is not None:
            sys.exit("the fit ended before it could be killed")
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    print(f"killed after {num_lines(run / 'metrics.jsonl')} steps")

    finish(*fit, "--resume")
    finish("report", run)
    finish("certify", *target, "--guide", guide, "--repeats", 32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("runs/long"), help="a new folder")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter steps")
    given = parser.parse_args()
    if given.quick:
        main(8, 8, 2, given.folder)
    else:
        main(given.steps, 128, 20, given.folder)
