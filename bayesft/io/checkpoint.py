"""A folder for the states of a fit, with a lock that the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import jax

from bayesft.base import Archive, Checkpoint, checked_count
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
    `every` < 1 or `keep` < 2, for what is no whole number, and for no folder.
    """
    if not os.fspath(folder):
        raise CheckpointError(
            "checkpoint('') names no folder.",
            cause="a setting or an environment variable that is empty.",
            remedy="give the path of a folder; that of the current one is '.'.",
        )
    every = checked_count("every", every, CheckpointError)
    keep = checked_count("keep", keep, CheckpointError)
    if keep < 2:
        raise CheckpointError(
            f"checkpoint(keep={keep}) leaves no state to fall back to.",
            remedy="use keep ≥ 2: the newest state may be the one that is damaged.",
        )
    return FolderCheckpoint(Path(folder).absolute(), every, keep)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl  # POSIX; reading models, which imports this room, works elsewhere too

    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read().decode(errors="replace").strip()
            raise CheckpointError(
                f"{folder} is in use by {holder or 'another run'}.",
                cause="two runs with one folder, or a worker process that has outlived its run.",
                remedy="give every run a folder of its own, or wait for that one to end.",
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{folder} cannot be locked against other runs: {error.strerror}.",
                cause="a file system without locks, as some network file systems are.",
                remedy="use a folder on a local disk, or mount that file system with locks.",
            ) from error
        # The lock is what counts; its text, which a full disk does not take, is for people.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def _lock_file(folder: Path) -> FileIO:
    """The file `lock` in a folder, both made where they are missing.

    It has no buffer: what a full disk does not take would be written, and raise, again at its end.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = FileIO(folder / "lock", "a+")
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot hold the states of a fit: {error.strerror}: {error.filename}.",
            cause="it is a file or lies under one, may not be written to, or the disk is full.",
            remedy="give a folder that can be made and written to.",
        ) from error
    file.seek(0)
    return file
