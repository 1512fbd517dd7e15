"""JSON lines, one record per step, that survive a killed process and a resumed run."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from bayesft.errors import RunError, RunWarning
from bayesft.track.config import text as _text


class Lines:
    """A file that records are appended to as whole lines.

    A record that cannot be written whole, on a full disk say, is left out: a RunWarning says so
    once, and later records are tried again. What a killed process leaves is whole lines and at most
    a torn one at the end, which is cut off before the next record.
    """

    def __init__(self, path: Path):
        self.path = path
        self._whole = False  # whether the file is known to end with a whole line
        self._failing = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Write the record; when this returns it is with the operating system, or left out."""
        line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
        whole, self._whole = self._whole, False
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END) if whole else _end_of_lines(self.path)
                file.truncate(end)
                try:
                    _write(file, line.encode())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            if not self._failing:
                warn_unwritten(self.path, error)
            self._failing = True
            return
        self._whole, self._failing = True, False


def warn_unwritten(path: Path, error: OSError) -> None:
    """Say that the fit goes on without what belongs into a file."""
    warnings.warn(
        f"{path} cannot be written; the fit goes on, and what belongs there is left out until it "
        f"can: {error.strerror or error}",
        RunWarning,
        stacklevel=4,
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file in order of their steps; those of a resumed run replace older ones.

    A record puts an end to all before it of the same step or a later one: those are of a process
    that was killed after the checkpoint from which the run went on. A torn last line is ignored.
    Raises RunError for any other line that is not a record, and for a file that cannot be read.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}.", remedy="name the folder of a run."
        ) from error
    kept: list[dict[str, Any]] = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        record = _record(line, path, number)
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not _is_step(record.get("step")):
        raise RunError(
            f"Line {number} of {path} is not a record of a step.",
            cause="the file was edited, or another program writes to it.",
            remedy='every line is a JSON object with a whole number as "step": delete this one.',
        )
    return record


def _is_step(step: Any) -> bool:
    """Steps are counted in floats where curves are drawn."""
    return isinstance(step, int) and not isinstance(step, bool) and abs(step) < 2**53


def _write(file: FileIO, data: bytes) -> None:
    """All of it, or OSError: a write of the operating system may take a part alone."""
    while data:
        count = file.write(data)
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[count:]


def _end_of_lines(path: Path) -> int:
    """Where the last whole line ends, in bytes."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            if (at := file.read(position - start).rfind(b"\n")) >= 0:
                return start + at + 1
            position = start
    return 0


def _plain(value: Any) -> Any:
    """Eight significant digits, more than float32 holds; whole numbers, such as counts, in full.

    JSON has no infinity and no NaN, and UTF-8 no lone surrogates.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if value.is_integer() else float(f"{value:.8g}")
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(str(name)): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
