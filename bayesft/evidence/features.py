"""What features say about draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bayesft.base import Evidence, HostEvidence, LeafEvidence, Rows
from bayesft.draws import Draws
from bayesft.errors import EvidenceError
from bayesft.target import Target

ROWS_PER_CALL = 64
"""A feature may be a language model: its activations for so many sequences stay small."""


def feature_values(
    feature: Evidence, draws: Draws, target: Target | None, possible: Bool[np.ndarray, "P N"]
) -> Float[np.ndarray, "P N"]:
    """The feature of every draw in float64; Python is asked about possible draws only."""
    tokens, lengths = np.asarray(draws.tokens), np.asarray(draws.lengths)
    total = np.zeros(possible.shape)
    prompt = np.nonzero(possible)[0]
    if target is not None:
        target = target.with_evidence(feature)
        total += np.asarray(_on_device(target, jnp.asarray(tokens), target.xs), np.float64)
        ids, chosen = np.asarray(target.xs.id)[prompt], (tokens[possible], lengths[possible])
        found = target.evaluate_host(ids, *chosen) if target.host_terms else {}
        terms = [(term, found[term.evidence.name]) for term in target.host_terms]
    else:
        completion_ids = [
            row[:length].tolist()
            for row, length in zip(tokens[possible], lengths[possible], strict=True)
        ]
        texts = [draws.decode(row) for row in completion_ids]
        rows = Rows([draws.prompts[p] for p in prompt.tolist()], texts, completion_ids, {})
        terms = [(term, _on_host(term.evidence, rows)) for term in feature.terms]
    for term, values in terms:
        total[possible] += np.asarray(term.scaled(jnp.asarray(values)), np.float64)
    return total


def _on_host(evidence: LeafEvidence, rows: Rows) -> Float[np.ndarray, " R"]:
    if isinstance(evidence, HostEvidence):
        return evidence.evaluate(rows)
    raise EvidenceError(
        f"The feature {evidence.name} is evaluated in JAX, which needs the target of the draws.",
        cause="draws have the text of the prompts, not their arrays.",
        remedy="pass target=, the target that was sampled.",
    )


@jax.jit
def _on_device(target: Target, tokens: Array, xs: Any) -> Float[Array, "P N"]:
    def of_prompt(ys_and_x):
        ys, x = ys_and_x
        one = lambda y: target.log_device_evidence(y, x)
        return jax.lax.map(one, ys, batch_size=ROWS_PER_CALL)

    return jax.lax.map(of_prompt, (tokens, xs))
