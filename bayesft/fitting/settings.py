"""What has to stay the same for a fit to go on where another process left it."""

from __future__ import annotations

import dataclasses
import re
import zlib
from typing import Any

import jax
import numpy as np

from bayesft.base import Key, Notes
from bayesft.target import Target


def settings_of(key: Key, data: Any, **given: Any) -> Notes:
    """The settings of a fit, as JSON: what they are named, for errors that say what differs.

    Functions have names here, not contents; weights, columns of prompts and the optimiser are not
    among them.
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
            f"{float(term.scale):.9g} · {term.evidence.name}{_numbers(term.evidence)}"
            for term in data.terms
        ]
    elif data.xs.observed is not None:
        found["completions"] = zlib.crc32(np.asarray(data.xs.observed.tokens).tobytes())
    return found


def _named(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _numbers(evidence: Any) -> str:
    """The single numbers that evidence holds: a reward's β and bounds, a penalty."""
    leaves = jax.tree.leaves(evidence)
    if dataclasses.is_dataclass(evidence):
        fields = [field for field in dataclasses.fields(evidence) if field.metadata.get("static")]
        leaves += jax.tree.leaves([getattr(evidence, field.name) for field in fields])
    numbers = [leaf for leaf in leaves if isinstance(leaf, int | float | np.generic | jax.Array)]
    found = [f"{float(leaf):.9g}" for leaf in numbers if np.ndim(leaf) == 0]
    return f" ({', '.join(found)})" if found else ""
