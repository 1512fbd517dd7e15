"""Genealogies of particles: which slot a particle's tokens were drawn in, and its tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from bayesft.errors import DiagnosticError


def lineages(ancestors: Int[ArrayLike, "T P N"]) -> Int[np.ndarray, "T P N"]:
    """Slot in which token t of each final particle was drawn, for every t.

    l_{T−1}(n) = n and l_{t−1}(n) = a_t(l_t(n)), where a_t(n) = `ancestors[t, p, n]` is the slot
    from which the particle in slot n took its first t tokens ahead of token t. A slot that appears
    in no lineage at t holds a branch that died out.

    Raises DiagnosticError where ancestors are not slots.
    """
    parents = _checked(ancestors)
    found = np.empty_like(parents)
    num_tokens, _, num_particles = parents.shape
    found[-1] = np.arange(num_particles)
    for t in range(num_tokens - 1, 0, -1):
        found[t - 1] = np.take_along_axis(parents[t], found[t], axis=-1)
    return found


def trajectories(
    ancestors: Int[ArrayLike, "T P N"], drawn_tokens: Int[ArrayLike, "T P N"]
) -> Int[np.ndarray, "P N T"]:
    """Tokens of each final particle, from the tokens as they were drawn, slot by slot.

    y_t(n) = drawn_t(l_t(n)) with the lineages l: what `Draws.tokens` holds for SMC.
    """
    drawn = np.asarray(drawn_tokens)
    slots = lineages(ancestors)
    if drawn.shape != slots.shape:
        raise DiagnosticError(
            f"drawn_tokens has the shape {drawn.shape}, ancestors {slots.shape}.",
            cause="tokens [P, N, T] of the draws instead of the tokens as they were drawn.",
            remedy="give both as [T, P, N].",
        )
    return np.moveaxis(np.take_along_axis(drawn, slots, axis=-1), 0, -1)


def _checked(ancestors: ArrayLike) -> np.ndarray:
    parents = np.asarray(ancestors)
    whole = np.issubdtype(parents.dtype, np.integer)
    if parents.ndim != 3 or not parents.size or not whole:
        raise DiagnosticError(
            f"ancestors is an array of {parents.dtype} of the shape {parents.shape}.",
            cause="the ancestors of one prompt, or of draws that keep none.",
            remedy='give draws.info["ancestors"] [T, P, N] of an SMC run.',
        )
    if parents.min() < 0 or parents.max() >= parents.shape[-1]:
        raise DiagnosticError(
            f"ancestors range from {parents.min()} to {parents.max()}, slots from 0 to "
            f"{parents.shape[-1] - 1}.",
            cause="ancestors of a run with more particles.",
            remedy='give draws.info["ancestors"] as it is.',
        )
    return parents
