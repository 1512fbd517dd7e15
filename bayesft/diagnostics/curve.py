"""What a reward–KL frontier says, and how it is printed."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bayesft.diagnostics.tilting import Estimate

MAX_PROMPTS = 4


@dataclasses.dataclass(frozen=True)
class FrontierPoint:
    """Where a distribution lies, per prompt, in nats."""

    name: str
    reward: Estimate
    """E[log φ], [P]."""
    kl: Estimate | None
    """KL from the prior, [P]; None where the draws say nothing about it."""
    kl_bound: float = np.inf
    """A known upper bound of the KL: log n − (n − 1)/n for best-of-n."""


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The optimal curve of P prompts at L exponents λ, and points beside it; in nats."""

    tilts: Float[np.ndarray, " L"]
    reward: Estimate
    """E_λ[log φ] under π_λ ∝ π0·φ^λ, [P, L]."""
    kl: Estimate
    """KL(π_λ ‖ π0), [P, L]."""
    log_z: Estimate
    """log Z_λ, [P, L]; at λ = 1 that of the target."""
    ess: Float[np.ndarray, "P L"]
    trusted: Bool[np.ndarray, "P L"]
    """Whether enough effective draws stand behind a point of the curve and its error, k̂ ≤ 0.7."""
    points: Sequence[FrontierPoint]
    level: float
    num_samples: int
    prompts: Sequence[Any]
    notes: Sequence[str]

    def ceiling(self, kl: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """Reward that no distribution at this KL from the prior exceeds, [P].

        min over the trusted λ > 0 of (KL + log Z_λ)/λ: tangents of the optimal curve, of which each
        is an upper limit by itself, as 0 ≤ KL(q ‖ π_λ) = KL(q ‖ π0) − λ·E_q[log φ] + log Z_λ.
        Infinite where no λ is trusted.
        """
        usable = self.trusted & (self.tilts > 0)
        slope = np.where(self.tilts > 0, self.tilts, 1.0)
        tangents = (np.asarray(kl)[:, None] + self.log_z.value) / slope
        return np.where(usable, tangents, np.inf).min(-1)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(self)
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        for row in range(min(len(self.prompts), MAX_PROMPTS)):
            parts.append(self._table(row))
        if (hidden := len(self.prompts) - MAX_PROMPTS) > 0:
            parts.append(Text(f"… and {hidden} more prompts"))
        return Group(*parts, *map(Text, self.notes))

    def _table(self, row: int) -> Table:
        named = f"{self.prompts[row]!r}: " if self.prompts[row] else ""
        title = f"{named}level {self.level:g}, {self.num_samples} samples of each"
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        for name in ("", "KL from prior", "E[log φ]", "ESS", "below the curve"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        for at, tilt_at in enumerate(self.tilts):
            cells = [self._limits(self.kl, (row, at)), self._limits(self.reward, (row, at))]
            if not self.trusted[row, at]:
                cells = ["not to be trusted", "–"]
            table.add_row(f"λ = {tilt_at:g}", *cells, f"{self.ess[row, at]:.0f}", "")
        table.add_section()
        for point in self.points:
            reward, below = self._limits(point.reward, (row,)), "–"
            if point.kl is None:
                table.add_row(Text(point.name), "not available", reward, "", below)
                continue
            gap = self.ceiling(point.kl.value)[row] - point.reward.value[row]
            if np.isfinite(gap):
                below = f"{gap:.3f}".replace("-", "−")
            kl = self._limits(point.kl, (row,))
            if point.kl_bound < np.inf:
                kl += f" ≤ {point.kl_bound:.3f}"
            table.add_row(Text(point.name), kl, reward, "", below)
        return table

    def _limits(self, estimate: Estimate, at: tuple[int, ...]) -> str:
        value = float(estimate.value[at])
        if not np.isfinite(value):
            return "–" if np.isnan(value) else "∞" if value > 0 else "−∞"
        limits = estimate.interval(self.level)
        half = float(limits.upper[at] - limits.lower[at]) / 2
        return f"{value:.3f} ± {half:.3f}".replace("-", "−")
