"""The three-token language (a, b, EOS = 0, 1, 2) of at most four tokens, and its evidence.

The number of a's is a log-potential of all three kinds. A target with R equal prompts makes R
independent runs of a sampler in one call: ids tell equal prompts apart, and keys fold in the id.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np

from bayesft.base import Evidence
from bayesft.evidence import constraint, potential, prefix_potential, reward
from bayesft.priors import markov, trainable
from bayesft.target import Target

NUM_TOKENS = 4
POLICIES = ("truncate", "condition", "force")
LOG_Z = {"truncate": 1.393259, "condition": 0.591292, "force": 1.174378}
LOG_ENDED = -0.320756
BOUNDS = (0.0, 4.0)


def _count_step(state, token):
    return state, jnp.where(token == 0, 1.0, 0.0)


def _count(tokens, length):
    return jnp.sum((tokens == 0) & (jnp.arange(tokens.shape[0]) < length)).astype(jnp.float32)


def _count_in_python(completion_ids):
    return [ids.count(0) for ids in completion_ids]


def _without_b_step(state, token):
    return state, jnp.where(token == 1, -jnp.inf, 0.0)


def _no_token_step(state, token):
    return state, jnp.float32(-jnp.inf)


def _has_ab(completion_ids):
    return [(0, 1) in itertools.pairwise(ids) for ids in completion_ids]


def _nothing(completion_ids):
    return [False] * len(completion_ids)


TOKEN_BY_TOKEN = prefix_potential(_count_step, (), bounds=BOUNDS)
IN_JAX = potential(_count, bounds=BOUNDS)
IN_PYTHON = reward(_count_in_python, beta=1.0, bounds=BOUNDS)
WITHOUT_B = prefix_potential(_without_b_step, (), bounds=(-np.inf, 0.0))
NO_TOKEN = prefix_potential(_no_token_step, (), bounds=(-np.inf, 0.0))
HAS_AB, NOTHING = constraint(_has_ab), constraint(_nothing)

LANGUAGE = markov(
    np.log([0.5, 0.3, 0.2]),
    np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]]),
    eos=2,
    vocabulary=("a", "b", ""),
)


def guide():
    """A guide that is off in every row, on all of the language's support."""
    found = trainable(LANGUAGE)
    nudged = {
        name: value + 0.7 * np.cos(np.arange(value.size, dtype=np.float32)).reshape(value.shape)
        for name, value in found.params.items()
    }
    return found.with_params(nudged)


def replicated(evidence: Evidence | None, num_runs: int, eos: str = "truncate") -> Target:
    return Target(LANGUAGE, evidence, prompts=[""] * num_runs, max_new_tokens=NUM_TOKENS, eos=eos)


def features(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Six functions of a sequence, [..., 6]: 1, number of a's, length, ended, has "ab", first a."""
    live = np.arange(tokens.shape[-1]) < lengths[..., None]
    a, b = (tokens == 0) & live, (tokens == 1) & live
    ended = ((tokens == 2) & live).any(-1)
    has_ab = (a[..., :-1] & b[..., 1:]).any(-1)
    columns = [np.ones(lengths.shape), a.sum(-1), lengths, ended, has_ab, a[..., 0]]
    return np.stack(columns, axis=-1).astype(np.float64)


def outcome_of(draws, outcomes: np.ndarray) -> np.ndarray:
    """Which of the outcomes [M, T] every draw is, [P, N]; 0 for the stumps of impossible draws."""
    digits = 3 ** np.arange(NUM_TOKENS)
    index = np.zeros(3**NUM_TOKENS, int)
    index[outcomes @ digits] = np.arange(len(outcomes))
    return index[np.asarray(draws.tokens) @ digits]
