"""Peers on torch, each in a process and a throwaway environment of its own.

A peer is a script that loads, prints one line, and then answers every line on its standard input
with one line of JSON. Alternating the two sides in one run makes their ratio robust to drift.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = (("torch==2.13.0",), ("trl==1.16.*",))
THREADS = os.cpu_count() or 1


def environment() -> Path:
    """The interpreter of the peers' environment; made on first use (Python 3.11, CPU torch)."""
    folder = Path(os.environ.get("BAYESFT_PEERS", Path(tempfile.gettempdir()) / "bayesft-peers"))
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    base = shutil.which("python3.11")
    if base is None:
        raise SystemExit("the peers need a python3.11 on the path")
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    for packages in PACKAGES:  # torch first and by version, so that the CPU build is taken
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    (folder / "complete").touch()
    return python


class Peer:
    """A running peer; `ask()` has it do its work once."""

    def __init__(self, script: str, *arguments: str):
        path = Path(__file__).with_name(script)
        self._process = subprocess.Popen(
            [environment(), path, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": ""},
        )
        self._read()

    def ask(self) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"'):  # libraries print other things too
                return json.loads(line)
        raise SystemExit("the peer ended early; its messages are above")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(ours: Callable[[], float], theirs: Callable[[], float], rounds: int = 7):
    """Medians of both sides, measured in turns, after one unmeasured round."""
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    return tuple(statistics.median(side) for side in zip(*pairs, strict=True))


def report(name: str, **numbers: float | str) -> None:
    """Print one result as a line of JSON."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in numbers.items()}
    print(json.dumps({"benchmark": name, **rounded}), flush=True)
