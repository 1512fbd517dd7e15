"""What the tests of certificates share: the language, a guide, exact values, coverage."""

import functools

import jax.numpy as jnp
import numpy as np

from bayesft.evidence import potential
from bayesft.priors import markov, trainable
from bayesft.target import Target
from bayesft.testing import assert_coverage, enumerate_target

NUM_RUNS = 400  # as many independent runs as prompts: each prompt has keys of its own
LEVEL = 0.9
SMALL = {"num_particles": 8, "num_repeats": 16}
NARROW = {"num_particles": 4, "num_repeats": 64}  # a wide gap between bounds with narrow limits


@functools.cache
def language():
    rows = np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    return markov(np.log([0.5, 0.3, 0.2]), rows, eos=2, vocabulary=("a", "b", ""))


@functools.cache
def guide(scale=0.5):
    start = trainable(language())
    shift = np.random.default_rng(0)
    return start.with_params(
        {name: p + scale * shift.normal(size=p.shape) for name, p in start.params.items()}
    )


def count_a(tokens, length):
    return 1.0 * ((tokens == 0) & (jnp.arange(tokens.shape[0]) < length)).sum()


COUNT = potential(count_a, bounds=(0, 4))


def many(evidence=COUNT, eos="truncate"):
    return Target(language(), evidence, prompts=[""] * NUM_RUNS, max_new_tokens=4, eos=eos)


def truths(target, guide):
    """Exact log Z, KL of the guide restricted to what is possible, and KL(p* ‖ q)."""
    exact = enumerate_target(target)
    log_q = exact.log_probs_of(guide)
    allowed = exact.log_probs > -np.inf
    mass = np.exp(log_q[allowed]).sum()
    share = np.exp(log_q[allowed]) / mass
    restricted = (share * (np.log(share) - exact.log_probs[allowed])).sum()
    return {
        "log_z": exact.log_z,
        "restricted_kl": restricted,
        "forward_kl": exact.forward_kl(guide),
    }


def require_coverage(certificate, truth):
    for name, value in truth.items():
        covered = getattr(certificate, name).contains(value)
        assert_coverage(covered, LEVEL, family=len(truth))
