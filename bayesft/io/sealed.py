"""Folders `step-…` of a run's states, each sealed by `step-….json` once it is whole."""

from __future__ import annotations

import contextlib
import hashlib
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

NAME = re.compile(r"step-(\d+)")


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
        found = (NAME.fullmatch(path.stem) for path in self.folder.glob("step-*.json"))
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> int:
        """The step of the newest state, 0 where there is none."""
        return max(self.steps(), default=0)

    def seal(self, step: int, about: Notes) -> None:
        """Make a folder of arrays count as the state after a step, in one rename."""
        sealed = plain({**about, "files": digests(self.path(step))})
        fresh = self.path(step).with_suffix(".json.new")
        fresh.write_text(json.dumps({"about": sealed, "sha256": _digest(sealed)}, indent=1))
        os.replace(fresh, self._seal(step))

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
        found = digests(self.path(step))
        for name in sorted(found.keys() | about["files"].keys()):
            if found.get(name) != about["files"].get(name):
                raise Damage(f"{self.path(step).name}/{name} was changed, added or removed")
        return about

    def remove(self, step: int) -> None:
        self._seal(step).unlink(missing_ok=True)  # from here it counts no more
        for path in self.folder.glob(f"{self.path(step).name}*"):
            shutil.rmtree(path, ignore_errors=True)

    def keep(self, number: int) -> None:
        """Remove all but so many of the newest."""
        with contextlib.suppress(OSError):
            for old in self.steps()[:-number]:
                self.remove(old)

    def set_aside(self, step: int, used: int, damage: Damage) -> None:
        """Out of the way of the state that will be saved after the same step again."""
        for path in (self.path(step), self._seal(step)):
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            if path.exists():
                os.replace(path, aside)
        warnings.warn(
            f"The state after step {step} in {self.folder} is damaged and set aside, that after "
            f"step {used} is used: {damage}",
            CheckpointWarning,
            stacklevel=2,
        )

    def clear_unfinished(self) -> None:
        """Remove what a run that was killed while it saved has left."""
        whole = {self.path(step).name for step in self.steps()}
        for path in sorted(self.folder.glob("step-*")):
            if path.name.removesuffix(".json") in whole:
                continue
            if path.is_dir():
                warnings.warn(
                    f"{path.name} in {self.folder} was not finished and is removed; the state "
                    "before it is used.",
                    CheckpointWarning,
                    stacklevel=2,
                )
                shutil.rmtree(path)
            else:
                path.unlink()

    def _seal(self, step: int) -> Path:
        return self.path(step).with_suffix(".json")


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
