"""How often something is done during a fit."""

from __future__ import annotations

from bayesft.errors import RunError


def require_every(every: int) -> int:
    """A number of steps, or RunError below 1."""
    if every < 1:
        raise RunError(f"every={every} steps is never.", remedy="use at least 1.")
    return every
