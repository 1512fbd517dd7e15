"""Distributions whose elements are independent, with or without `to_event`."""

from __future__ import annotations

from typing import Any


def factors(distribution: Any) -> Any:
    """The elementwise distribution under numpyro's `to_event`, or the distribution itself."""
    import numpyro.distributions as dist

    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution
