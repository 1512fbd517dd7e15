"""Several processes: what Python evaluates is shared out, what Python reads is brought here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bayesft import errors
from bayesft.errors import BayesftError, EvidenceError
from bayesft.sharding.mesh import is_set


def num_processes() -> int:
    """How many processes run this program together: those of the mesh that is set."""
    return jax.process_count() if is_set() else 1


def shared(
    evaluate: Callable[[slice], dict[str, np.ndarray]], names: Sequence[str], num_rows: int
) -> dict[str, np.ndarray]:
    """float32 values of all rows by name, every row evaluated by one process.

    `evaluate(rows)` gives the values of some rows. Where it raises in one process, it raises in
    all: the others would wait for its answer otherwise.
    """
    number = num_processes()
    if number == 1:
        return evaluate(slice(None))
    size = -(-num_rows // number)
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
    joined = messages[:, :-1].reshape(number, len(names), size).swapaxes(0, 1)
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


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any process; each of them asks."""
    if num_processes() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def agreed[T](decide: Callable[[], T]) -> T:
    """What `decide()` gives in process 0, where alone it is called, in every process.

    It comes to the others through JSON. Where it raises, it raises in all.
    """
    if num_processes() == 1:
        return decide()
    error, message = None, {}
    if is_writer():
        try:
            message = {"value": decide()}
        except Exception as raised:
            error, message = raised, {"error": _told(raised)}
    message = json.loads(_broadcast(json.dumps(message)))
    if error is not None:
        raise error
    if "error" in message:
        name, happened, about = message["error"]
        raise getattr(errors, name, BayesftError)(happened, **about)
    return message["value"]


def _told(error: Exception) -> tuple[str, str, dict[str, str]]:
    if isinstance(error, BayesftError):
        about = {"cause": error.cause, "remedy": error.remedy}
        return type(error).__name__, error.happened, about
    what = f"Process 0 raised {type(error).__name__}: {error}"
    return "BayesftError", what, {"remedy": "read the output of process 0."}


def _broadcast(text: str) -> str:
    """The text of process 0."""
    content = text.encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # A power of two, so that few sizes are ever compiled.
    padded = np.zeros(1 << size.bit_length(), np.uint8)
    if is_writer():
        padded[:size] = np.frombuffer(content, np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded)[:size]).decode()
