"""JSON lines, one record per step, that survive a killed process and a resumed run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesft.errors import RunError


class Lines:
    """A file that records are appended to, each in one write of one whole line.

    What a killed process leaves is whole lines and at most a torn one at the end, which is cut off
    when the file is opened again. Raises RunError where the file cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("ab") as file:
                file.truncate(_end_of_lines(path))
        except OSError as error:
            raise RunError(
                f"{path} cannot be written: {error.strerror}.",
                cause="a folder of someone else's, a full disk, or a folder of that name.",
                remedy="name another folder.",
            ) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write the record; when this returns it is with the operating system."""
        line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())


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
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise RunError(
            f"Line {number} of {path} is not a record of a step.",
            cause="the file was edited, or another program writes to it.",
            remedy='every line is a JSON object with a whole number as "step": delete this one.',
        )
    return record


def _end_of_lines(path: Path) -> int:
    """Where the last whole line ends, in bytes."""
    with path.open("rb") as file:
        position = file.seek(0, 2)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            if (at := file.read(position - start).rfind(b"\n")) >= 0:
                return start + at + 1
            position = start
    return 0


def _plain(value: Any) -> Any:
    """Eight significant digits, more than float32 holds; whole numbers, such as counts, in full.

    JSON has no infinity and no NaN.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if value.is_integer() else float(f"{value:.8g}")
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
