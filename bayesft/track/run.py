"""A run as a folder: configuration, metrics and completions, to be read by people and programs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from bayesft.errors import RunError
from bayesft.fitting.info import StepInfo
from bayesft.sharding import is_writer
from bayesft.track.lines import Lines, read_lines
from bayesft.track.schedule import require_every

CONFIG, METRICS, COMPLETIONS = "config.json", "metrics.jsonl", "completions.jsonl"


class RunFolder:
    """A callback of `bft.fit` that writes into a folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], every: int, num: int):
        self.folder, self.config, self.every, self.num = folder, config, every, num
        self._started = False
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def __call__(self, info: StepInfo) -> None:
        if not is_writer():
            return
        if not self._started:
            self._start(goes_on=info.step > 0)
        if info.due(self.every) and (rows := info.completions(self.num)):
            shown = [dataclasses.asdict(row) for row in rows]
            self._completions.append({"step": info.step, "completions": shown})
        self._metrics.append({"step": info.step, "time": int(time.time()), **info.scalars})

    def _start(self, goes_on: bool) -> None:
        # With the first step, when the fit has found the folder's states to be its own.
        path, environment = self.folder / CONFIG, _environment()
        if goes_on:
            environment["resumed"] = environment.pop("started")
            with contextlib.suppress(RunError):  # the file is written anew
                earlier = _read_config(path).get("environment")
                if isinstance(earlier, dict) and "started" in earlier:
                    environment["started"] = earlier["started"]
        with self._writing():
            text = {"config": described(self.config), "environment": environment}
            path.write_text(json.dumps(text, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self._metrics = Lines(self.folder / METRICS)
        self._completions = Lines(self.folder / COMPLETIONS)
        self._started = True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"The folder {self.folder} cannot be written: {error.strerror}.",
                cause="a file of that name, or a place without permission.",
                remedy="name another folder.",
            ) from error


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
    (any values; what JSON lacks as it prints) and the versions and devices in use. Lines are whole
    when the process is killed, and null where a number is infinite or NaN. A run that goes on from
    a checkpoint appends to the same folder; `read_run` gives the last line of every step.

    Raises RunError where the folder cannot be written.
    """
    require_every(completions_every)
    return RunFolder(Path(folder), config or {}, completions_every, num_completions)


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
        """The metrics that any step has, in order of appearance."""
        found = {name: None for record in self.metrics for name in record}
        return [name for name in found if name not in ("step", "time")]

    def curve(self, name: str) -> tuple[Int[np.ndarray, " S"], Float[np.ndarray, " S"]]:
        """The steps that have the metric, and its values; NaN where it was not finite."""
        have = [record for record in self.metrics if name in record]
        values = [np.nan if record[name] is None else record[name] for record in have]
        return np.asarray([record["step"] for record in have], int), np.asarray(values, float)


def read_run(folder: str | Path) -> Run:
    """What `run` wrote; also while the run goes on.

    Raises RunError where there is no run, no step yet, or a line that is no record.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
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
        written.get("config", {}),
        written.get("environment", {}),
        metrics,
        read_lines(completions) if completions.exists() else [],
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read.",
            cause="it was edited and is no JSON.",
            remedy="mend or delete it.",
        ) from error
    return written if isinstance(written, dict) else {}


def described(value: Any) -> Any:
    """A value as JSON can hold it: functions by name, what else JSON lacks as it prints."""
    if isinstance(value, Mapping):
        return {str(name): described(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [described(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic) or (hasattr(value, "shape") and value.shape == ()):
        return described(value.item())
    if isinstance(value, Path):
        return str(value)
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else repr(value)


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
