"""Several processes: what Python evaluates is shared out, what Python reads is brought here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bayesft.errors import EvidenceError
from bayesft.sharding.mesh import is_set


def shared(
    evaluate: Callable[[slice], dict[str, np.ndarray]], names: Sequence[str], num_rows: int
) -> dict[str, np.ndarray]:
    """float32 values of all rows by name, every row evaluated by one process.

    `evaluate(rows)` gives the values of some rows. Where it raises in one process, it raises in
    all: the others would wait for its answer otherwise.
    """
    num_processes = jax.process_count() if is_set() else 1
    if num_processes == 1:
        return evaluate(slice(None))
    size = -(-num_rows // num_processes)
    at = jax.process_index() * size
    own = slice(min(at, num_rows), min(at + size, num_rows))
    answers = np.zeros((len(names), size), np.float32)
    error: Exception | None = None
    try:
        if own.start < own.stop:
            values = evaluate(own)
            answers[:, : own.stop - own.start] = [values[name] for name in names]
    except Exception as raised:
        error = raised
    message = np.append(answers.ravel(), np.float32(error is not None))
    messages = np.asarray(multihost_utils.process_allgather(message))
    if error is not None:
        raise error
    if (failed := np.flatnonzero(messages[:, -1])).size:
        raise EvidenceError(
            f"Evidence in Python raised in process {failed[0]}.",
            cause="a row of that process's share: its own message says which.",
            remedy=f"read the output of process {failed[0]}.",
        )
    joined = messages[:, :-1].reshape(num_processes, len(names), size).swapaxes(0, 1)
    flat = joined.reshape(len(names), -1)[:, :num_rows]
    return dict(zip(names, flat, strict=True))


def to_host(array: Any) -> np.ndarray:
    """The whole array in this process, also where its shares lie in several."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def is_writer() -> bool:
    """Whether this process is the one that writes files: all have the same to write."""
    return jax.process_index() == 0
