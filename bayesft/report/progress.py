"""Progress of long calls on stderr: a spinner or bar in a terminal, a line per call elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bayesft.fitting.info import StepInfo

QUIET_SECONDS = 30.0
"""Where there is no terminal, a fit says where it is after so long."""


def step_line(info: StepInfo) -> str:
    """Where a fit is: objective, reward, KL, ESS and tokens per second, those that it has."""
    parts = [f"{info.step + 1}/{info.num_steps}", f"{info.value:+.3f} nats"]
    for name, shown in (
        ("reward", "reward {:+.3f}"),
        ("kl", "KL {:.2f}"),
        ("ess_share", "ESS {:.0%}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
    ):
        if name in info.scalars:
            parts.append(shown.format(info.scalars[name]))
    return "  ".join(parts)


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
            said = time.perf_counter()

            def callback(info: StepInfo) -> None:
                nonlocal said
                progress.update(task, completed=info.step + 1, value=step_line(info))
                if not self.console.is_terminal and time.perf_counter() - said > QUIET_SECONDS:
                    said = time.perf_counter()
                    self.note(f"{what}  {step_line(info)}")

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
