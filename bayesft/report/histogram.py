"""Weighted histograms, and columns of block characters that show them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

BLOCKS = " ▁▂▃▄▅▆▇█"
"""A character cell filled to n eighths from below."""
ASCII_BLOCKS = "    #####"
"""The same where the terminal knows no blocks: a cell is empty or full."""


def bin_masses(
    values: Float[np.ndarray, " N"],
    edges: Float[np.ndarray, " B+1"],
    weights: Float[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, " B"]:
    """Share of the total weight in each bin [edge_b, edge_b+1), the last one closed.

    Values outside the edges count in the bin next to them, so that the shares sum to 1; all are 0
    where there is no weight.
    """
    values = np.clip(np.asarray(values, float), edges[0], edges[-1])
    masses, _ = np.histogram(values, bins=edges, weights=weights)
    total = masses.sum()
    return masses / total if total > 0 else np.zeros(len(edges) - 1)


def column_heights(masses: Float[np.ndarray, " B"], peak: float, num_rows: int) -> list[int]:
    """Height of each bin's column in eighths of a row; any mass at all shows as one eighth.

    `peak` is the mass that fills all rows; panels that share it can be compared.
    """
    if peak <= 0:
        return [0] * len(masses)
    scaled = np.rint(np.asarray(masses) / peak * num_rows * 8).astype(int)
    shown = np.where(np.asarray(masses) > 0, np.maximum(scaled, 1), 0)
    return np.minimum(shown, num_rows * 8).tolist()


def sparkline(values: Float[np.ndarray, " N"], width: int) -> str:
    """A curve in one row of blocks: means of consecutive chunks, scaled to their range.

    Values that are not finite are left out.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    chunks = np.array_split(values, min(width, len(values))) if len(values) else []
    means = np.asarray([chunk.mean() for chunk in chunks])
    if not len(means):
        return ""
    spread = means.max() - means.min()
    level = (means - means.min()) / spread if spread > 0 else np.zeros(len(means))
    return "".join(BLOCKS[1 + round(7 * float(x))] for x in level)
