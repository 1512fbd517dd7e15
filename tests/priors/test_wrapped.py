"""A prior around another one can be listed exactly where that one can."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import LANGUAGE, LOG_ENDED, NUM_TOKENS, guide

import bayesft as bft
from bayesft.base import Enumerable, Guide
from bayesft.errors import NotEnumerableError
from bayesft.priors import shaped
from bayesft.priors.stepped import enumerate_sequences
from bayesft.priors.wrapped import Wrapped

TARGET = bft.Target(LANGUAGE, max_new_tokens=NUM_TOKENS)


@jax.tree_util.register_static
class Unlisted(Wrapped, Guide):
    """The language, as a model that cannot list its sequences."""

    inner, params = LANGUAGE, {}
    start, advance, reorder = LANGUAGE.start, LANGUAGE.advance, LANGUAGE.reorder
    token_log_probs = LANGUAGE.token_log_probs

    def with_params(self, params):
        return self


WRAPPERS = {
    "shaped": lambda prior: shaped(prior, temperature=1.0),
    "with_log_z": lambda prior: bft.objectives.with_log_z(prior, TARGET),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_it_is_enumerable_where_the_prior_inside_is(name):
    listed, unlisted = WRAPPERS[name](guide()), WRAPPERS[name](Unlisted())
    again = jax.tree.map(jnp.asarray, listed)
    for prior in (listed, again, listed.prepared() if name == "shaped" else listed):
        assert isinstance(prior, Enumerable)
        rows = enumerate_sequences(prior, TARGET.horizon)
        np.testing.assert_array_equal(rows, LANGUAGE.enumerate(NUM_TOKENS))
    assert not isinstance(unlisted, Enumerable)
    with pytest.raises(NotEnumerableError, match="cannot list its sequences"):
        enumerate_sequences(unlisted, TARGET.horizon)


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_would_be_listed_is_estimated_where_it_cannot_be(name):
    told = bft.Target(WRAPPERS[name](Unlisted()), max_new_tokens=NUM_TOKENS, eos="condition")
    draws = bft.sample(told, bft.samplers.importance(1000), jax.random.key(0))
    share, error = np.exp(LOG_ENDED), np.sqrt(np.exp(LOG_ENDED) * (1 - np.exp(LOG_ENDED)) / 1000)
    np.testing.assert_allclose(np.exp(draws.log_ended), share, atol=5 * error)
    certificate = bft.certify(told, Unlisted(), jax.random.key(1), num_particles=4, num_repeats=4)
    assert "enumeration" not in str(certificate.posterior_draws.claim)
