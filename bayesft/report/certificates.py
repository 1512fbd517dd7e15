"""Certificates of several guides for one target, one line each, with a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bayesft.diagnostics import Certificate, Interval
from bayesft.report.palette import MUTED

AXIS_WIDTH = 16


def certificates_table(
    certificates: Mapping[str, Certificate], prompt: int = 0, style: str = "bold"
) -> Group:
    """Limits on log Z and on both divergences in nats, and KL(q‖p*) on an axis that starts at 0."""
    any_one = next(iter(certificates.values()))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column(Text(f"{any_one.level:.0%} limits", style=MUTED), no_wrap=True)
    for name in ("log Z", "KL(q‖p*)", "KL(p*‖q)"):
        table.add_column(name, justify="right", no_wrap=True)
    finite = [c.reverse_kl.upper[prompt] for c in certificates.values() if c.trusted(prompt)]
    end = max((float(upper) for upper in finite if np.isfinite(upper)), default=0.0)
    if end > 0:
        table.add_column(_axis(end), no_wrap=True)
    for name, certificate in certificates.items():
        cells: list[str | Text] = [Text(name), *_limits(certificate, prompt)]
        if end > 0:
            cells.append(_whisker(certificate.reverse_kl, prompt, end, style))
        table.add_row(*cells)
    notes = {
        note: Text(f"{name}: {note}", style=MUTED)
        for name, certificate in certificates.items()
        for note in certificate.notes[prompt]
    }
    return Group(table, *notes.values())


def _limits(certificate: Certificate, prompt: int) -> list[str]:
    if not certificate.trusted(prompt):
        lower = (certificate.log_z.lower[prompt], certificate.reverse_kl.lower[prompt])
        return [*(f"≥ {_number(value)}" for value in lower), certificate.doubt(prompt)]
    intervals = certificate.log_z, certificate.reverse_kl, certificate.forward_kl
    return [f"{_number(each.lower[prompt])} to {_number(each.upper[prompt])}" for each in intervals]


def _axis(end: float) -> Text:
    label = f"{end:.1f} nats"
    return Text("0" + label.rjust(AXIS_WIDTH - 1), style=MUTED)


def _whisker(interval: Interval, prompt: int, end: float, style: str) -> Text:
    """The interval as ├──┤ at its place between 0 and `end`; without an upper limit as ├──▶."""
    low, high = float(interval.lower[prompt]), float(interval.upper[prompt])
    if low > end:
        return Text("▶".rjust(AXIS_WIDTH), style=style)
    first, last = (
        min(int(max(value, 0.0) / end * AXIS_WIDTH), AXIS_WIDTH - 1)
        for value in (low, min(high, end))
    )
    body = "┼" if first == last else "├" + "─" * (last - first - 1) + "┤"
    if high > end:
        body = body[:-1] + "▶"
    return Text(" " * first + body, style=style)


def _number(value: float) -> str:
    return f"{value:.2f}".replace("inf", "∞")
