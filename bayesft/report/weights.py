"""Weights of the particles of one prompt over time as a picture."""

from __future__ import annotations

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from bayesft.draws import effective_sample_size
from bayesft.errors import DiagnosticError
from bayesft.report.figure import ACCENT, CURVE, MUTED, drawing


def weights_svg(
    log_weights: Float[ArrayLike, "T N"],
    ancestors: Int[ArrayLike, "T N"] | None = None,
    resampled: Bool[ArrayLike, " T"] | None = None,
    threshold: float | None = None,
    title: str = "",
) -> str:
    """SVG of the particles' weights after each token, with the ESS below.

    `log_weights[t]` in nats are those after token t and before the resampling ahead of the next. A
    dot is the share n·W of a particle: 1 is its fair share. Resamplings stand as vertical lines
    ahead of the tokens at which `resampled`, or at which `ancestors` are not the identity (a
    resampling that copies nobody does not show in those). `threshold` is a share of N.
    """
    values = np.asarray(log_weights, np.float64)
    if values.ndim != 2:
        raise DiagnosticError(
            f"log_weights have the shape {values.shape}, not [T, N].",
            cause="the weights of every prompt at once.",
            remedy="give those of one prompt, [:, p].",
        )
    num_tokens, num_particles = values.shape
    marks = np.zeros(num_tokens, bool) if resampled is None else np.asarray(resampled, bool)
    if resampled is None and ancestors is not None:
        marks = (np.asarray(ancestors) != np.arange(num_particles)).any(1)
    ess = np.asarray(effective_sample_size(np.asarray(values, np.float32)))  # pyright: ignore
    peak = values.max(1, keepdims=True)
    weights = np.exp(values - np.where(np.isfinite(peak), peak, 0.0))
    share = num_particles * weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    with drawing(7.5, 4.8, num_rows=2, sharex=True, height_ratios=(3, 2)) as found:
        above, below = found.axes
        times = np.repeat(np.arange(num_tokens), num_particles)
        shown = share.ravel() > 1e-4
        above.scatter(
            times[shown],
            share.ravel()[shown],
            s=14 if num_particles <= 64 else 7,
            color=CURVE,
            alpha=0.35,
            linewidths=0,
            label="a particle",
        )
        above.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=":", label="equal weights")
        above.set_yscale("log")
        above.set_ylabel("N × weight")
        below.plot(np.arange(num_tokens), ess, color=CURVE, marker=".", label="ESS")
        below.set_ylim(0, num_particles * 1.05)
        below.set_ylabel(f"ESS of {num_particles}")
        below.set_xlabel("token")
        below.xaxis.get_major_locator().set_params(integer=True)
        if threshold is not None:
            below.axhline(
                threshold * num_particles,
                color=MUTED,
                linewidth=0.8,
                linestyle="--",
                label="threshold",
            )
        for number, t in enumerate(np.flatnonzero(marks)):
            for axes in (above, below):
                label = "resampling" if axes is above and number == 0 else None
                axes.axvline(t - 0.5, color=ACCENT, linewidth=0.9, alpha=0.7, label=label)
        if (dead := int((~shown).sum())) > 0:
            above.set_title(
                f"{dead} of {values.size} weights are below 0.0001/N and not shown",
                loc="right",
                fontsize=8,
                color=MUTED,
            )
        for axes in (above, below):
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
        if title:
            found.figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return found.svg
