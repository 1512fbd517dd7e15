"""What a recording tells about a step of `fit`."""

from __future__ import annotations

import jax.numpy as jnp

from bayesft.program.record import Recording


def measure(recording: Recording) -> dict[str, float]:
    """Mean log-potentials in nats of Python evidence, `log_potentials/{name}/mean`."""
    return {
        f"log_potentials/{name}/mean": float(jnp.mean(values))
        for slot, entry in recording.data.items()
        if slot.startswith("host/")
        for name, values in entry.items()
    }
