"""Completions of a step as a table on the console."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bayesft.base import checked_count
from bayesft.errors import RunError
from bayesft.fitting.completions import Completion
from bayesft.fitting.info import StepInfo
from bayesft.sharding import is_writer

HEADLINE = {"reward": "reward", "kl": "KL", "ess_share": "ESS"}
MAX_CHARACTERS = 400
CONTROLS = dict.fromkeys([*range(32), *range(127, 160)], "·")
"""What a terminal would obey rather than show."""


class CompletionsTable:
    """A callback of `bft.fit` that prints what the guide says."""

    def __init__(self, every: int, num: int, console: Console):
        self.every, self.num, self.console = every, num, console

    def __call__(self, info: StepInfo) -> None:
        if is_writer() and info.due(self.every) and (rows := info.completions(self.num)):
            self.console.print(completions_table(rows, headline(info)))


def completions(every: int = 10, num: int = 4, console: Console | None = None) -> CompletionsTable:
    """A callback that prints `num` completions of the first, every `every`-th and the last step.

    They are the step's first ones, not its best ones, each with its rewards, log φ and
    log q − log π0 in nats. Nothing is decoded in between. Without a console it is stderr.

    Raises RunError for an `every` below 1, a `num` below 0, and what is no console of `rich`.
    """
    if not isinstance(console, Console | None):
        raise RunError(
            f"console={console!r} is no console.",
            cause="a file or stream.",
            remedy="pass rich.console.Console(file=...).",
        )
    every = checked_count("every", every, RunError)
    num = checked_count("num", num, RunError, least=0)
    return CompletionsTable(every, num, console or Console(stderr=True, highlight=False))


def completions_table(rows: Sequence[Completion], title: str = "") -> Table:
    """Completions under one another, with what they were given."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title=Text(title, style="bold"),
        title_justify="left",
        padding=(0, 1),
        expand=True,
    )
    if any(row.prompt for row in rows):
        table.add_column("prompt", ratio=1, style="dim")
    table.add_column("completion", ratio=3)
    rewards = list(rows[0].rewards)
    scored = rows[0].log_ratio is not None
    for name in [*rewards, *(("log φ", "log q/π₀") if scored else ())]:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        cells = [Text(_one_line(row.text))]
        if any(other.prompt for other in rows):
            cells.insert(0, Text(_one_line(row.prompt)))
        numbers = [row.rewards[name] for name in rewards]
        numbers += [row.log_evidence, row.log_ratio] if scored else []
        table.add_row(*cells, *map(_signed, numbers))
    return table


def headline(info: StepInfo) -> str:
    """The step with its objective and, where there are any, reward, KL and ESS."""
    parts = [f"step {info.step + 1}/{info.num_steps}", f"objective {info.value:+.3f}"]
    parts += [
        f"{label} {info.metrics[name]:.1%}"
        if name == "ess_share"
        else f"{label} {info.metrics[name]:+.3f}"
        for name, label in HEADLINE.items()
        if name in info.metrics
    ]
    return "  ".join(parts)


def _signed(number: float | None) -> str:
    if number is None or math.isnan(number):
        return "–"
    return f"{number:+.2f}" if abs(number) >= 0.005 else "0.00"


def _one_line(text: str) -> str:
    line = " ".join(text.split()).translate(CONTROLS)
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"
