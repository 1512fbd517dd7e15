"""What has to stay the same for a fit to go on where another process left it."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from bayesft.base import Key, Notes
from bayesft.target import Target


def settings_of(key: Key, data: Any, **given: Any) -> Notes:
    """The settings of a fit, as JSON: what they are named, for errors that say what differs.

    Weights, functions and optimisers have names and shapes here, not contents.
    """
    named = {name: _named(value) for name, value in given.items()}
    found = {
        "key": str(np.asarray(jax.random.key_data(key)).tolist()),
        "prompts": np.asarray(data.xs.id).tolist(),
        "horizon": str(data.horizon),
        **named,
    }
    if isinstance(data, Target):
        found["evidence"] = [
            f"{float(term.scale):g} · {term.evidence.name}{_numbers(term.evidence)}"
            for term in data.terms
        ]
    return found


def _named(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _numbers(evidence: Any) -> str:
    """The single numbers that evidence holds, a reward's β among them."""
    found = [f"{float(leaf):g}" for leaf in jax.tree.leaves(evidence) if np.ndim(leaf) == 0]
    return f" ({', '.join(found)})" if found else ""
