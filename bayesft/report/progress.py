"""Progress of long calls on stderr: a spinner or bar in a terminal, a line per call elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bayesft.fitting.info import StepInfo


class Reporter:
    """Says what is going on, on a console of its own."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)

    @contextmanager
    def call(self, what: str) -> Iterator[None]:
        """Show that a call is going on."""
        with self._progress() as progress, self._timed(what):
            progress.add_task(what, total=None, value="")
            yield

    @contextmanager
    def fit(self, what: str, num_steps: int) -> Iterator[Callable[[StepInfo], None]]:
        """Show the steps of a fit and its objective; what it yields is a callback of `bft.fit`."""
        with self._progress() as progress, self._timed(what):
            task = progress.add_task(what, total=num_steps, value="")

            def callback(info: StepInfo) -> None:
                value = f"{info.step + 1}/{info.num_steps}  {info.value:+.3f} nats"
                progress.update(task, completed=info.step + 1, value=value)

            yield callback

    def note(self, text: str) -> None:
        """One line of text."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[value]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if not self.console.is_terminal:
            self.note(f"{what}: {time.perf_counter() - started:.1f} s")
