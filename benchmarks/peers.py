"""Peers on torch, each in a process and a throwaway environment of its own.

A peer is a script that loads, prints one line, and then answers every line on its standard input
with one line of JSON. Alternating the two sides in one run makes their ratio robust to drift.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TORCH = ("torch==2.13.0",)  # first and by version, so that the CPU build is taken
PACKAGES = {
    "trl": (TORCH, ("trl==1.16.*", "peft==0.21.2")),
    "smc": (TORCH, ("genlm-control==0.4.1", "llamppl==0.2.3")),
}
THREADS = os.cpu_count() or 1


def environment(kind: str) -> Path:
    """The interpreter of an environment of `PACKAGES`; made on first use (Python 3.11)."""
    peers = Path(os.environ.get("BAYESFT_PEERS", Path(tempfile.gettempdir()) / "bayesft-peers"))
    folder = peers / kind
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    base = shutil.which("python3.11")
    if base is None:
        raise SystemExit("the peers need a python3.11 on the path")
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    for packages in PACKAGES[kind]:
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    (folder / "complete").touch()
    return python


class Peer:
    """A running peer; `ask()` has it do its work once. With `kind=None` it is our own side, in a
    process of its own and in this environment."""

    def __init__(self, script: str, *arguments: str, kind: str | None = "trl"):
        path = Path(__file__).with_name(script)
        own = {"OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": ""} if kind else {}
        self._process = subprocess.Popen(
            [environment(kind) if kind else sys.executable, path, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
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


def cpu_and_wall(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of all threads, user and system, and seconds by the clock."""
    started = time.process_time()
    wall = seconds(work)
    return time.process_time() - started, wall


def in_turns(*works: Callable[[], Any], rounds: int = 7) -> tuple[Any, ...]:
    """Medians of what each work returns, a number or a tuple of them, after an unmeasured round.

    `BAYESFT_ROUNDS` lowers the number of rounds.
    """
    rounds = min(rounds, int(os.environ.get("BAYESFT_ROUNDS", rounds)))
    found = [[work() for work in works] for _ in range(rounds + 1)][1:]
    return tuple(np.median(np.asarray(side), axis=0) for side in zip(*found, strict=True))


def report(name: str, **numbers: float | str) -> None:
    """Print one result as a line of JSON, to four digits."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in numbers.items()}
    print(json.dumps({"benchmark": name, **rounded}), flush=True)
