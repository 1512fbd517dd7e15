"""Distributions of one quantity as histograms side by side, on common axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from bayesft.report.histogram import ASCII_BLOCKS, BLOCKS, bin_masses, column_heights
from bayesft.report.palette import MUTED

MIN_WIDTH = 17
"""Panels narrower than this are stacked instead."""
MAX_WIDTH = 36
"""Wider panels would have more bins than their draws can fill."""
GAP = 3
BIN_WIDTH = 2
"""Characters; narrower bins would show the noise of a few hundred draws."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Values of one quantity under one distribution; without weights they are equally likely."""

    name: str
    style: str
    values: Float[np.ndarray, " N"]
    weights: Float[np.ndarray, " N"] | None = None

    @property
    def mean(self) -> float:
        """Weighted mean; NaN where there is no weight."""
        values = np.asarray(self.values, float)
        weights = np.ones(len(values)) if self.weights is None else np.asarray(self.weights, float)
        return float(weights @ values / weights.sum()) if weights.sum() > 0 else float("nan")


@dataclasses.dataclass(frozen=True)
class Panels:
    """One histogram per sample, all with the same bins and the same scale.

    Behind each but the first stands a ghost of the one before it, so that the eye sees what moved.
    `bounds` are the ends of the common axis.
    """

    samples: Sequence[Sample]
    bounds: tuple[float, float]
    quantity: str = "reward"
    num_rows: int = 8

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        per_line = len(self.samples)
        while per_line > 1 and _panel_width(options.max_width, per_line) < MIN_WIDTH:
            per_line -= 1
        width = min(max(_panel_width(options.max_width, per_line), BIN_WIDTH), MAX_WIDTH)
        width -= width % BIN_WIDTH
        panels = list(self._panels(width, options.ascii_only))
        for first in range(0, len(panels), per_line):
            for row in zip(*panels[first : first + per_line], strict=True):
                for column, text in enumerate(row):
                    yield Segment(" " * GAP if column else "")
                    yield from text.render(console)
                yield Segment.line()
            yield from [Segment.line()] if first + per_line < len(panels) else []

    def _panels(self, width: int, ascii_only: bool) -> Iterator[list[Text]]:
        edges = np.linspace(*self.bounds, width // BIN_WIDTH + 1)
        masses = [bin_masses(sample.values, edges, sample.weights) for sample in self.samples]
        peak = max((float(each.max()) for each in masses), default=0.0)
        heights = [column_heights(each, peak, self.num_rows) for each in masses]
        behind = [[0] * (len(edges) - 1), *heights[:-1]]
        for sample, height, ghost in zip(self.samples, heights, behind, strict=True):
            yield [
                Text(sample.name[:width].ljust(width), style=f"bold {sample.style}"),
                *_picture(height, ghost, self.num_rows, sample.style, ascii_only),
                *self._axis(sample, width, ascii_only),
            ]

    def _axis(self, sample: Sample, width: int, ascii_only: bool) -> Iterator[Text]:
        low, high = self.bounds
        line = ["-" if ascii_only else "─"] * width
        mean = sample.mean
        caption = f"mean {self.quantity} {mean:+.2f}"
        axis = Text("".join(line), style=MUTED)
        if np.isfinite(mean):
            at = min(int((np.clip(mean, low, high) - low) / (high - low) * width), width - 1)
            axis = Text.assemble(
                ("".join(line[:at]), MUTED),
                ("^" if ascii_only else "▲", f"bold {sample.style}"),
                ("".join(line[at + 1 :]), MUTED),
            )
        yield axis
        yield Text(_labels(low, high, width), style=MUTED)
        yield Text(caption[:width].center(width), style=sample.style)


def _labels(low: float, high: float, width: int) -> str:
    """Both ends of the axis, and 0 where it lies well between them."""
    left, right = f"{low:+g}", f"{high:+g}"
    line = list(left + right.rjust(width - len(left)))
    zero = round(-low / (high - low) * width)
    if len(left) + 1 < zero < width - len(right) - 1:
        line[zero] = "0"
    return "".join(line)


def _panel_width(total: int, num_panels: int) -> int:
    return (total - GAP * (num_panels - 1)) // num_panels


def _picture(
    heights: list[int], ghost: list[int], num_rows: int, style: str, ascii_only: bool
) -> Iterator[Text]:
    """Rows from the top; a cell that the columns leave empty shows the ghost, if there is one."""
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    shade = "." if ascii_only else "░"
    for row in reversed(range(num_rows)):
        text = Text()
        for height, before in zip(heights, ghost, strict=True):
            filled = min(max(height - 8 * row, 0), 8)
            if blocks[filled] != " ":
                text.append(blocks[filled] * BIN_WIDTH, style)
            elif before - 8 * row >= 4:
                text.append(shade * BIN_WIDTH, MUTED)
            else:
                text.append(" " * BIN_WIDTH)
        yield text
