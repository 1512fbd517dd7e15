"""Training in less memory: micro-batches and rematerialisation change no gradient, half precision
loses no update."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bayesft as bft
from bayesft.base import Horizon, Prompt
from bayesft.lm.decoder import PRODUCTS
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program import record, replay_value_and_grad

HORIZON = Horizon(4)
PROMPTS = [[1, 5], [1, 9, 3], [1]]
NOTHING = jax.checkpoint_policies.nothing_saveable


def moved(guide, seed: int = 4):
    """The guide with random factors, so that every one of them matters."""
    rng = np.random.default_rng(seed)
    return guide.with_params(
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 4, x.dtype), guide.params)
    )


def norm_of(tree) -> float:
    return float(optax.tree.norm(tree))


def relative_distance(tree, other) -> float:
    return norm_of(jax.tree.map(jnp.subtract, tree, other)) / norm_of(other)


# ---- Micro-batches ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(golden: Path):
    """A guide on a llama, its target, and 3 × 2 lanes of the reverse KL."""
    lm = bft.lm.load(golden / "llama", tokenizer=False)
    odd = bft.evidence.potential(lambda tokens, _: (tokens % 2).sum().astype(jnp.float32))
    target = bft.Target(lm, odd, prompts=PROMPTS, max_new_tokens=4)
    guide = moved(bft.lm.lora(lm, rank=2, key=jax.random.key(0), target_modules=["q_proj"]))
    recording = record(
        bft.objectives.reverse_kl,
        jax.random.key(1),
        (bind(guide, HORIZON), target),
        target.xs,
        estimator=bft.estimators.leave_one_out(num_samples=2),
    )
    return guide, target, recording


def replayed(guide, target, recording, micro_batch=None):
    @jax.jit
    def replay(params, target, recording):
        return replay_value_and_grad(
            bft.objectives.reverse_kl,
            lambda params: (BoundGuide(guide.with_params(params), HORIZON), target),
            params,
            recording,
            estimator=bft.estimators.leave_one_out(num_samples=2),
            micro_batch=micro_batch,
        )

    return replay(guide.params, target, recording)


@pytest.fixture(scope="module")
def at_once(recorded):
    return replayed(*recorded)


@pytest.mark.parametrize("micro_batch", [1, 4])  # four do not divide six: two lanes are padding
def test_micro_batches_change_no_gradient_of_a_language_model(recorded, at_once, micro_batch: int):
    value, gradient = replayed(*recorded, micro_batch)
    np.testing.assert_allclose(value, at_once[0], rtol=1e-5)
    assert relative_distance(gradient, at_once[1]) < 1e-5


def test_a_planted_bug_is_caught(recorded, at_once):
    """Padding that counts: one lane per prompt twice."""
    guide, target, recording = recorded
    twice = lambda a: jnp.concatenate([a, a[:, :1]], axis=1)
    lanes = ("data", "stored", "costs")
    padded = {name: jax.tree.map(twice, getattr(recording, name)) for name in lanes}
    padded["keys"] = jax.random.wrap_key_data(twice(jax.random.key_data(recording.keys)))
    _, gradient = replayed(guide, target, dataclasses.replace(recording, **padded), 4)
    assert relative_distance(gradient, at_once[1]) > 1e-2


def buffers_as_large_as(lm) -> set[int]:
    """The buffers in memory that have the shape of one of the model's matrices."""
    shapes = {leaf.shape for leaf in jax.tree.leaves(lm.weights) if leaf.ndim == 2}
    return {a.unsafe_buffer_pointer() for a in jax.live_arrays() if a.shape in shapes}


def test_the_reference_model_is_the_base_of_a_guide_without_a_second_copy(recorded):
    guide, target, _ = recorded
    seen, before = [], buffers_as_large_as(target.prior)
    fitted = bft.fit(
        target,
        guide,
        objective=bft.objectives.reverse_kl,
        estimator=bft.estimators.leave_one_out(num_samples=2),
        optimizer=optax.adam(1e-3),
        num_steps=2,
        callbacks=[lambda info: seen.append(buffers_as_large_as(target.prior) - before)],
        key=jax.random.key(0),
    ).guide
    assert seen == [set(), set()]
    weights = zip(*(jax.tree.leaves(m.weights) for m in (fitted, target.prior)), strict=True)
    assert all(ours is theirs for ours, theirs in weights)
    merged = fitted.merge()
    assert buffers_as_large_as(merged) - before  # the planted bug: a copy would be seen


# ---- Rematerialisation --------------------------------------------------------------------------


def score(params, guide, tokens, xs):
    """Total log-prob of tokens [P, K, T] after prompts [P]."""
    one = lambda y, x: guide.with_params(params).token_log_probs(y, x, HORIZON).sum()
    return jax.vmap(jax.vmap(one, (0, None)))(tokens, xs).sum()


def prompts(size: int) -> Prompt:
    ids = jnp.asarray(np.random.default_rng(0).integers(3, 23, (2, size)), jnp.int32)
    return Prompt(ids, jnp.full(2, size, jnp.int32), jnp.arange(2, dtype=jnp.int32))


@pytest.mark.parametrize("policy", [NOTHING, PRODUCTS])
def test_remat_changes_no_gradient(tiny, policy):
    guide = moved(bft.lm.lora(tiny, rank=2, key=jax.random.key(0), target_modules=["o_proj"]))
    tokens = jnp.asarray(np.random.default_rng(1).integers(3, 23, (2, 3, 4)), jnp.int32)
    total = functools.partial(score, tokens=tokens, xs=prompts(3))
    gradient = jax.jit(jax.value_and_grad(total))
    stored, again = (gradient(guide.params, guide.with_remat(p)) for p in (None, policy))
    np.testing.assert_allclose(again[0], stored[0], rtol=1e-6)
    assert relative_distance(again[1], stored[1]) < 1e-5


def temporary_bytes(guide) -> int:
    tokens = jnp.zeros((2, 8, 4), jnp.int32)
    gradient = jax.jit(jax.grad(score)).lower(guide.params, guide, tokens, prompts(64))
    return gradient.compile().memory_analysis().temp_size_in_bytes


def test_remat_needs_less_memory(config):
    """Of six layers the inputs are stored, and the rest of one; by default, the products."""
    six = config | {"num_hidden_layers": 6, "vocab_size": 32, "max_position_embeddings": 128}
    guide = bft.trainable(bft.lm.initialise(six, jax.random.key(0)))
    everything = temporary_bytes(guide.with_remat(None))
    assert temporary_bytes(guide.with_remat(NOTHING)) < everything / 2
    assert guide.remat is PRODUCTS and temporary_bytes(guide) < 0.8 * everything


def test_a_guide_keeps_its_policy_and_another_one_is_another_trace(tiny):
    for guide in (bft.trainable(tiny), bft.lm.lora(tiny, rank=2, key=jax.random.key(0))):
        again = guide.with_remat(NOTHING)
        assert again.with_params(guide.params).remat is NOTHING
        assert jax.tree.structure(again) != jax.tree.structure(guide)
        assert jax.tree.structure(again.with_remat(PRODUCTS)) == jax.tree.structure(guide)


# ---- Half precision -----------------------------------------------------------------------------

STEP = optax.adam(
    1e-6
)  # a step of 1e-6 is below 1/256 of nearly all weights, which are of size 0.4


@pytest.fixture(scope="module")
def half(config):
    return bft.lm.initialise(config, jax.random.key(0), dtype=jnp.bfloat16)


def fitted(guide, num_steps: int = 8):
    data = bft.empirical([[5, 9, 2], [7, 4, 2]], prompts=PROMPTS[:2], max_new_tokens=3)
    return bft.fit(
        data,
        guide,
        objective=bft.objectives.mle,
        optimizer=STEP,
        num_steps=num_steps,
        key=jax.random.key(0),
    ).guide


def dtypes_of(tree) -> set:
    return {
        leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def changed(guide, start) -> float:
    """Share of the weights' matrices that are not what they were."""
    pairs = zip(jax.tree.leaves(guide.params), jax.tree.leaves(start.params), strict=True)
    different = [np.asarray(a != b).mean() for a, b in pairs if a.ndim == 2]
    return float(np.mean(different))


def test_a_guide_computes_in_half_precision_and_keeps_parameters_in_float32(half):
    full, lora = bft.trainable(half), bft.lm.lora(half, rank=2, key=jax.random.key(0))
    for guide in (full, lora):
        assert (
            dtypes_of(guide.params) == dtypes_of(STEP.init(guide.params)) == {jnp.dtype("float32")}
        )
        hidden = jax.eval_shape(guide.hidden_states, jnp.zeros(3, jnp.int32), half_prompt())
        assert hidden.dtype == jnp.bfloat16
    tokens = jnp.asarray([PROMPTS[1]], jnp.int32)
    np.testing.assert_array_equal(full.logits(tokens), half.logits(tokens))
    np.testing.assert_array_equal(lora.logits(tokens), half.logits(tokens))


def half_prompt() -> Prompt:
    return jax.tree.map(lambda leaf: leaf[0], prompts(2))


def test_tiny_updates_are_not_lost(half):
    start = bft.trainable(half)
    assert changed(fitted(start), start) > 0.5


def test_in_half_precision_tiny_updates_are_lost(half):
    """The planted bug: parameters in the dtype of the computation."""
    start = bft.trainable(half)
    rounded = start.with_params(half.weights)
    assert changed(fitted(rounded), rounded) < 0.1


def test_float32_models_share_their_arrays_with_a_guide(tiny):
    for ours, theirs in zip(
        jax.tree.leaves(bft.trainable(tiny)), jax.tree.leaves(tiny), strict=True
    ):
        assert ours is theirs


def test_what_was_trained_is_saved_in_full(half, tmp_path: Path):
    guide = bft.trainable(half)
    moved = guide.with_params(jax.tree.map(lambda x: x * (1 + 2**-12), guide.params))
    moved.save(tmp_path / "out")
    found = bft.lm.load(tmp_path / "out", tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, found.weights, moved.params)
