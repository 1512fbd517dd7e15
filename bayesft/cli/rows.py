"""Draws as rows of JSON and as lines of summary."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np

import bayesft as bft
from bayesft.base import Term
from bayesft.draws import Draws
from bayesft.evidence.reward import Reward

MAX_SUMMARIES = 8
"""Prompts with a summary line of their own."""


def json_rows(target: bft.Target, draws: Draws) -> Iterator[str]:
    """One JSON object per draw, prompt by prompt; slots that a sampler left empty are not there.

    Log-quantities are in nats, and null where they are -inf.
    """
    names = [term.evidence.name for term in target.host_terms]
    log_potentials = _log_potentials(target, draws)
    texts = draws.text
    arrays = {
        "log_weight": draws.log_weights,
        "weight": draws.weights,
        "log_prior": draws.log_prior,
        "log_evidence": draws.log_evidence,
    }
    numbers = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    tokens, lengths = np.asarray(draws.tokens), np.asarray(draws.lengths)
    for at in np.argwhere(lengths > 0):
        p, n = map(int, at)
        row = {
            "prompt": draws.prompts[p],
            "completion": texts[p][n],
            "token_ids": tokens[p, n, : lengths[p, n]].tolist(),
            **{name: _number(array[p, n]) for name, array in numbers.items()},
            "log_potentials": {name: _number(log_potentials[name][p, n]) for name in names},
            "rewards": {
                term.evidence.name: _number(_reward(term, log_potentials)[p, n])
                for term in target.host_terms
                if isinstance(term.evidence, Reward)
            },
        }
        yield json.dumps(row, ensure_ascii=False)


def summary_lines(draws: Draws) -> Iterator[str]:
    """log Z, ESS and status, a line per prompt for the first ones."""
    yield f"claim: {draws.claim}"
    num_draws = (np.asarray(draws.lengths) > 0).sum(-1)
    for p in range(min(len(draws.prompts), MAX_SUMMARIES)):
        ess = float(draws.ess[p])
        parts = [
            f"prompt {p + 1}",
            "log Z not estimated" if draws.log_z is None else f"log Z {float(draws.log_z[p]):.3f}",
            f"ESS {ess:.1f} of {num_draws[p]} ({ess / max(num_draws[p], 1):.1%})",
            "status " + bft.Status(int(draws.status[p])).name.lower().replace("_", " "),
        ]
        if draws.log_ended is not None:
            parts.insert(2, f"log P(ended) {float(draws.log_ended[p]):.3f}")
        if "acceptance" in draws.info:
            parts.append(f"accepted {float(draws.info['acceptance'][p]):.2%}")
        yield "  ".join(parts)
    if (more := len(draws.prompts) - MAX_SUMMARIES) > 0:
        yield f"and {more} more prompts; smallest ESS {float(np.min(draws.ess)):.1f}"


def _log_potentials(target: bft.Target, draws: Draws) -> dict[str, np.ndarray]:
    """Unscaled log φ of every Python evidence, [P, N] each, by asking it once more."""
    if not target.host_terms:
        return {}
    lengths = np.asarray(draws.lengths)
    filled = lengths > 0
    ids = np.broadcast_to(np.asarray(target.xs.id)[:, None], lengths.shape)
    found = target.evaluate_host(ids[filled], np.asarray(draws.tokens)[filled], lengths[filled])
    values = {}
    for name, rows in found.items():
        values[name] = np.zeros(lengths.shape)
        values[name][filled] = rows
    return values


def _reward(term: Term, log_potentials: dict[str, np.ndarray]) -> np.ndarray:
    assert isinstance(term.evidence, Reward)
    return log_potentials[term.evidence.name] * float(term.evidence.beta)


def _number(value: float) -> float | None:
    """Eight significant digits, more than float32 holds; JSON has no infinity."""
    return float(f"{value:.8g}") if math.isfinite(value) else None
