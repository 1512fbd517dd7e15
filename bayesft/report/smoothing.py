"""Averages of a curve over its steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

BANDWIDTH, FEWEST_STEPS = 0.03, 3
"""Of the smoothing kernel: a share of the run, and no less than so many steps."""
NUM_BINS = 600
"""Longer runs are averaged over so many bins first."""


def last_tenth(values: Float[np.ndarray, " S"]) -> float:
    """Mean of the last tenth of the values, of one at least."""
    return float(values[-max(1, len(values) // 10) :].mean())


def smoothed(
    steps: Int[np.ndarray, " S"], values: Float[np.ndarray, " S"]
) -> Float[np.ndarray, " S"]:
    """Local lines under a Gaussian of 3% of the run (3 steps at least): no lag, no bias at ends.

    Steps without a value count for nothing, and no line leaves the range of the values. Taken over
    bins where there are many steps.
    """
    span = float(steps[-1] - steps[0])
    bins = min(len(steps), NUM_BINS)
    index = np.minimum(((steps - steps[0]) / span * bins).astype(int), bins - 1)
    known = np.isfinite(values)
    weight = np.bincount(index[known], minlength=bins).astype(float)
    total = np.bincount(index[known], values[known], minlength=bins)
    where = np.bincount(index, (steps - steps[0]) / span, minlength=bins)
    centre = where / np.maximum(np.bincount(index, minlength=bins), 1)
    gap = (centre - centre[:, None]) / max(BANDWIDTH, FEWEST_STEPS / len(steps))
    kernel = np.exp(-0.5 * gap**2)
    mass, first, second = (kernel * gap**power @ weight for power in range(3))
    sums, moments = (kernel * gap**power @ total for power in range(2))
    spread = mass * second - first**2
    with np.errstate(invalid="ignore", divide="ignore"):
        lines = (second * sums - first * moments) / spread
        means = sums / mass
    found = np.where(spread > 1e-6 * mass**2, lines, means)
    if known.any():
        found = np.clip(found, values[known].min(), values[known].max())
    return np.interp((steps - steps[0]) / span, centre, found)
