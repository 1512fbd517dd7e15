"""Keeps the states of a fit: where they are due, when it is asked to end, and when it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax

from bayesft.base import Archive, Checkpoint, Notes
from bayesft.errors import CheckpointError, FitInterrupted
from bayesft.fitting.info import StepInfo
from bayesft.fitting.state import FitState
from bayesft.sharding import any_process, num_processes


class _Terminated(BaseException):
    """SIGTERM came while evidence in Python was waited for; no `except Exception` swallows it."""


_SIGNALS = signal.SIGTERM, signal.SIGINT


@contextlib.contextmanager
def keeping(checkpoint: Checkpoint | None, settings: Notes) -> Iterator[Keeper]:
    """The keeper of a fit's states; it saves the last whole one however the fit ends.

    Meanwhile SIGTERM (in the main thread; a second one does what it did before) ends the fit after
    its step, or at once where it waits for evidence, by FitInterrupted. Ctrl-C does what it did,
    but not before the update under way has ended. Without a checkpoint nothing is saved, and
    signals do what they did.

    Of several processes one that gets SIGTERM ends all after the same step. They save together, so
    that an error saves a state where it comes in all of them alike, and not where it comes in one.
    """
    if checkpoint is None:
        yield Keeper(None, settings)
        return
    if not isinstance(checkpoint, Checkpoint):
        raise CheckpointError(
            f"checkpoint={checkpoint!r} is no checkpoint.",
            cause="the path of a folder was passed.",
            remedy="pass bft.io.checkpoint(folder).",
        )
    with checkpoint.opened() as archive, _on_signals() as termination:
        keeper = Keeper(archive, settings, termination)
        try:
            yield keeper
        except BaseException as error:
            if not isinstance(error, _Terminated):
                if not keeper.started:
                    raise
                if not keeper.all_raise(error):
                    error.add_note(f"Other processes did not raise it: {checkpoint} is as it was.")
                    raise
            num_steps = keeper.end()
            kept = f"The state after {num_steps} steps is in {checkpoint}."
            if not num_steps:
                kept = f"No state is in {checkpoint} yet."
            if isinstance(error, _Terminated):
                raise FitInterrupted(
                    f"SIGTERM ended the fit. {kept}",
                    remedy="call fit with the same arguments to go on.",
                ) from None
            error.add_note(kept)
            raise
        keeper.end()


class Keeper:
    """What keeps the states of one fit."""

    def __init__(
        self, archive: Archive | None, settings: Notes, termination: Termination | None = None
    ):
        self._archive, self._settings, self._termination = archive, settings, termination
        self._last: tuple[FitState, list[StepInfo]] | None = None
        self._saved = 0
        self._lines: list[str] = []
        """The history as JSON, of as many steps as were saved: what was written is not again."""
        self._num_processes = num_processes()

    @property
    def started(self) -> bool:
        """Whether it is known what the fit starts from."""
        return self._last is not None

    def resume(self, state: FitState, num_steps: int) -> tuple[FitState, list[StepInfo]]:
        """The state and history to go on from: what was kept, or else the state given."""
        found = self._archive and self._archive.restore(state, self._settings)
        if found is None:
            self._last = state, []
            return self._last
        state, lines = found
        self._lines = lines.splitlines()
        infos = (StepInfo(**json.loads(line)) for line in self._lines)
        history = [dataclasses.replace(info, num_steps=num_steps) for info in infos]
        if len(history) > num_steps:
            raise CheckpointError(
                f"The kept state is that after {len(history)} steps, and num_steps={num_steps}.",
                cause="fewer steps are asked for than were taken before.",
                remedy="ask for at least as many, or use another folder.",
            )
        self._last, self._saved = (state, history), len(history)
        return state, history

    def steps(self, start: int, stop: int) -> Iterator[int]:
        """The steps to take while nobody asks to end; between them it saves where that is due."""
        self._end_if_asked()
        for step in range(start, stop):
            yield step
            if self._archive is not None and self._archive.due(step + 1):
                self._save_last(self._archive)
            self._end_if_asked()

    def keep(self, state: FitState, history: list[StepInfo]) -> None:
        """Take note of the state after a step, before anything can fail."""
        self._last = state, history

    def all_raise(self, error: BaseException) -> bool:
        """Whether every process has raised such an error after as many steps."""
        if self._archive is None or self._num_processes == 1:
            return True
        step = len(self._last[1]) if self._last else 0
        # Ctrl-C comes to each in the midst of something else.
        where = f"{type(error).__name__} after {step}"
        return isinstance(error, Exception) and self._archive.meet(where)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A wait that SIGTERM may cut short, in one process; several end together, after a step."""
        if self._termination is None or self._num_processes > 1:
            yield
            return
        self._termination.raises = True
        try:
            self._end_if_asked()
            yield
        finally:
            self._termination.raises = False
        self._end_if_asked()  # where what the signal raised was swallowed

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """The time in which the last state is used up and the next one is not whole yet."""
        if self._termination is None:
            yield
            return
        self._termination.holds = True
        try:
            yield
        finally:
            self._termination.holds = False
        self._termination.interrupt()

    def end(self) -> int:
        """Save the last whole state; how many steps had been taken in the one that is kept."""
        if self._archive is None:
            return 0
        self._save_last(self._archive)
        return self._archive.wait()

    def _save_last(self, archive: Archive) -> None:
        if self._last is None:
            return
        state, history = self._last
        leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
        # An update that failed has used up what it was given.
        if len(history) == self._saved or any(leaf.is_deleted() for leaf in leaves):
            return
        # Not from what was saved last: a save that was cut short has these lines already.
        self._lines += map(_line, history[len(self._lines) :])
        archive.save(len(history), state, self._settings, "\n".join(self._lines))
        self._saved = len(history)

    def _end_if_asked(self) -> None:
        came = self._termination is not None and self._termination.came
        if self._archive is not None and any_process(came):
            raise _Terminated


def _line(info: StepInfo) -> str:
    return json.dumps(dataclasses.asdict(info), default=lambda number: number.tolist())


@dataclasses.dataclass
class Termination:
    """Whether SIGTERM came, and whether it may raise where it comes; the same of Ctrl-C."""

    came: bool = False
    raises: bool = False
    holds: bool = False
    interrupt: Callable[[], object] = lambda: None


@contextlib.contextmanager
def _on_signals() -> Iterator[Termination | None]:
    """Take note of the first SIGTERM and Ctrl-C; only the main thread may say what signals do."""
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    termination = Termination()
    previous: dict[int, Any] = {s: signal.getsignal(s) or signal.SIG_DFL for s in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, previous[number])
        if number == signal.SIGINT:
            if termination.holds:
                termination.interrupt = lambda: signal.raise_signal(number)
            else:
                signal.raise_signal(number)
            return
        termination.came = True
        if termination.raises:
            termination.raises = False
            raise _Terminated

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield termination
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
