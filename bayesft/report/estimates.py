"""What samplers say about one prompt: log Z and ESS, one line each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from bayesft.draws import Draws
from bayesft.report.palette import MUTED

BAR_WIDTH = 20


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Draws under the name of how they were made."""

    name: str
    draws: Draws
    style: str = ""


def estimates_table(estimates: Sequence[Estimate], prompt: int = 0) -> Table:
    """log Z and ESS by sampler, with the share of the draws that the ESS is as a bar."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column("sampler", no_wrap=True)
    table.add_column("draws", justify="right")
    table.add_column("log Z", justify="right")
    table.add_column("ESS", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", width=BAR_WIDTH, no_wrap=True)
    for estimate in estimates:
        draws = estimate.draws
        num_draws = int((np.asarray(draws.lengths)[prompt] > 0).sum())
        ess = float(draws.ess[prompt])
        share = ess / max(num_draws, 1)
        table.add_row(
            Text(estimate.name, style=estimate.style),
            str(num_draws),
            "–" if draws.log_z is None else f"{float(draws.log_z[prompt]):+.2f}",
            f"{ess:.1f}",
            f"{share:.1%}",
            _bar(share, estimate.style),
        )
    return table


def _bar(share: float, style: str) -> Text:
    filled = round(share * BAR_WIDTH)
    return Text.assemble(("━" * filled, style), ("╌" * (BAR_WIDTH - filled), MUTED))
