"""Where a long computation keeps its states."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from bayesft.base.distributions import PyTree

type Notes = Mapping[str, Any]
"""What JSON can hold."""


class Checkpoint(abc.ABC):
    """A place for the states of one computation; `bft.io.checkpoint` makes one of a folder."""

    @abc.abstractmethod
    def opened(self) -> AbstractContextManager[Archive]:
        """The place, for one run at a time: CheckpointError where another one has it."""


class Archive(abc.ABC):
    """A place that is open: states by step, the newest ones of which are kept.

    Where several processes compute together, each has it open, and all call `save`, `restore` and
    `wait` in the same order.
    """

    @abc.abstractmethod
    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is one to save."""

    @abc.abstractmethod
    def save(self, step: int, state: PyTree, settings: Notes, history: str) -> None:
        """Begin to save a state, and a line of JSON for every step; it may be donated afterwards.

        Where saving fails the computation goes on, and a CheckpointWarning says so.
        """

    @abc.abstractmethod
    def restore(self, like: PyTree, settings: Notes) -> tuple[PyTree, str] | None:
        """The newest state that is whole, and its history; None where nothing was saved.

        Raises CheckpointError where what was saved has other settings, or other leaves than `like`,
        and where nothing of it is whole.
        """

    @abc.abstractmethod
    def wait(self) -> int:
        """The step of the newest state, once what was to be saved is saved or has failed to be."""

    @abc.abstractmethod
    def meet(self, where: str) -> bool:
        """Whether every process has come to where it says; True where there is one.

        Those that come wait for the others for a while only: one may have failed alone.
        """
