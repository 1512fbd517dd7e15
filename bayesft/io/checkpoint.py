"""A folder for the states of a fit, with a lock that the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from bayesft.base import Archive, Checkpoint
from bayesft.errors import CheckpointError
from bayesft.io.archive import FolderArchive
from bayesft.sharding import agreed, num_processes


@dataclasses.dataclass(frozen=True)
class FolderCheckpoint(Checkpoint):
    """A folder of states, the newest `keep` of those saved every `every` steps.

    Several processes of one fit have it together: process 0 holds the lock.
    """

    folder: Path
    every: int
    keep: int

    @contextmanager
    def opened(self) -> Iterator[Archive]:
        if num_processes() < jax.process_count():
            raise CheckpointError(
                f"{jax.process_count()} processes would each write to {self.folder}.",
                cause="a fit without mesh=: every process fits by itself.",
                remedy="give mesh=, so that they fit one guide together.",
            )
        with contextlib.ExitStack() as stack:
            agreed(lambda: stack.enter_context(_locked(self.folder)))
            archive = FolderArchive(self.folder, self.every, self.keep)
            yield stack.enter_context(contextlib.closing(archive))

    def __str__(self) -> str:
        return str(self.folder)


def checkpoint(folder: str | os.PathLike[str], every: int = 100, keep: int = 3) -> FolderCheckpoint:
    """A folder in which `bft.fit` keeps its state every `every` steps, and when it ends.

    The newest `keep` states stay. Arrays are written by Orbax while the fit goes on, and a state
    counts once the digests of its files are written beside it, in one rename. One run at a time has
    the folder. What is read from it is arrays and JSON, never code. Raises CheckpointError for
    `every` < 1 or `keep` < 2.
    """
    if every < 1 or keep < 2:
        raise CheckpointError(
            f"checkpoint(every={every}, keep={keep}) leaves no state to fall back to.",
            remedy="use every ≥ 1, and keep ≥ 2: the newest state may be the one that is damaged.",
        )
    return FolderCheckpoint(Path(folder).absolute(), int(every), int(keep))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl  # POSIX; reading models, which imports this room, works elsewhere too

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise CheckpointError(
                f"{folder} is in use by {file.read().strip() or 'another run'}.",
                cause="two runs with one folder, or a worker process that has outlived its run.",
                remedy="give every run a folder of its own, or wait for that one to end.",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
