"""Genealogies of the particles of one prompt as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from bayesft.diagnostics import lineages
from bayesft.errors import DiagnosticError
from bayesft.report.figure import FAINT, INK, drawing

MAX_TEXTS = 150
"""Tokens that can be written beside their particles and still be read."""


def genealogy_svg(
    ancestors: Int[np.ndarray, "T N"],
    tokens: Int[np.ndarray, "T N"] | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    title: str = "",
) -> str:
    """SVG of particle slots against tokens: lines lead from the slot a particle came from.

    `ancestors[t, n]` is the slot from which particle n took its first t tokens ahead of token t
    (`draws.info["ancestors"][:, p]`). Lineages of the final particles are dark, branches that died
    out light. With `tokens` as they were drawn and `decode`, their texts stand beside them where
    they are few.
    """
    parents = np.asarray(ancestors)
    if parents.ndim != 2:
        raise DiagnosticError(
            f"ancestors have the shape {parents.shape}, not [T, N].",
            cause="the ancestors of every prompt at once.",
            remedy='give those of one: draws.info["ancestors"][:, p].',
        )
    num_tokens, num_particles = parents.shape
    alive = np.zeros(parents.shape, bool)
    np.put_along_axis(alive, lineages(parents[:, None])[:, 0], True, axis=1)
    written = tokens is not None and decode is not None and parents.size <= MAX_TEXTS
    width = min(max(5.0, num_tokens * (0.85 if written else 0.14)), 11.0)
    height = min(max(2.6, 0.9 + num_particles * (0.34 if written else 0.055)), 7.0)
    with drawing(width, height) as found:
        from matplotlib.collections import LineCollection

        axes, slots = found.axes, np.arange(num_particles)
        for dark in (False, True):
            lines = [
                [(t - 1, parents[t, n]), (t, n)]
                for t in range(1, num_tokens)
                for n in slots[alive[t] == dark]
            ]
            color, order = (INK, 2) if dark else (FAINT, 1)
            axes.add_collection(
                LineCollection(lines, colors=color, linewidths=1.3 if dark else 0.8, zorder=order)
            )
            times, at = np.nonzero(alive == dark)
            small = 4 if num_particles > 64 else 12
            axes.scatter(times, at, s=small, color=color, zorder=order, linewidths=0)
        if written and tokens is not None and decode is not None:
            _write(axes, np.asarray(tokens), decode, alive)
        axes.plot([], [], color=INK, label=f"lineages of the {num_particles} final particles")
        axes.plot([], [], color=FAINT, label="died out")
        axes.set_xlim(-0.6, num_tokens - (0.2 if written else 0.4))
        axes.set_ylim(num_particles - 0.3, -0.9)
        axes.set_xlabel("token")
        axes.set_ylabel("particle slot")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        found.figure.legend(loc="outside upper right", ncols=2)
        if title:
            axes.set_title(title, loc="left")
    return found.svg


def _write(axes, tokens: np.ndarray, decode: Callable[[Sequence[int]], str], alive) -> None:
    for (t, n), token in np.ndenumerate(tokens):
        text = decode([int(token)]).strip() or "·"
        text = text if len(text) <= 9 else f"{text[:8]}…"
        axes.annotate(
            text.replace("$", r"\$"),
            (t, n),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK if alive[t, n] else "#8a8a8a",
            bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.85},
            zorder=3,
        )
