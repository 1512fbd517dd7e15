"""Temperature, top-p and masks: their density by hand, and that of their draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft as bft
from bayesft.base import Horizon
from bayesft.errors import GuideError, TargetError
from bayesft.priors import markov, shaped
from bayesft.priors.sequence import SequenceDistribution
from bayesft.testing import assert_frequencies

FIRST = np.log([0.5, 0.3, 0.15, 0.05])
NEXT = np.log([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.25] * 4])
PRIOR = markov(jnp.asarray(FIRST), jnp.asarray(NEXT), eos=3)
T = 2
CASES = {
    "temperature": {"temperature": 0.7},
    "top-p": {"top_p": 0.75},
    "mask": {"banned": [1]},
    "all": {"temperature": 1.5, "top_p": 0.8, "banned": [2]},
}
POLICIES = [*((name, "truncate") for name in CASES), ("all", "force")]


def by_hand(logits, temperature=1.0, top_p=1.0, banned=()):
    p = np.exp(logits / temperature)
    p[list(banned)] = 0
    p /= p.sum()
    order = np.argsort(-p)
    cut = int(np.searchsorted(np.cumsum(p[order]), top_p - 1e-6)) + 1
    p[order[cut:]] = 0
    return p / p.sum()


@pytest.mark.parametrize(("name", "eos"), POLICIES)
def test_the_density_is_that_of_the_draws_and_the_one_by_hand(name, eos):
    options = CASES[name]
    prior = shaped(PRIOR, **options)
    x = jax.tree.map(lambda a: a[0], bft.Target(prior, max_new_tokens=T).xs)
    law = SequenceDistribution(prior, x, Horizon(T, eos))
    rows = jnp.asarray(PRIOR.enumerate(T))
    log_probs, (drawn, told) = jax.jit(
        lambda rows, keys: (
            jax.vmap(law.log_prob)(rows),
            jax.vmap(law.sample_and_log_prob)(keys),
        )
    )(rows, jax.random.split(jax.random.key(0), 4096))
    log_probs = np.asarray(log_probs)
    first = by_hand(FIRST, **options)
    for row, log_prob in zip(np.asarray(rows), log_probs, strict=True):
        second = by_hand(NEXT[row[0]], **options)[row[1]] if eos == "truncate" else row[1] == 3
        chance = first[row[0]] * (1.0 if row[0] == 3 else second)
        np.testing.assert_allclose(np.exp(log_prob), chance, atol=1e-6)
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, atol=1e-5)
    index = (drawn[:, None] == rows[None]).all(-1).argmax(-1)
    np.testing.assert_allclose(told, log_probs[index], atol=1e-5)
    possible = np.isfinite(log_probs)
    assert possible[index].all()
    counts = np.bincount(index, minlength=len(rows))[possible]
    assert_frequencies(counts, np.exp(log_probs[possible]), family=len(POLICIES))


def test_a_mask_gives_way_where_nothing_else_is_left():
    certain = jnp.log(jnp.asarray([0.0, 1.0, 0.0, 0.0]))
    prior = shaped(markov(certain, jnp.asarray(NEXT), eos=3), banned=[1])
    np.testing.assert_array_equal(prior.shape(certain), certain)


def test_it_truncates_with_top_p_and_masks_alone():
    assert [shaped(PRIOR, **o).truncates for o in CASES.values()] == [False, True, True, True]


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_p": 95}, {"top_p": 0.0}, {"banned": [4]}]
)
def test_what_is_no_distribution_is_refused(options):
    with pytest.raises(TargetError, match="is no distribution"):
        shaped(PRIOR, **options)
    with pytest.raises(GuideError, match="not for training"):
        bft.trainable(shaped(PRIOR))
