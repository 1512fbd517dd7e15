"""The states in a folder: written while the fit goes on, checked before they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

from bayesft.base import Archive, Notes, PyTree
from bayesft.errors import CheckpointError, CheckpointWarning
from bayesft.io import leaves
from bayesft.io.files import read_json

NAME = re.compile(r"step-(\d+)")


class FolderArchive(Archive):
    """Folders `step-…` of arrays (Orbax), each whole once `step-….json` is beside it.

    That file holds the step, the fit's settings and notes, the leaves' shapes, the SHA-256 of every
    file of arrays (a flipped bit in an array is no error to Orbax), and its own.
    """

    def __init__(self, folder: Path, every: int, keep: int):
        # Orbax takes a second to import, and most fits save nothing.
        import orbax.checkpoint

        self.folder, self.every, self.keep = folder, every, keep
        self._orbax = orbax.checkpoint
        self._writer = self._new_writer()
        self._commit: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None

    def _new_writer(self) -> Any:
        return self._orbax.AsyncCheckpointer(self._orbax.StandardCheckpointHandler())

    def due(self, step: int) -> bool:
        if self._commit is not None and not self._commit.is_alive():
            self.wait()  # so that a failure is said soon
        return step % self.every == 0

    def save(self, step: int, state: PyTree, settings: Notes, notes: Notes) -> None:
        self.wait()
        about = {
            "step": step,
            "settings": dict(settings),
            "leaves": leaves.described(state),
            "notes": dict(notes),
        }
        arrays = self._orbax.args.StandardSave(leaves.arrays(state))
        try:
            self._writer.save(self._path(step), args=arrays, force=True)
        except Exception as error:
            self._failure = step, error
            self.wait()
            return
        self._commit = threading.Thread(target=self._finish, args=(step, about))
        self._commit.start()

    def _finish(self, step: int, about: dict[str, Any]) -> None:
        """Wait for the arrays, write what makes the state count, and drop the oldest."""
        try:
            self._writer.wait_until_finished()
            about["files"] = _digests(self._path(step))
            about = _plain(about)
            fresh = self._path(step).with_suffix(".json.new")
            fresh.write_text(json.dumps({"about": about, "sha256": _digest(about)}, indent=1))
            os.replace(fresh, self._path(step).with_suffix(".json"))
        except Exception as error:
            self._failure = step, error
            return
        with contextlib.suppress(OSError):
            for old in self._steps()[: -self.keep]:
                self._remove(old)

    def wait(self) -> int:
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._failure is not None:
            (step, error), self._failure = self._failure, None
            self._remove(step)
            self._writer = self._new_writer()
            warnings.warn(
                f"The state after step {step} is not saved in {self.folder}; the fit goes on, and "
                f"what was saved before stays: {_first_line(error)}",
                CheckpointWarning,
                stacklevel=2,
            )
        return max(self._steps(), default=0)

    def restore(self, like: PyTree, settings: Notes) -> tuple[PyTree, Notes] | None:
        self._clear_unfinished()
        damaged: dict[int, Exception] = {}
        for step in reversed(self._steps()):
            try:
                about = self._verified(step)
                self._require_same(about, like, settings)
                state = self._read(step, like)
            except CheckpointError:
                raise
            except Exception as error:  # whatever a damaged file makes of its reader
                damaged[step] = error
                continue
            for each, error in damaged.items():
                self._set_aside(each, step, error)
            return state, about["notes"]
        if damaged:
            step, error = next(iter(damaged.items()))
            raise CheckpointError(
                f"None of the states in {self.folder} is whole; that after step {step}: "
                f"{_first_line(error)}",
                cause="files were changed, cut or removed.",
                remedy="restore them from a copy; to start from the first step, use a new folder.",
            )
        return None

    def _verified(self, step: int) -> dict[str, Any]:
        """What was written about a step, if it and every file of the step are as they were."""
        path = self._path(step)
        sealed = read_json(path.with_suffix(".json"))
        about = sealed["about"]
        if _digest(about) != sealed["sha256"]:
            raise ValueError(f"{path.with_suffix('.json').name} was changed")
        found = _digests(path)
        for name in sorted(found.keys() | about["files"].keys()):
            if found.get(name) != about["files"].get(name):
                raise ValueError(f"{path.name}/{name} was changed, added or removed")
        return about

    def _require_same(self, about: Notes, like: PyTree, settings: Notes) -> None:
        for part, now in (("settings", settings), ("leaves", leaves.described(like))):
            then, now = about[part], _plain(now)
            for name in [*now, *(name for name in then if name not in now)]:
                if then.get(name) != now.get(name):
                    raise CheckpointError(
                        f"The states in {self.folder} are of another fit: {name} was "
                        f"{then.get(name, 'absent')} and is {now.get(name, 'absent')} now.",
                        cause="the folder was used before, with other arguments.",
                        remedy="use a folder for every fit, or the arguments as they were.",
                    )

    def _read(self, step: int, like: PyTree) -> PyTree:
        wanted = self._orbax.args.StandardRestore(leaves.arrays(like))
        return leaves.rebuilt(like, self._writer.restore(self._path(step), args=wanted))

    def _set_aside(self, step: int, used: int, error: Exception) -> None:
        """Out of the way of the state that will be saved after the same step again."""
        for path in (self._path(step), self._path(step).with_suffix(".json")):
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            if path.exists():
                os.replace(path, aside)
        warnings.warn(
            f"The state after step {step} in {self.folder} is damaged and set aside, that after "
            f"step {used} is used: {_first_line(error)}",
            CheckpointWarning,
            stacklevel=2,
        )

    def _clear_unfinished(self) -> None:
        """Remove what a run that was killed while it saved has left."""
        whole = {self._path(step).name for step in self._steps()}
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

    def _steps(self) -> list[int]:
        """The steps whose states are saved, in order."""
        found = (NAME.fullmatch(path.stem) for path in self.folder.glob("step-*.json"))
        return sorted(int(match[1]) for match in found if match)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _remove(self, step: int) -> None:
        self._path(step).with_suffix(".json").unlink(missing_ok=True)  # from here it counts no more
        for path in self.folder.glob(f"{self._path(step).name}*"):
            shutil.rmtree(path, ignore_errors=True)


def _plain(value: Notes) -> dict[str, Any]:
    """As it will be when it is read."""
    return json.loads(json.dumps(dict(value), default=lambda number: number.tolist()))


def _digest(about: Notes) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in there."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
