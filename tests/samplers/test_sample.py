"""The driver: what it refuses."""

import jax
import pytest
from samplers.language import LANGUAGE, replicated

from bayesft._sample import sample
from bayesft.errors import SamplerError
from bayesft.samplers import importance


@pytest.mark.parametrize(
    ("target", "sampler", "key", "message"),
    [
        (LANGUAGE, importance(2), jax.random.key(0), "Markov was given as target"),
        (replicated(None, 1), importance, jax.random.key(0), "not a sampler"),
        (replicated(None, 1), importance(2), 0, "not a single typed JAX key"),
        (replicated(None, 1), importance(2), jax.random.key_data(jax.random.key(0)), "typed"),
        (replicated(None, 1), importance(2), jax.random.split(jax.random.key(0)), "single"),
    ],
)
def test_arguments_are_checked(target, sampler, key, message):
    with pytest.raises(SamplerError, match=message):
        sample(target, sampler, key)
