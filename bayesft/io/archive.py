"""The states in a folder: written while the fit goes on, checked before they are read."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import warnings
from pathlib import Path
from typing import Any

import jax

from bayesft.base import Archive, Notes, PyTree
from bayesft.errors import CheckpointError, CheckpointWarning
from bayesft.io import leaves
from bayesft.io.sealed import Damage, States, plain
from bayesft.sharding import agreed, is_writer, num_processes

SECONDS = 60.0
"""How long a process that fails waits for the others to fail alike."""


class FolderArchive(Archive):
    """States whose arrays Orbax writes and reads, sealed once they are whole.

    Several processes write and read arrays together, each its shares; process 0 alone seals,
    verifies and removes, and what it finds is what all of them go by.
    """

    def __init__(self, folder: Path, every: int, keep: int):
        # Orbax takes a second to import, and most fits save nothing.
        import orbax.checkpoint

        self.every, self.keep = every, keep
        self._states = States(folder)
        self._orbax = orbax.checkpoint
        self._num_processes = num_processes()
        # Processes meet under names, each of which serves once: this one, and a number.
        self._name, self._numbers = agreed(lambda: secrets.token_hex(8)), itertools.count()
        self._commit: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None

    def due(self, step: int) -> bool:
        if self._commit is not None and not self._commit.is_alive():
            self._finish()  # so that a failure is said soon
        return step % self.every == 0

    def save(self, step: int, state: PyTree, settings: Notes, history: str) -> None:
        self._finish()
        about = {"step": step, "settings": dict(settings), "leaves": leaves.described(state)}
        arrays = self._orbax.args.StandardSave(self._arrays(state))
        writer = self._checkpointer()
        if is_writer():
            self._states.begin(step)
        try:
            writer.save(self._states.path(step), args=arrays, force=True)
        except Exception as error:
            self._failure = step, error
            with contextlib.suppress(Exception):
                writer.close()
            self._finish()
            return
        self._commit = threading.Thread(target=self._seal, args=(writer, step, about, history))
        self._commit.start()

    def _seal(self, writer: Any, step: int, about: Notes, history: str) -> None:
        """Wait for the arrays of all processes, make them count, and drop the oldest."""
        try:
            with contextlib.closing(writer):
                writer.wait_until_finished()
            if is_writer():
                self._states.seal(step, about, history)
        except Exception as error:
            self._failure = step, error
            return
        if is_writer():
            self._states.keep(self.keep)

    def _finish(self) -> None:
        """Wait for what this process has under way, and say so if it failed."""
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._failure is None:
            return
        (step, error), self._failure = self._failure, None
        if is_writer():
            self._states.remove(step)
        warnings.warn(
            f"The state after step {step} is not saved in {self._states.folder}; the fit goes on, "
            f"and what was saved before stays: {_first_line(error)}",
            CheckpointWarning,
            stacklevel=3,
        )

    def wait(self) -> int:
        self._finish()
        return agreed(self._states.newest)

    def meet(self, where: str) -> bool:
        if self._num_processes == 1:
            return True
        meeting = self._orbax.multihost.get_barrier_sync_fn()
        try:
            meeting(key=f"{self._name} {where}", timeout_ms=int(1000 * SECONDS))
        except jax.errors.JaxRuntimeError:
            return False
        return True

    def close(self) -> None:
        self._finish()

    def restore(self, like: PyTree, settings: Notes) -> tuple[PyTree, str] | None:
        chosen = agreed(lambda: self._chosen(like, settings))
        if chosen is None:
            return None
        step, history = chosen
        wanted = self._orbax.args.StandardRestore(self._arrays(like))
        with contextlib.closing(self._checkpointer()) as reader:
            found = reader.restore(self._states.path(step), args=wanted)
        return leaves.rebuilt(like, found), history

    def _chosen(self, like: PyTree, settings: Notes) -> tuple[int, str] | None:
        """The step of the newest state that is whole, and its history."""
        damaged: dict[int, Damage] = {}
        for step in reversed(self._states.steps()):
            try:
                about = self._states.verified(step)
                if not {"settings", "leaves"} <= about.keys():
                    raise Damage(f"the seal of step {step} says nothing of the fit")
            except Damage as damage:
                damaged[step] = damage
                continue
            self._require_same(about, like, settings)  # before anything is moved
            for each, damage in damaged.items():
                self._states.set_aside(each, step, damage)
            self._states.clear_unfinished(step)
            return step, self._states.history(step)
        if damaged:
            step, damage = next(iter(damaged.items()))
            raise CheckpointError(
                f"None of the states in {self._states.folder} is whole; that after step {step}: "
                f"{damage}",
                cause="files were changed, cut or removed.",
                remedy="restore them from a copy; to start from the first step, use a new folder.",
            )
        self._states.clear_unfinished(None)
        return None

    def _require_same(self, about: Notes, like: PyTree, settings: Notes) -> None:
        for part, now in (("settings", settings), ("leaves", leaves.described(like))):
            then, now = about[part], plain(now)
            for name in [*now, *(name for name in then if name not in now)]:
                if then.get(name) != now.get(name):
                    raise CheckpointError(
                        f"The states in {self._states.folder} are of another fit: {name} was "
                        f"{then.get(name, 'absent')} and is {now.get(name, 'absent')} now.",
                        cause="the folder was used before, with other arguments.",
                        remedy="use a folder for every fit, or the arguments as they were.",
                    )

    def _arrays(self, tree: PyTree) -> dict[str, Any]:
        found = leaves.arrays(tree)
        return found if self._num_processes == 1 else leaves.for_all(found)

    def _checkpointer(self) -> Any:
        """What writes or reads one state: a failure leaves nothing behind for the next."""
        if self._num_processes == 1:
            return self._orbax.AsyncCheckpointer(self._orbax.StandardCheckpointHandler())
        options = self._orbax.options
        # Named processes meet at the coordinator, which has a time limit; others by a collective of
        # their devices, which has none.
        processes = options.MultiprocessingOptions(
            active_processes=set(range(self._num_processes)),
            barrier_sync_key_prefix=f"{self._name} {next(self._numbers)}",
        )
        return self._orbax.AsyncCheckpointer(
            self._orbax.StandardCheckpointHandler(multiprocessing_options=processes),
            multiprocessing_options=processes,
            # Those made in the background are announced under a number that a failure would put out
            # of step.
            async_options=options.AsyncOptions(create_directories_asynchronously=False),
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
