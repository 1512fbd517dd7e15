"""What a certificate says, and how it is printed."""

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

from bayesft.diagnostics.interval import Interval
from bayesft.diagnostics.pareto import TRUSTED_K
from bayesft.draws import Draws

MAX_ROWS = 20


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Distances between a guide q and its target p*, in nats, for each of P prompts.

    Each interval holds with probability `level` by itself. Where `certified` is False, upper limits
    on log Z and on `reverse_kl`, and `forward_kl` altogether, rest on approximate posterior draws
    and are guesses; lower limits on log Z and `reverse_kl` hold all the same.
    """

    log_z: Interval
    reverse_kl: Interval
    """KL(q ‖ p*); infinite where q was seen to produce what is impossible, and without an upper
    limit where a hard constraint is declared."""
    restricted_kl: Interval
    """KL(q(· | allowed) ‖ p*), of the guide restricted to sequences of positive density."""
    forward_kl: Interval
    """KL(p* ‖ q)."""
    violation_rate: Float[np.ndarray, " P"]
    """Share of the guide's draws that have density 0."""
    ess: Float[np.ndarray, " P"]
    """Effective draws per draw of the guide, as a proposal: (Σw)² / (n·Σw²), between 0 and 1."""
    pareto_k: Float[np.ndarray, " P"] | None
    """k̂ of those weights (above 0.7, do not trust them); None without arviz_stats."""
    certified: Bool[np.ndarray, " P"]
    tight: Bool[np.ndarray, " P"]
    """Whether the limits on log Z are close enough to say something: at most a nat apart."""
    notes: Sequence[Sequence[str]]
    """What to know about each prompt, [P] lists."""
    level: float
    num_particles: int
    num_repeats: int
    prompts: Sequence[Any]
    posterior_draws: Draws = dataclasses.field(repr=False)
    """To be passed to another certificate of the same target, which then need not draw again."""

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(self)
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]

    def __rich__(self) -> RenderableType:
        restricted = bool(np.isinf(self.reverse_kl.upper[self.certified]).any())
        title = f"level {self.level:g}, {self.num_repeats} groups of {self.num_particles} particles"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        named = any(self.prompts)
        for name, shown in self._columns(named, restricted):
            if shown:
                table.add_column(name, no_wrap=name == "prompt", overflow="ellipsis")
        for row in range(min(len(self.prompts), MAX_ROWS)):
            cells = [str(self.prompts[row])] if named else []
            cells += [self._log_z(row), self._reverse(row)]
            cells += [self._restricted(row)] if restricted else []
            cells += [self._forward(row), self._ess(row)]
            cells += [] if self.pareto_k is None else [_number(self.pareto_k[row], 2)]
            table.add_row(*map(Text, cells))
        return Group(table, *map(Text, self._footer()))

    def _columns(self, named: bool, restricted: bool) -> list[tuple[str, bool]]:
        return [
            ("prompt", named),
            ("log Z", True),
            ("KL(q‖p*)", True),
            ("restricted", restricted),
            ("KL(p*‖q)", True),
            ("ESS", True),
            ("k̂", self.pareto_k is not None),
        ]

    def trusted(self, row: int) -> bool:
        """Whether both limits of a prompt are worth printing: certified, and not far apart."""
        return bool(self.certified[row] and self.tight[row])

    def doubt(self, row: int) -> str:
        """What is printed in place of numbers that are not to be trusted."""
        return "limits apart" if self.certified[row] else "not certified"

    def _log_z(self, row: int) -> str:
        if self.trusted(row):
            return _interval(self.log_z, row)
        return f"≥ {_number(self.log_z.lower[row])}"

    def _ess(self, row: int) -> str:
        heavy = self.pareto_k is not None and self.pareto_k[row] > TRUSTED_K
        return "k̂ too large" if heavy else f"{self.ess[row]:.1%}"

    def _restricted(self, row: int) -> str:
        if self.trusted(row):
            return _interval(self.restricted_kl, row)
        return f"≥ {_number(self.restricted_kl.lower[row])}"

    def _reverse(self, row: int) -> str:
        lower, upper = self.reverse_kl.lower[row], self.reverse_kl.upper[row]
        if lower == np.inf:
            return "∞"
        if self.trusted(row) and upper < np.inf:
            return _interval(self.reverse_kl, row)
        return f"≥ {_number(lower)}"

    def _forward(self, row: int) -> str:
        if self.certified[row] and self.forward_kl.lower[row] == np.inf:
            return "∞"
        return _interval(self.forward_kl, row) if self.trusted(row) else self.doubt(row)

    def _footer(self) -> list[str]:
        """Notes, each once with the prompts it is about."""
        about: dict[str, list[int]] = {}
        for row, notes in enumerate(self.notes):
            for note in notes:
                about.setdefault(note, []).append(row)
        lines = []
        if (hidden := len(self.prompts) - MAX_ROWS) > 0:
            lines.append(f"… and {hidden} more prompts")
        for note, rows in about.items():
            few = ", ".join(map(str, rows[:5])) + ("…" if len(rows) > 5 else "")
            lines.append(note if len(self.prompts) == 1 else f"prompt {few}: {note}")
        return lines


def _interval(interval: Interval, row: int) -> str:
    return f"[{_number(interval.lower[row])}, {_number(interval.upper[row])}]"


def _number(value: float, digits: int = 3) -> str:
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")
