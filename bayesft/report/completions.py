"""Completions of several distributions side by side, each with its reward, log-weight and rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
from jaxtyping import Float
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bayesft.draws import Draws
from bayesft.report.palette import MUTED


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion; `rank` is the place of its log-weight among reference draws, 1 the best."""

    text: str
    reward: float
    log_weight: float
    rank: int


@dataclasses.dataclass(frozen=True)
class Column:
    """Completions of one distribution, under a heading in its colour."""

    name: str
    style: str
    completions: Sequence[Completion]


def first_completions(
    draws: Draws,
    reward_fn: Callable[..., Sequence[float]],
    reference: Float[np.ndarray, " M"],
    num: int,
    prompt: int = 0,
) -> list[Completion]:
    """The first `num` distinct completions of a prompt.

    The log-weight is log φ, what a prior draw weighs; `reference` holds log-weights of prior draws,
    among which the rank is taken. `reward_fn(completions=…)` is asked once.
    """
    texts = draws.text[prompt]
    rows = list({text: row for row, text in reversed(list(enumerate(texts)))}.values())
    rows = sorted(rows)[:num]
    log_weights = np.asarray(draws.log_evidence)[prompt]
    rewards = reward_fn(completions=[texts[row] for row in rows])
    return [
        Completion(
            texts[row],
            float(reward),
            float(log_weights[row]),
            1 + int(np.sum(np.asarray(reference) > log_weights[row])),
        )
        for row, reward in zip(rows, rewards, strict=True)
    ]


def completions_table(
    columns: Sequence[Column],
    num_reference: int,
    highlight: Callable[[str], Text] = Text,
) -> Table:
    """A table with one column per distribution and one completion per cell.

    `num_reference` is the number of prior draws that ranks refer to; `highlight` colours a text.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        expand=True,
        show_edge=False,
        caption=f"rank: by log-weight, among {num_reference} draws of the prior",
        caption_style=MUTED,
        caption_justify="right",
    )
    for column in columns:
        table.add_column(Text(column.name, style=f"bold {column.style}"), ratio=1)
    for row in zip_longest(*(column.completions for column in columns)):
        table.add_row(*(_cell(each, highlight) for each in row))
    return table


def _cell(completion: Completion | None, highlight: Callable[[str], Text]) -> RenderableType:
    if completion is None:
        return ""
    facts = Text.assemble(
        ("reward ", MUTED),
        (f"{completion.reward:+.2f}", "bold"),
        (" log-weight ", MUTED),
        f"{completion.log_weight:+.1f}",
        (" rank ", MUTED),
        f"{completion.rank}",
    )
    text = highlight(" ".join(completion.text.split()))
    return Padding(Group(facts, text), (0, 0, 1, 0))
