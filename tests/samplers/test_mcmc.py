"""The driver of chains: starts, burn-in, thinning, keys, diagnostics, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_law
from samplers.kernels import IN_BOTH, exact_draws, one_target
from samplers.language import (
    IN_PYTHON,
    LANGUAGE,
    NO_TOKEN,
    NOTHING,
    NUM_TOKENS,
    TOKEN_BY_TOKEN,
    outcome_of,
    replicated,
)

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import EvidenceError, SamplerError
from bayesft.evidence import potential, power, reward
from bayesft.samplers import importance
from bayesft.samplers.chains import block_gibbs, particle_gibbs, starts, suffix_resampling
from bayesft.samplers.mcmc import mcmc
from bayesft.target import Target
from bayesft.testing import assert_frequencies, enumerate_target

KEY = jax.random.key(0)
SUFFIX = suffix_resampling()
KERNELS = {
    "suffix": SUFFIX,
    "blocks": [block_gibbs(2), SUFFIX],
    "particles": particle_gibbs(3, ess_threshold=1),
}


def same(a, b) -> bool:
    names = ("tokens", "lengths", "log_prior", "log_evidence")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


# ---- the run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_keys_and_batches(name):
    """The same key, the same draws; a prompt in a batch equals the same prompt alone; chain c is
    the same however many others there are."""
    target = Target(LANGUAGE, IN_BOTH, prompts=["", "ab", "ab"], max_new_tokens=NUM_TOKENS)
    sampler = mcmc(KERNELS[name], 6, 5)
    draws = sample(target, sampler, KEY)
    assert same(draws, sample(target, sampler, KEY))
    assert not same(draws, sample(target, sampler, jax.random.key(1)))
    assert (draws.tokens[1] != draws.tokens[2]).any()
    fewer = sample(target.select([1]), mcmc(KERNELS[name], 3, 5), KEY)
    assert (fewer.tokens[0] == draws.tokens[1, : 3 * 5]).all()


def test_burn_in_and_thinning_pick_states_of_one_run():
    target = one_target()
    shape = (NUM_TOKENS,)
    every = sample(target, mcmc(SUFFIX, 5, 12), KEY).tokens.reshape(1, 5, 12, *shape)
    picked = sample(target, mcmc(SUFFIX, 5, 12, burn_in=3, thin=4), KEY)
    assert picked.info["chain_shape"] == (5, 2)
    assert (picked.tokens.reshape(1, 5, 2, *shape) == every[:, :, [6, 10]]).all()


def test_steps_and_python_evidence_make_the_same_run():
    """One jitted loop, halves with the host between them, and single steps draw the same."""
    in_jax = sample(replicated(TOKEN_BY_TOKEN, 2), mcmc(SUFFIX, 4, 6, burn_in=2), KEY)
    in_python = sample(replicated(IN_PYTHON, 2), mcmc(SUFFIX, 4, 6, burn_in=2), KEY)
    assert same(in_jax, in_python)
    for name in ("acceptance", "acceptance_by_kernel", "r_hat"):
        np.testing.assert_array_equal(in_jax.info[name], in_python.info[name])
    target, sampler = replicated(TOKEN_BY_TOKEN, 2), mcmc(SUFFIX, 4, 6)
    state = sampler.init(target, KEY)
    for _ in range(6):
        state, info = sampler.step(KEY, state)
    assert info.moved.shape == (1, 2, 4)
    assert (state.chains.tokens == in_jax.tokens.reshape(2, 4, 4, -1)[:, :, -1]).all()


def test_python_evidence_is_called_once_per_step_for_all_chains():
    calls = []

    def count(completion_ids):
        calls.append(len(completion_ids))
        return [ids.count(0) for ids in completion_ids]

    target = replicated(reward(count, beta=1.0), 3)
    sample(target, mcmc(SUFFIX, 4, 5), KEY)
    assert len(calls) == 1 + 5 and max(calls) == 12


@pytest.mark.parametrize(
    "kernel",
    [
        [block_gibbs(1, 2), SUFFIX],
        pytest.param(particle_gibbs(2, ess_threshold=1), marks=pytest.mark.slow),  # op by op
    ],
)
def test_jit_equals_eager(kernel):
    target = Target(LANGUAGE, TOKEN_BY_TOKEN, max_new_tokens=2)
    draws = sample(target, mcmc(kernel, 2, 2), KEY)
    with jax.disable_jit():
        eager = sample(target, mcmc(kernel, 2, 2), KEY)
    assert (draws.tokens == eager.tokens).all()
    np.testing.assert_allclose(draws.log_prior, eager.log_prior, atol=1e-5)


def test_one_trace_per_shape():
    traces = []

    def count(tokens, length):
        traces.append(None)
        return jnp.sum(tokens == 0).astype(jnp.float32)

    counted = potential(count)

    def run(prompts, scale, num_steps, seed):
        target = Target(LANGUAGE, scale * counted, prompts=prompts, max_new_tokens=NUM_TOKENS)
        sampler = mcmc(KERNELS["blocks"], 4, num_steps, burn_in=num_steps - 2)
        sample(target, sampler, jax.random.key(seed))
        return len(traces)

    assert 0 < run(["ab", "a"], 0.5, 4, 0) == run(["ba", "b"], 0.25, 9, 1)


def test_info_tells_how_the_chains_mix():
    target = one_target()
    draws = sample(target, mcmc(KERNELS["blocks"], 8, 200, burn_in=50), KEY)
    assert draws.info["acceptance_by_kernel"].shape == (2, 1)
    assert 0.1 < draws.info["acceptance"][0] < 0.9
    if (r_hat := draws.info["r_hat"]) is not None:
        assert r_hat[0] < 1.05
        short = sample(target, mcmc(SUFFIX, 8, 200, initial=draws), KEY)
        assert short.info["r_hat"].shape == (1,)
        assert np.isnan(sample(target, mcmc(SUFFIX, 1, 5), KEY).info["r_hat"]).all()
    assert (draws.status == Status.OK).all()


# ---- power targets ------------------------------------------------------------------------------


def test_a_power_target_is_global_and_not_a_temperature_per_token():
    alpha, target = 4.0, Target(LANGUAGE, power(LANGUAGE, 4.0), max_new_tokens=NUM_TOKENS)
    exact = enumerate_target(Target(LANGUAGE, max_new_tokens=NUM_TOKENS))
    globally = np.exp(alpha * exact.log_probs)
    globally /= globally.sum()
    per_token = np.asarray(_tempered_per_token(alpha, exact.tokens))
    assert abs(per_token.sum() - 1) < 1e-5
    assert np.abs(per_token - globally).sum() / 2 > 0.1
    for kernel in (SUFFIX, [block_gibbs(2, 3), SUFFIX]):
        draws = sample(target, mcmc(kernel, 10_000, 40, burn_in=39), KEY)
        assert_law(draws, enumerate_target(target), globally, resolution=0.06)
    counts = np.bincount(outcome_of(draws, exact.tokens).ravel(), minlength=len(globally))
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(counts, per_token)


def _tempered_per_token(alpha, outcomes):
    """Probabilities of the outcomes under the language with every row to the power α."""

    def renormalised(log_probs):
        return jax.nn.log_softmax(alpha * jnp.asarray(log_probs), axis=-1)

    first = renormalised(np.log([0.5, 0.3, 0.2]))
    rows = renormalised(np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]]))
    before, after = outcomes[:, :-1], outcomes[:, 1:]
    steps = np.where(before == 2, 0.0, np.asarray(rows)[before, after])
    return np.exp(np.asarray(first)[outcomes[:, 0]] + steps.sum(1))


# ---- starts -------------------------------------------------------------------------------------


def test_a_start_needs_something_possible():
    for evidence in (NO_TOKEN, NOTHING):
        with pytest.raises(SamplerError, match="no place to start"):
            sample(one_target(evidence=evidence), mcmc(SUFFIX, 4, 5), KEY)


def test_a_rare_start_is_shared_by_the_chains(monkeypatch):
    monkeypatch.setattr(starts, "MAX_TRIES", 64)
    rare = potential(lambda tokens, length: jnp.where((tokens[:3] == 1).all(), 0.0, -jnp.inf))
    state = mcmc(SUFFIX, 40, 5).init(one_target(evidence=rare), KEY)
    assert (np.asarray(state.chains.tokens)[..., :3] == 1).all()
    assert np.isfinite(state.chains.log_evidence).all()


def test_initial_draws_are_taken_by_weight_or_as_they_are():
    target = one_target()
    weighted = sample(target, importance(20_000), KEY)
    state = mcmc(SUFFIX, 30_000, 1, initial=weighted).init(target, KEY)
    exact = enumerate_target(target)
    rows = outcome_of(dataclasses.replace(weighted, tokens=state.chains.tokens), exact.tokens)
    weights, outcomes = np.asarray(weighted.weights)[0], outcome_of(weighted, exact.tokens)[0]
    share = np.bincount(outcomes, weights, minlength=len(exact.log_probs))
    assert_frequencies(np.bincount(rows.ravel(), minlength=len(share)), share, resolution=0.04)
    given = exact_draws(target, 10)
    state = mcmc(SUFFIX, 10, 1, initial=given).init(target, KEY)
    assert (state.chains.tokens == given.tokens).all()


def test_initial_draws_that_do_not_fit():
    given = exact_draws(one_target(), 10)
    with pytest.raises(SamplerError, match="the target has 2 prompts"):
        sample(replicated(IN_BOTH, 2), mcmc(SUFFIX, 10, 2, initial=given), KEY)
    with pytest.raises(SamplerError, match="has density 0"):
        sample(one_target(evidence=NO_TOKEN), mcmc(SUFFIX, 10, 2, initial=given), KEY)
    dead = dataclasses.replace(given, log_weights=given.log_weights - jnp.inf)
    with pytest.raises(SamplerError, match="no initial draw of positive weight"):
        sample(one_target(), mcmc(SUFFIX, 10, 2, initial=dead), KEY)
    with pytest.raises(SamplerError, match="not draws"):
        mcmc(SUFFIX, 10, 2, initial=given.tokens)  # pyright: ignore


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [SUFFIX, [block_gibbs(1), SUFFIX], particle_gibbs(2)])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_evidence_that_is_no_log_potential_met_on_the_way(kernel, value):
    def wrong(tokens, length):
        return jnp.where(length > 2, value, 0.0)

    target = one_target(evidence=potential(wrong))
    start = dataclasses.replace(exact_draws(one_target(), 8))
    end = jnp.full_like(start.tokens, 2)
    start = dataclasses.replace(start, tokens=end, lengths=jnp.ones_like(start.lengths))
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(target, mcmc(kernel, 8, 20, initial=start), KEY)


def test_settings_out_of_range():
    for settings in [(0, 5), (4, 0), (4, 5, -1), (4, 5, 0, 0), (2.0, 5)]:
        with pytest.raises(SamplerError, match="not a count"):
            mcmc(SUFFIX, *settings)
    for settings in [(4, 5, 5), (4, 5, 7), (4, 5, 3, 3)]:
        with pytest.raises(SamplerError, match="leave none of num_steps=5"):
            mcmc(SUFFIX, *settings)
    for kernel in ([], suffix_resampling, [SUFFIX, "gibbs"], None):
        with pytest.raises(SamplerError, match="is no kernel"):
            mcmc(kernel, 4, 5)  # pyright: ignore
