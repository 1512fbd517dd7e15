"""A run as a folder: configuration, metrics and completions, to be read by people and programs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from bayesft.base import checked_count
from bayesft.errors import RunError
from bayesft.fitting.info import StepInfo
from bayesft.sharding import is_writer
from bayesft.track.config import config_of, described
from bayesft.track.folder import require_folder
from bayesft.track.lines import Lines, read_lines, warn_unwritten

CONFIG, METRICS, COMPLETIONS = "config.json", "metrics.jsonl", "completions.jsonl"


class RunFolder:
    """A callback of `bft.fit` that writes into a folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], every: int, num: int):
        self.folder, self.config, self.every, self.num = folder, config, every, num
        self._metrics, self._completions = (Lines(folder / name) for name in (METRICS, COMPLETIONS))
        self._started = self._failing = False
        self._unwritten: str | None = None

    def __call__(self, info: StepInfo) -> None:
        if not is_writer():
            return
        if not self._started:
            # With the first step, when the fit has found the folder's states to be its own.
            self._unwritten, self._started = self._text(goes_on=info.step > 0), True
        self._write_config()
        if info.due(self.every) and (rows := info.completions(self.num)):
            shown = [dataclasses.asdict(row) for row in rows]
            self._completions.append({"step": info.step, "completions": shown})
        when = {"step": info.step, "time": int(time.time())}
        # A metric of a callback that is called "step" does not make the line unreadable.
        self._metrics.append({**when, **info.scalars, **when})

    def _text(self, goes_on: bool) -> str:
        environment = _environment()
        if goes_on:
            environment["resumed"] = environment.pop("started")
            with contextlib.suppress(RunError):  # the file is written anew
                earlier = _read_config(self.folder / CONFIG).get("environment")
                if isinstance(earlier, dict) and "started" in earlier:
                    environment["started"] = earlier["started"]
        # Of the environment too: arguments of a command need not be text.
        found = {"config": self.config, "environment": described(environment)}
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"

    def _write_config(self) -> None:
        """All or nothing; where the disk is full, with a later step."""
        if self._unwritten is None:
            return
        path = self.folder / CONFIG
        fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
        try:
            fresh.write_text(self._unwritten, encoding="utf-8")
            fresh.replace(path)
            self._unwritten = None
        except OSError as error:
            if not self._failing:
                warn_unwritten(path, error)
            self._failing = True
            with contextlib.suppress(OSError):
                fresh.unlink()


def run(
    folder: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    completions_every: int = 10,
    num_completions: int = 8,
) -> RunFolder:
    """A callback that writes a run into a folder, which `bayesft report FOLDER` makes a page of.

    `metrics.jsonl` has a line per step, `completions.jsonl` one with `num_completions` completions
    for the first, every `completions_every`-th and the last step, and `config.json` the `config`
    (a mapping, Namespace or dataclass as it is now, of any values; what JSON lacks as it prints)
    and the versions and devices in use. Lines are whole when the process is killed, and null where
    a number is infinite or NaN. A run that goes on from a checkpoint appends to the same folder;
    `read_run` gives the last line of every step.

    Raises RunError where the folder cannot be written, the config is none, `completions_every` is
    below 1 or `num_completions` below 0. Where a full disk shows during the fit, a RunWarning says
    so and the fit goes on.
    """
    every = checked_count("completions_every", completions_every, RunError)
    num = checked_count("num_completions", num_completions, RunError, least=0)
    found = config_of(config)
    return RunFolder(require_folder(folder, (CONFIG, METRICS, COMPLETIONS)), found, every, num)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder holds: records in order of their steps."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    completions: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """The metrics that any step has, in order of appearance; what is no number is none."""
        found = {
            name: None for record in self.metrics for name in record if is_metric(record[name])
        }
        return [name for name in found if name not in ("step", "time")]

    def curve(self, name: str) -> tuple[Int[np.ndarray, " S"], Float[np.ndarray, " S"]]:
        """The steps that have the metric, and its values; NaN where it was not finite."""
        have = [record for record in self.metrics if name in record and is_metric(record[name])]
        values = [np.nan if record[name] is None else record[name] for record in have]
        return np.asarray([record["step"] for record in have], int), np.asarray(values, float)


def read_run(folder: str | Path) -> Run:
    """What `run` wrote; also while the run goes on.

    Raises RunError where there is no run, no step yet, or a line that is no record.
    """
    try:
        folder = Path(folder)
        found = (folder / METRICS).is_file()
    except (OSError, TypeError) as error:
        raise RunError(
            f"{folder} cannot be looked into: {error}.",
            cause="a place without permission, or something that is no path.",
            remedy="name the folder of a run.",
        ) from error
    if not found:
        raise RunError(
            f"There is no run at {folder}: {METRICS} is missing.",
            cause="another folder, a fit without a tracker, or one before its first step.",
            remedy="name a folder that bft.track.run or `bayesft fit --run` wrote.",
        )
    metrics = read_lines(folder / METRICS)
    if not metrics:
        raise RunError(
            f"The run at {folder} has no step yet.",
            cause="it failed before its first step, or is still compiling.",
            remedy="wait for the first step.",
        )
    written = _read_config(folder / CONFIG)
    completions = folder / COMPLETIONS
    return Run(
        folder,
        _mapping(written, "config"),
        _mapping(written, "environment"),
        metrics,
        read_lines(completions) if completions.exists() else [],
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read.",
            cause="it was edited and is no JSON.",
            remedy="mend or delete it.",
        ) from error
    return written if isinstance(written, dict) else {}


def _mapping(written: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a configuration; one that was edited and has no names gets that of the part."""
    found = written.get(name)
    if isinstance(found, dict):
        return found
    return {} if found is None else {name: found}


def is_metric(value: Any) -> bool:
    """Whether a curve can hold it: a number that floats reach, or null."""
    if isinstance(value, int):
        return abs(value) < 2**1023
    return value is None or isinstance(value, float)


def _environment() -> dict[str, Any]:
    try:
        own = version("bayesft")
    except PackageNotFoundError:  # run from a source folder
        own = "not installed"
    devices = jax.devices()
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(sys.argv),
        "bayesft": own,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "devices": f"{len(devices)} × {devices[0].device_kind}",
    }
