"""Caches that grow on the way: what is drawn has the density that teacher forcing gives it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft as bft
from bayesft.base import stages
from bayesft.base.stages import STAGED
from bayesft.lm.engine import DecodeState
from bayesft.priors.scoring import log_probs
from bayesft.priors.sequence import generate

EOS, NUM_PARTICLES = 2, 64
TOLERANCE = 1e-3  # sums of up to 128 log-probs of size 3, each off by a dozen roundings
ODD = bft.evidence.prefix_potential(
    lambda state, token: (state, jnp.where(token == EOS, -9.0, 0.5 * (token % 2))), ()
)
SAMPLERS = {
    "importance": bft.samplers.importance(NUM_PARTICLES),
    "smc": bft.samplers.smc(NUM_PARTICLES, ess_threshold=0.9),
    "smc in segments": bft.samplers.smc(NUM_PARTICLES, ess_threshold=0.9, every=50),
    "nested": bft.samplers.nested_smc(NUM_PARTICLES // 2, 2, block=50),
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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_particles_have_their_density(model, sampler):
    declared = target(model)
    draws = bft.sample(declared, SAMPLERS[sampler], jax.random.key(1))
    assert differences(declared, draws.tokens, draws.log_prior).max() < TOLERANCE


@pytest.mark.parametrize("forgets", [False, True])
def test_samples_have_their_density(model, forgets, monkeypatch):
    """Planted bug: a cache that grows and loses what was written."""
    if forgets:
        grow = DecodeState.with_capacity
        empty = lambda state: jax.tree.map(jnp.zeros_like, state.layers)
        monkeypatch.setattr(
            DecodeState,
            "with_capacity",
            lambda state, size: grow(dataclasses.replace(state, layers=empty(state)), size),
        )
    declared = target(model, STAGED + 2 * forgets)
    keys = jax.random.split(jax.random.key(2), (1, NUM_PARTICLES))
    found = jax.jit(generate, static_argnums=3)(model, declared.xs, keys, declared.horizon)
    off = differences(declared, found[0], found[1].sum(-1)).max()
    assert off > 1 if forgets else off < TOLERANCE


def test_the_first_loop_reads_half_the_cache(model):
    declared = target(model)
    keys = jax.random.split(jax.random.key(2), (1, 2))
    traced = jax.make_jaxpr(generate, static_argnums=3)(model, declared.xs, keys, declared.horizon)
    loops = [eqn for eqn in traced.eqns if eqn.primitive is jax.lax.while_p]
    sizes = [{v.aval.shape[2] for v in eqn.outvars if v.aval.ndim == 4} for eqn in loops]
    assert sizes == [{STAGED // 2}, {STAGED}]


def test_what_does_not_grow_has_one_stage(model):
    state, _ = jax.eval_shape(lambda xs: model.start(xs, 2, STAGED), target(model).xs)
    assert stages(state, STAGED) == (STAGED // 2, STAGED)
    assert stages(state, STAGED - 1) == (STAGED - 1,)
    assert stages((jnp.zeros(3),), STAGED) == (STAGED,)
