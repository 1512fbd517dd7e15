"""SMC: proper weights under every setting, segments, and the corner cases of resampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_proper_weights
from samplers.language import (
    HAS_AB,
    IN_JAX,
    IN_PYTHON,
    LOG_ENDED,
    LOG_Z,
    NO_TOKEN,
    NUM_TOKENS,
    POLICIES,
    TOKEN_BY_TOKEN,
    WITHOUT_B,
    guide,
    replicated,
)

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import SamplerError
from bayesft.evidence import reward
from bayesft.samplers import ended, importance, smc
from bayesft.samplers.resampling import SCHEMES
from bayesft.testing import assert_unbiased, enumerate_target

RUNS = 4000
KEY = jax.random.key(0)


# ---- the claim ----------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", POLICIES)
def test_token_evidence(eos):
    target = replicated(TOKEN_BY_TOKEN, RUNS, eos)
    assert enumerate_target(target).log_z == pytest.approx(LOG_Z[eos], abs=1e-5)
    for threshold in (0, 0.9, 1):
        assert_proper_weights(target, smc(16, ess_threshold=threshold), seed=1)


def test_probability_of_ending_is_sampled_where_the_prior_cannot_be_listed(monkeypatch):
    monkeypatch.setattr(ended, "MAX_OUTCOMES", 0)
    draws = sample(replicated(TOKEN_BY_TOKEN, RUNS, "condition"), smc(16), KEY)
    estimates = np.exp(np.asarray(draws.log_ended))
    assert_unbiased(estimates, np.exp(LOG_ENDED), resolution=0.03, family=FAMILY)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_resampling_scheme(scheme):
    sampler = smc(16, ess_threshold=1, resampling=scheme)
    assert_proper_weights(replicated(TOKEN_BY_TOKEN, RUNS), sampler)


@pytest.mark.parametrize("evidence", [IN_JAX, IN_PYTHON], ids=["in JAX", "in Python"])
def test_evidence_on_whole_sequences(evidence):
    target = replicated(evidence, RUNS, "condition")
    for every in (None, 2, 1):
        assert_proper_weights(target, smc(16, ess_threshold=0.9, every=every), seed=2)


def test_a_guide_proposes():
    target = replicated(TOKEN_BY_TOKEN, RUNS, "condition")
    assert_proper_weights(target, smc(16, guide(), ess_threshold=0.9))


def test_a_constraint_that_a_prefix_does_not_meet_yet():
    target = replicated(HAS_AB + 0.5 * TOKEN_BY_TOKEN, RUNS, "condition")
    for every in (None, 1):
        assert_proper_weights(target, smc(16, ess_threshold=0.9, every=every), resolution=0.3)


def test_many_runs_with_a_single_survivor_or_none():
    target = replicated(WITHOUT_B, RUNS)
    draws = sample(target, smc(2), jax.random.key(3))
    alive = np.isfinite(np.asarray(draws.log_weights)).sum(1)
    assert set(alive.tolist()) == {0, 1, 2}
    assert ((draws.status == Status.ALL_DEAD) == (alive == 0)).all()
    assert np.isneginf(np.asarray(draws.log_z)[alive == 0]).all()
    assert_proper_weights(target, smc(2), seed=3, resolution=0.35)


# ---- corner cases -------------------------------------------------------------------------------


def test_all_dead_ends_early_without_nan():
    target = replicated(NO_TOKEN, RUNS)
    for sampler in (smc(16), importance(16)):
        draws = sample(target, sampler, KEY)
        assert (draws.status == Status.ALL_DEAD).all()
        assert np.isneginf(np.asarray(draws.log_z)).all()
        assert (draws.lengths == 1).all()
        for field in dataclasses.fields(draws):
            if isinstance(value := getattr(draws, field.name), jax.Array):
                assert not jnp.isnan(value).any()
        assert not draws.ess.any()


def test_nothing_is_resampled_once_a_prompt_has_ended_or_never():
    never = sample(replicated(TOKEN_BY_TOKEN, RUNS), smc(16, ess_threshold=0), KEY)
    assert not never.info["num_resamples"].any()
    always = sample(replicated(TOKEN_BY_TOKEN, RUNS), smc(16, ess_threshold=1), KEY)
    moved = np.asarray(always.info["ancestors"]) != np.arange(16)
    assert not moved[0].any()
    longest = np.asarray(always.lengths).max(1)
    for t in range(NUM_TOKENS):
        assert not moved[t, longest <= t].any()
    assert (always.info["num_resamples"] >= moved.any(2).sum(0)).all()
    assert (always.info["num_resamples"] <= NUM_TOKENS - 1).all()


def test_ancestors_keep_survivors_in_place():
    ancestors = np.asarray(
        sample(replicated(TOKEN_BY_TOKEN, RUNS), smc(16, ess_threshold=1), KEY).info["ancestors"]
    )
    for row in ancestors[:, :50].reshape(-1, 16):
        alive = np.unique(row)
        np.testing.assert_array_equal(row[alive], alive)


def test_history_holds_every_trajectory():
    target = replicated(TOKEN_BY_TOKEN, 50)
    draws = sample(target, smc(16, ess_threshold=1), KEY)
    history = draws.info["history"]
    ancestors, tokens = np.asarray(history.ancestors), np.asarray(history.tokens)
    slot = np.broadcast_to(np.arange(16), (50, 16))
    for t in reversed(range(NUM_TOKENS)):
        reached = np.asarray(draws.lengths) > t
        found = np.take_along_axis(tokens[t], slot, 1)
        assert (found == np.asarray(draws.tokens)[..., t])[reached].all()
        slot = np.take_along_axis(ancestors[t], slot, 1)
    total = np.exp(np.asarray(history.log_weights[0])).mean(1)
    counts = (tokens[0] == 0).sum(1)
    np.testing.assert_allclose(total, (counts * np.e + 16 - counts) / 16, rtol=1e-5)


# ---- segments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", [IN_JAX, IN_PYTHON], ids=["in JAX", "in Python"])
def test_evidence_at_delimiters(evidence):
    target = replicated(evidence, RUNS, "condition")
    assert_proper_weights(target, smc(16, ess_threshold=0.9, delimiter="a"), seed=2)


def test_python_evidence_sees_prefixes_up_to_their_last_delimiter():
    calls = []

    def count(completion_ids):
        calls.append([tuple(ids) for ids in completion_ids])
        return [float(ids.count(0)) for ids in completion_ids]

    target = replicated(reward(count, beta=1.0), 3)
    draws = sample(target, smc(16, delimiter=[0]), KEY)
    ends = [ids for rows in calls for ids in rows]
    assert all(ids[-1] in (0, 2) or len(ids) == NUM_TOKENS for ids in ends)
    assert any(ids[-1] == 0 and len(ids) < NUM_TOKENS for ids in ends)
    for p in range(3):  # prompts stop by themselves: one alone draws the same
        alone = sample(target.select([p]), smc(16, delimiter=[0]), KEY)
        assert (alone.tokens[0] == draws.tokens[p]).all()
        assert (alone.log_weights[0] == draws.log_weights[p]).all()


def test_increments_telescope():
    """Without resampling, evaluating prefixes on the way changes nothing in the end."""
    target = replicated(IN_JAX, RUNS, "condition")
    once = sample(target, smc(16, ess_threshold=0), KEY)
    for every in (1, 3):
        often = sample(target, smc(16, ess_threshold=0, every=every), KEY)
        assert (often.tokens == once.tokens).all()
        assert (often.log_evidence == once.log_evidence).all()
        np.testing.assert_allclose(often.log_weights, once.log_weights, atol=1e-5)


def test_python_evidence_is_called_once_per_segment_for_open_rows():
    calls = []

    def count(completion_ids):
        calls.append([tuple(ids) for ids in completion_ids])
        return [0.0] * len(completion_ids)

    target = replicated(reward(count, beta=1.0), 2)
    draws = sample(target, smc(50, every=2), KEY)
    first, second = calls
    assert len(first) == 100 and max(map(len, first)) == 2
    # Rows that ended in the first segment have their value already.
    assert len(second) == sum(2 not in ids for ids in first)
    assert all(len(ids) > 2 for ids in second)
    assert draws.info["ess"].shape == (2, 2)


def test_init_step_and_finish_are_what_run_does():
    sampler, target = smc(16, every=2), replicated(IN_JAX, RUNS, "condition")
    state, history = sampler.init(target, KEY), []
    with pytest.raises(SamplerError, match="not been stepped"):
        sampler.finish(KEY, state)
    while not state.finished:
        again, _ = sampler.step(KEY, state)
        state, info = sampler.step(KEY, state)  # a step leaves its state usable
        history.append(info)
        assert (again.particles.log_weights == state.particles.log_weights).all()
    draws, ran = sampler.finish(KEY, state, history), sampler.run(target, KEY)
    assert (draws.tokens == ran.tokens).all()
    assert (draws.log_weights == ran.log_weights).all()
    assert (draws.info["ess"] == ran.info["ess"]).all()


def test_settings_are_checked():
    for settings in (
        dict(num_particles=0),
        dict(num_particles=8, ess_threshold=64),
        dict(num_particles=8, ess_threshold=float("nan")),
        dict(num_particles=8, resampling="systematic"),
        dict(num_particles=8, every=0),
        dict(num_particles=8, every=2, delimiter="a"),
    ):
        with pytest.raises(SamplerError, match=list(settings)[-1]):
            smc(**settings)
