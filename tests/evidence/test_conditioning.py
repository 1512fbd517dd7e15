"""Constraints on text make the posterior the conditional distribution, not its masked look-alike.

The language of the samplers' tests, conditioned on texts that a pattern matches, under all three
policies at the horizon. Masking the next token and renormalising draws from another distribution:
unweighted, it is caught.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_proper_weights, assert_unbiased_weights
from samplers.language import LANGUAGE, NUM_TOKENS, POLICIES, replicated

from bayesft._sample import sample
from bayesft.draws import log_mean_exp
from bayesft.evidence import context_free, regex
from bayesft.samplers import importance, smc
from bayesft.testing import enumerate_target

pytest.importorskip("outlines_core")
pytest.importorskip("llguidance")

RUNS = 4000
PATTERN = regex("a*(b|ab)?", LANGUAGE)


def exact_of(policy):
    return enumerate_target(replicated(PATTERN, 1, policy))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "sampler",
    [importance(16), pytest.param(smc(16, ess_threshold=1), marks=pytest.mark.slow)],
    ids=["importance", "smc"],
)
def test_weights_are_proper_for_the_conditional_distribution(policy, sampler):
    assert_proper_weights(replicated(PATTERN, RUNS, policy), sampler)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_posterior_is_the_prior_conditioned_on_the_pattern(policy):
    plain, exact = enumerate_target(replicated(None, 1, policy)), exact_of(policy)
    texts = [LANGUAGE.decode(row) for row in exact.tokens]
    matches = np.asarray([text.lstrip("a") in ("", "b") for text in texts])
    share = np.exp(plain.log_probs)[matches].sum()
    truth = np.where(matches, np.exp(plain.log_probs) / share, 0.0)
    np.testing.assert_allclose(np.exp(exact.log_probs), truth, atol=1e-6)


def masked(policy: str, *, weigh: bool):
    """Draws that mask and renormalise each next token, as `draws` would hold them."""
    target = replicated(PATTERN, 1, policy)
    evidence, exact = target.terms[0].evidence, exact_of(policy)
    x = jax.tree.map(lambda a: a[0], target.xs)
    proposal, weights = [], []
    for row, length in zip(exact.tokens, exact.lengths, strict=True):
        model, logits = LANGUAGE.init(x)
        state, log_q, log_w = evidence.init(x), 0.0, 0.0
        for t, token in enumerate(row[:length].tolist()):
            logits = target.horizon.constrain(logits, jnp.int32(t), LANGUAGE.eos)
            log_probs = jax.nn.log_softmax(logits) + evidence.increments(state, 3)
            if log_probs[token] == -jnp.inf:
                log_q = -np.inf
                break
            total = float(jax.nn.logsumexp(log_probs))
            log_q, log_w = log_q + float(log_probs[token]) - total, log_w + total
            state, _ = evidence.step(state, jnp.int32(token))
            model, logits = LANGUAGE.step(model, jnp.int32(token))
        proposal.append(log_q)
        weights.append(log_w if weigh else 0.0)
    return np.exp(proposal), np.asarray(weights), exact


@pytest.mark.parametrize("policy", ["truncate", "force"])
def test_masking_without_weights_is_caught(policy):
    """Planted bug: what a sampler that only masks would return."""
    proposal, weights, exact = masked(policy, weigh=True)
    np.testing.assert_allclose(proposal.sum(), 1.0, atol=1e-5)  # no prefix is a dead end
    # Weighed, it is the posterior again.
    right = proposal * np.exp(weights)
    np.testing.assert_allclose(right / right.sum(), np.exp(exact.log_probs), atol=1e-5)
    assert abs(proposal - np.exp(exact.log_probs)).max() > 0.05

    rows = np.random.default_rng(0).choice(len(proposal), (RUNS, 16), p=proposal / proposal.sum())

    class Draws:
        tokens, lengths = exact.tokens[rows], exact.lengths[rows]

    for unweighted in (True, False):
        draws = Draws()
        constant = np.full(rows.shape, float(exact.log_z), np.float32)
        draws.log_weights = constant if unweighted else weights[rows].astype(np.float32)
        draws.log_z = log_mean_exp(jnp.asarray(draws.log_weights))
        if unweighted:
            with pytest.raises(AssertionError, match="means are wrong"):
                assert_unbiased_weights(draws, exact, resolution=0.2)
        else:
            assert_unbiased_weights(draws, exact, resolution=0.2)


@pytest.mark.slow
def test_a_grammar_on_the_host_weighs_as_the_table_does():
    grammar = context_free('start: "a"* ("b" | "ab")?', LANGUAGE)
    for policy in POLICIES:
        other = enumerate_target(replicated(grammar, 1, policy))
        np.testing.assert_allclose(other.log_z, exact_of(policy).log_z, atol=1e-6)
    sampler = smc(16, ess_threshold=1)
    assert_proper_weights(replicated(grammar, RUNS, "condition"), sampler)
    one, again = (
        sample(replicated(context_free('start: "a"*', LANGUAGE), 3), sampler, jax.random.key(0))
        for _ in range(2)
    )
    assert (one.tokens == again.tokens).all() and one.tokens.shape[-1] == NUM_TOKENS
