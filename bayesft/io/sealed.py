"""Folders `step-…` of a run's states, each sealed by `step-….json` once it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bayesft.base import Notes
from bayesft.errors import CheckpointWarning, ModelError
from bayesft.io.files import read_json

_STEP = r"step-(\d{8}|[1-9]\d{8,})"
_SEAL = re.compile(rf"{_STEP}\.json")
_UNFINISHED = re.compile(rf"{_STEP}(|\.json\.new|\.orbax-checkpoint-tmp)")
"""Names as they are given here, to the letter: others' files may lie in the folder too."""
_HISTORY = "history.jsonl"


class Damage(Exception):
    """A state's files are not what they were when it was sealed."""


class States:
    """The states in a folder by step, and the digests that seal them.

    A seal holds what is said about a state, the SHA-256 of every file of it (a flipped bit in an
    array is no error to Orbax), and its own.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps whose states are sealed, in order."""
        found = (_SEAL.fullmatch(path.name) for path in self.folder.glob("step-*.json"))
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> int:
        """The step of the newest state, 0 where there is none."""
        return max(self.steps(), default=0)

    def begin(self, step: int) -> None:
        """Say of arrays that will come that they are being saved, until they are sealed."""
        # Without it, on a full disk, those that are cut short are set aside instead of removed.
        with contextlib.suppress(OSError):
            self._fresh(step).touch()

    def seal(self, step: int, about: Notes, history: str) -> None:
        """Make a folder of arrays, and the history beside them, count as the state after a step, in
        one rename."""
        (self.path(step) / _HISTORY).write_text(history, encoding="utf-8")
        about = plain({**about, "files": digests(self.path(step))})
        fresh = self._fresh(step)
        fresh.write_text(json.dumps({"about": about, "sha256": _digest(about)}, indent=2))
        os.replace(fresh, self._seal(step))

    def history(self, step: int) -> str:
        """What was written beside the arrays of a state."""
        return (self.path(step) / _HISTORY).read_text(encoding="utf-8")

    def verified(self, step: int) -> dict[str, Any]:
        """What was said about a state, if its seal and every file of it are as they were.

        Raises Damage where they are not, and as it comes whatever else keeps them from being read.
        """
        try:
            sealed = read_json(self._seal(step))
        except ModelError as error:
            raise Damage(error.happened) from error
        about = sealed.get("about")
        if not isinstance(about, dict) or _digest(about) != sealed.get("sha256"):
            raise Damage(f"{self._seal(step).name} was changed")
        files = about.get("files", {})
        found = digests(self.path(step))
        for name in sorted(found.keys() | files.keys()):
            if found.get(name) != files.get(name):
                raise Damage(f"{self.path(step).name}/{name} was changed, added or removed")
        if not (self.path(step) / _HISTORY).exists():
            raise Damage(f"{self.path(step).name} has no {_HISTORY}, as if of another version")
        return about

    def remove(self, step: int) -> None:
        """Remove a state, and what a save of it may have left unfinished."""
        self.begin(step)  # cut short here, it is as a save that was
        self._seal(step).unlink(missing_ok=True)  # from here it counts no more
        for path in (self.path(step), self._temporary(step)):
            shutil.rmtree(path, ignore_errors=True)
        self._fresh(step).unlink(missing_ok=True)

    def keep(self, number: int) -> None:
        """Remove all but so many of the newest."""
        with contextlib.suppress(OSError):
            for old in self.steps()[:-number]:
                self.remove(old)

    def set_aside(self, step: int, used: int, damage: Damage) -> None:
        """Out of the way of the state that will be saved after the same step again."""
        self._rename(step, "damaged")
        warnings.warn(
            f"The state after step {step} in {self.folder} is damaged and set aside, that after "
            f"step {used} is used: {damage}",
            CheckpointWarning,
            stacklevel=2,
        )

    def clear_unfinished(self, used: int | None) -> None:
        """Out of the way, too, what a run that was killed while it saved has left.

        What has Orbax's temporary name, or was being saved, was cut short and is removed. Other
        arrays without a seal may be whole (it was lost, or the folder is another's), so they stay
        under another name.
        """
        now = "the fit starts at its first step"
        if used is not None:
            now = f"the state after step {used} is used"
        sealed = self.steps()
        for path in sorted(self.folder.glob("step-*")):
            match = _UNFINISHED.fullmatch(path.name)
            if match is None:
                continue
            step, end = int(match[1]), match[2]
            # In order of names: arrays before what says that they were being saved.
            if end == ".json.new" and path.is_file():
                path.unlink()
                continue
            arrays = not end and step not in sealed
            begun = arrays and self._fresh(step).is_file()
            if (begun or end == ".orbax-checkpoint-tmp") and path.is_dir():
                shutil.rmtree(path)
                done = "was not finished and is removed"
            elif arrays:
                aside = self._rename(step, "unsealed")
                done = f"has no seal, as if it was lost, and is set aside as {aside}"
            else:
                continue
            warnings.warn(
                f"{path.name} in {self.folder} {done}; {now}.", CheckpointWarning, stacklevel=2
            )

    def _rename(self, step: int, why: str) -> str:
        """Rename what there is of a state, replacing nothing; the new name of its arrays."""
        parts, prefix = (self.path(step), self._seal(step)), why
        numbers = itertools.count(2)
        while any(os.path.lexists(path.with_name(f"{prefix}-{path.name}")) for path in parts):
            prefix = f"{why}-{next(numbers)}"
        for path in parts:
            if os.path.lexists(path):
                os.rename(path, path.with_name(f"{prefix}-{path.name}"))
        return f"{prefix}-{parts[0].name}"

    def _seal(self, step: int) -> Path:
        return self.path(step).with_suffix(".json")

    def _fresh(self, step: int) -> Path:
        return self.path(step).with_suffix(".json.new")

    def _temporary(self, step: int) -> Path:
        """Where Orbax writes arrays until they are whole."""
        return self.path(step).with_suffix(".orbax-checkpoint-tmp")


def plain(value: Notes) -> dict[str, Any]:
    """As it will be when it is read."""
    return json.loads(json.dumps(dict(value), default=lambda number: number.tolist()))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in there; none where there is no folder."""
    found = {}
    for path in sorted(_files(folder)):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _files(folder: Path) -> Iterator[Path]:
    # rglob passes over what it may not read, which would then look removed.
    for root, _, names in folder.walk(on_error=_raise) if folder.exists() else ():
        yield from (root / name for name in names)


def _raise(error: OSError) -> None:
    raise error


def _digest(about: Notes) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
