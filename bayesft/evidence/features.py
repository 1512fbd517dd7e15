"""What features say about draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesft.base import Evidence, HostEvidence, Rows
from bayesft.draws import Draws
from bayesft.errors import EvidenceError
from bayesft.target import Target

ROWS_PER_CALL = 64
"""A feature may be a language model: its activations for so many sequences stay small."""


def feature_values(
    feature: Evidence, draws: Draws, target: Target | None
) -> Float[np.ndarray, "P N"]:
    """The feature of every draw, in float64."""
    tokens, lengths = np.asarray(draws.tokens), np.asarray(draws.lengths)
    num_prompts, num_draws, _ = tokens.shape
    leaves = [term.evidence for term in feature.terms]
    total = np.zeros((num_prompts, num_draws))
    if target is not None:
        target = target.with_evidence(feature)
        total += np.asarray(_on_device(target, tokens, target.xs), np.float64)
        flat = tokens.reshape(num_prompts * num_draws, -1)
        ids = np.repeat(np.asarray(target.xs.id), num_draws)
        found = target.evaluate_host(ids, flat, lengths.reshape(-1)) if target.host_terms else {}
        terms = [(term, found[term.evidence.name]) for term in target.host_terms]
    elif device := [leaf.name for leaf in leaves if not isinstance(leaf, HostEvidence)]:
        raise EvidenceError(
            f"The feature {device[0]} is evaluated in JAX, which needs the target of the draws.",
            cause="draws have the text of the prompts, not their arrays.",
            remedy="pass target=, the target that was sampled.",
        )
    else:
        rows = _rows(draws, tokens, lengths)
        terms = [
            (term, term.evidence.evaluate(rows))
            for term in feature.terms
            if isinstance(term.evidence, HostEvidence)
        ]
    for term, each in terms:
        total += np.asarray(term.scaled(jnp.asarray(each)), np.float64).reshape(total.shape)
    return total


def _rows(draws: Draws, tokens: np.ndarray, lengths: np.ndarray) -> Rows:
    ids = [
        row[:length].tolist()
        for rows, sizes in zip(tokens, lengths, strict=True)
        for row, length in zip(rows, sizes, strict=True)
    ]
    prompts = [prompt for prompt in draws.prompts for _ in range(tokens.shape[1])]
    return Rows(prompts, [draws.decode(row) for row in ids], ids, {})


@jax.jit
def _on_device(target: Target, tokens: Array, xs: Any) -> Float[Array, "P N"]:
    def of_prompt(ys_and_x):
        ys, x = ys_and_x
        one = lambda y: target.log_device_evidence(y, x)
        return jax.lax.map(one, ys, batch_size=ROWS_PER_CALL)

    return jax.lax.map(of_prompt, (tokens, xs))
