"""E[Ẑ] = Z with every random outcome of a run enumerated: two particles, two tokens.

The language's probabilities are multiples of 1/10, so ten equally likely uniforms stand for all of
[0, 1); resampling has three outcomes, whose probabilities follow from the weights.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import LANGUAGE, TOKEN_BY_TOKEN

from bayesft.draws import log_mean_exp
from bayesft.samplers import sequential
from bayesft.samplers.proposers import proposer
from bayesft.samplers.sequential import ResamplingRule, Schedule
from bayesft.target import Target
from bayesft.testing import enumerate_target

TOLERANCE = 1e-5  # float32 weights; their mean is taken in float64
COUNTS = ((2, 0), (1, 1), (0, 2))
GRID = (np.arange(10) + 0.5) / 10
UNIFORMS = np.array(list(itertools.product(GRID, repeat=4))).T.reshape(2, 2, -1).swapaxes(1, 2)
TARGET = Target(
    LANGUAGE, TOKEN_BY_TOKEN, prompts=[""] * UNIFORMS.shape[1], max_new_tokens=2, eos="truncate"
)
RANDOM = sequential.randomness(TARGET.xs.id, jax.random.key(0), 2, 2)
ENUMERATED = sequential.Randomness(jnp.asarray(UNIFORMS, jnp.float32), RANDOM.keys)


def multinomial(weights: np.ndarray) -> np.ndarray:
    """Probabilities of COUNTS, [3, R]."""
    first, second = weights.T
    return np.stack([first**2, 2 * first * second, second**2])


def systematic(weights: np.ndarray) -> np.ndarray:
    """The first count is 2·W_1 rounded up with the probability of its fraction, else down."""
    whole, rest = np.divmod(2 * weights[:, 0], 1)
    return np.stack([(whole == n) * (1 - rest) + (whole + 1 == n) * rest for n in (2, 1, 0)])


def blind(weights: np.ndarray) -> np.ndarray:
    return multinomial(np.full_like(weights, 0.5))


def forced(counts):
    def scheme(key, log_weights):
        return jnp.array(counts, jnp.int32)

    return scheme


SCHEMES = {counts: forced(counts) for counts in COUNTS}


def expected_z(threshold: float, probabilities) -> float:
    """E[Ẑ] over all outcomes; where nothing is resampled, the three agree."""
    estimates, proposing = [], proposer(TARGET, None)
    for counts in COUNTS:
        schedule = Schedule(ResamplingRule(SCHEMES[counts], threshold))
        state = sequential.start(TARGET, proposing, schedule, TARGET.xs, ENUMERATED)
        weights = jax.nn.softmax(state.log_weights)
        state = sequential.advance(TARGET, proposing, schedule, ENUMERATED, state, 2)
        estimates.append(np.exp(np.float64(state.log_z + log_mean_exp(state.log_weights))))
    return float((probabilities(np.float64(weights)) * np.stack(estimates)).sum(0).mean())


@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.0], ids=["never", "adaptive", "always"])
@pytest.mark.parametrize("probabilities", [multinomial, systematic])
def test_the_estimate_of_z_is_unbiased(threshold, probabilities):
    exact = np.exp(enumerate_target(TARGET).log_z)
    assert expected_z(threshold, probabilities) == pytest.approx(exact, rel=TOLERANCE)


def test_resampling_that_ignores_weights_is_caught():
    exact = np.exp(enumerate_target(TARGET).log_z)
    assert expected_z(0.0, blind) == pytest.approx(exact, rel=TOLERANCE)
    for threshold in (0.9, 1.0):
        assert abs(expected_z(threshold, blind) / exact - 1) > 100 * TOLERANCE
