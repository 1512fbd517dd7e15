"""Figures as SVG text: one look for all of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bayesft.errors import DiagnosticError

INK, MUTED, FAINT = "#222222", "#777777", "#c9c9c9"
CURVE, ACCENT = "#1f5fa8", "#b8336a"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "bayesft",  # the same figure, the same file
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


class Drawing:
    """A matplotlib figure while it is drawn; afterwards `svg` holds it."""

    figure: Any
    axes: Any
    svg: str = ""


@contextmanager
def drawing(width: float, height: float, num_rows: int = 1, **layout: Any) -> Iterator[Drawing]:
    """A figure of inches with `num_rows` axes above one another, as SVG when the block ends.

    Raises DiagnosticError where matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DiagnosticError(
            "A figure cannot be drawn: matplotlib does not import.",
            cause="matplotlib is an extra of bayesft that is not installed.",
            remedy="pip install 'bayesft[plot]'.",
        ) from error
    found = Drawing()
    with rc_context(_STYLE):
        found.figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(found.figure)
        found.axes = found.figure.subplots(num_rows, 1, **layout)
        yield found
        text = io.StringIO()
        found.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    found.svg = text.getvalue()[text.getvalue().index("<svg") :]
