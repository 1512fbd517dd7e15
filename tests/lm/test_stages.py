"""Caches that grow on the way: what is drawn has the density that teacher forcing gives it."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft as bft
from bayesft.base import stages, withholding
from bayesft.base.stages import STAGED
from bayesft.lm.engine import DecodeState
from bayesft.priors.scoring import log_probs
from bayesft.priors.sequence import generate
from bayesft.samplers import sequential

EOS, NUM_PARTICLES = 2, 64
TOLERANCE = 1e-3  # sums of up to 128 log-probs of size 3, each off by a dozen roundings
ODD = bft.evidence.prefix_potential(
    lambda state, token: (state, jnp.where(token == EOS, -9.0, 0.5 * (token % 2))), ()
)
SAMPLERS = {
    "importance": bft.samplers.importance(NUM_PARTICLES),
    "smc": bft.samplers.smc(NUM_PARTICLES, ess_threshold=0.9),
    "smc in segments": bft.samplers.smc(NUM_PARTICLES, ess_threshold=0.9, every=50),
}


@pytest.fixture(scope="module")
def model(config):
    return bft.lm.initialise(config | {"max_position_embeddings": 256}, jax.random.key(0))


def target(model, num_tokens=STAGED):
    return bft.Target(model, ODD, prompts=[[1, 5]], max_new_tokens=num_tokens)


def differences(target, tokens, found) -> np.ndarray:
    """Of log-probs as they were found while drawing, from those of whole sequences."""
    lengths = np.asarray(bft.base.sequence_lengths(jnp.asarray(tokens), (EOS,)))
    assert (lengths > STAGED // 2 + 1).any()  # some draws have read what the first stage wrote
    scored = log_probs(target.prior, np.asarray(tokens), target.xs, target.horizon)
    return np.abs(np.asarray(found) - scored)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "from a guide"])
def test_particles_have_their_density(model, sampler):
    declared, guide = target(model), model.trainable()
    of_guide = bft.samplers.importance(NUM_PARTICLES, proposal=guide)  # beside the prior's state
    draws = bft.sample(declared, SAMPLERS.get(sampler, of_guide), jax.random.key(1))
    assert differences(declared, draws.tokens, draws.log_prior).max() < TOLERANCE


def test_steps_by_hand_leave_the_state_before_them_whole(model):
    """Draws as `run` gives them, with one segment over both stages; a state serves twice."""
    sampler, key = SAMPLERS["smc in segments"], jax.random.key(1)
    state, whole = sampler.init(target(model), key), bft.sample(target(model), sampler, key)
    while not state.finished:
        before = state
        state, _ = sampler.step(key, before)
    again, _ = sampler.step(key, before)
    for found in (state, again):
        np.testing.assert_array_equal(sampler.finish(key, found).tokens, whole.tokens)


def test_a_run_holds_one_copy_of_its_cache(model, monkeypatch):
    """Planted bug: the shorter buffers stay beside the longer ones."""
    sampler, held = SAMPLERS["importance"], []

    def run(keeps: bool):
        shorten = sequential.withholding
        held.clear()
        with monkeypatch.context() as patched:
            advance = sequential.advance_in_place
            patched.setattr(
                sequential,
                "advance_in_place",
                lambda *args: held.append(cached()) or advance(*args),
            )
            if keeps:
                patched.setattr(
                    sequential, "withholding", lambda state, number, free: shorten(state, number)
                )
            sampler.run(target(model), jax.random.key(1))
        return held[1] / held[0]

    def cached():
        return sum(
            a.nbytes for a in jax.live_arrays() if a.ndim == 4 and a.shape[0] == NUM_PARTICLES
        )

    assert run(keeps=False) == 2 and run(keeps=True) == 3


def samples(model, declared):
    """Drawn in a loop that is traced anew."""
    keys = jax.random.split(jax.random.key(2), (1, NUM_PARTICLES))
    draw = jax.jit(lambda model, xs, keys: generate(model, xs, keys, declared.horizon))
    return draw(model, declared.xs, keys)


def test_samples_are_those_of_one_stage(model, monkeypatch):
    declared = target(model)
    tokens, log_probs = samples(model, declared)
    assert differences(declared, tokens, log_probs.sum(-1)).max() < TOLERANCE
    monkeypatch.setattr(sys.modules[stages.__module__], "STAGED", STAGED + 1)
    np.testing.assert_array_equal(samples(model, declared)[0], tokens)


def test_a_cache_that_loses_what_was_written_is_caught(model, monkeypatch):
    grow = DecodeState.withholding
    empty = lambda state: jax.tree.map(jnp.zeros_like, state.layers)
    monkeypatch.setattr(
        DecodeState,
        "withholding",
        lambda state, number, free: grow(dataclasses.replace(state, layers=empty(state)), number),
    )
    declared = target(model)
    tokens, log_probs = samples(model, declared)
    assert differences(declared, tokens, log_probs.sum(-1)).max() > 1


def test_the_first_loop_reads_half_the_cache(model):
    declared = target(model)
    keys = jax.random.split(jax.random.key(2), (1, 2))
    traced = jax.make_jaxpr(generate, static_argnums=3)(model, declared.xs, keys, declared.horizon)
    loops = [eqn for eqn in traced.eqns if eqn.primitive is jax.lax.while_p]
    sizes = [{v.aval.shape[2] for v in eqn.outvars if v.aval.ndim == 4} for eqn in loops]
    assert sizes == [{STAGED // 2}, {STAGED}]


def test_stages_are_for_buffers_alone(model):
    state, _ = jax.eval_shape(lambda xs: model.start(xs, 2, STAGED), target(model).xs)
    assert stages(state, STAGED) == (STAGED // 2, STAGED)
    assert stages(state, STAGED - 1) == (STAGED - 1,)
    assert stages((jnp.zeros(3),), STAGED) == (STAGED,)


def test_positions_are_withheld_of_those_there_were(model):
    """A prior that starts a model with room for tokens of its own keeps that room."""
    state, _ = jax.eval_shape(lambda xs: model.start(xs, 2, 12), target(model).xs)
    resized = jax.eval_shape(lambda state: withholding(withholding(state, 5), 2), state)
    assert {cache.shape[2] for cache in jax.tree.leaves(resized.layers)} == {10}
