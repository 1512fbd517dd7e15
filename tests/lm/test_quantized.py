"""int8 weights: rounded as said, used as rounded, frozen, and the base of a LoRA guide."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft as bft
from bayesft.base import Horizon, Prompt
from bayesft.errors import GuideError, ModelError

qwix = pytest.importorskip("qwix", reason="int8 weights need qwix (the extra int8)")
TOKENS = jnp.asarray([[1, 5, 9, 14, 3], [1, 7, 7, 2, 2]], jnp.int32)


@pytest.fixture(scope="module")
def small(tiny):
    return bft.lm.quantize(tiny)


def is_small(leaf) -> bool:
    return isinstance(leaf, qwix.QArray)


def multiplied_out(lm):
    """The model whose floats are what the int8 weights stand for."""
    full = lambda leaf: qwix.dequantize(leaf) if is_small(leaf) else leaf
    return dataclasses.replace(lm, weights=jax.tree.map(full, lm.weights, is_leaf=is_small))


def test_weights_are_off_by_half_a_step_and_logits_follow(tiny, small):
    rounded = multiplied_out(small)
    kernel = tiny.weights["layers"][0]["mlp"]["up"]["kernel"]
    error = np.abs(rounded.weights["layers"][0]["mlp"]["up"]["kernel"] - kernel)
    assert (error <= np.abs(kernel).max(0) / 254 * (1 + 1e-4)).all() and error.max() > 0
    np.testing.assert_allclose(small.logits(TOKENS), rounded.logits(TOKENS), rtol=1e-5, atol=1e-5)
    # The planted bug: a model that ignores its int8 weights would have the logits of `tiny`.
    assert np.abs(small.logits(TOKENS) - tiny.logits(TOKENS)).max() > 1e-3


def test_kernels_take_a_quarter_of_the_memory(tiny, small):
    def kernels(lm) -> int:
        leaves = jax.tree.leaves([layer["mlp"]["up"] for layer in lm.weights["layers"].values()])
        return sum(leaf.nbytes for leaf in leaves)

    scales = 4 * 48 * 2  # one float32 for each output of gate and up in two layers
    assert kernels(small) == kernels(tiny) / 4 + scales
    assert small.weights["embedding"] is tiny.weights["embedding"]


def test_a_lora_guide_learns_over_frozen_int8_weights(small):
    guide = bft.lm.lora(small, rank=2, key=jax.random.key(0))
    np.testing.assert_array_equal(guide.logits(TOKENS), small.logits(TOKENS))
    x = Prompt(TOKENS[0, :2], jnp.int32(2), jnp.int32(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) / 4), guide.params)

    @jax.jit
    def gradient(guide, params):
        score = lambda p: guide.with_params(p).token_log_probs(TOKENS[0, 2:], x, Horizon(3)).sum()
        return jax.grad(score)(params)

    float_guide = dataclasses.replace(guide, weights=multiplied_out(small).weights)
    for ours, theirs in zip(
        jax.tree.leaves(gradient(guide, params)),
        jax.tree.leaves(gradient(float_guide, params)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        assert np.abs(ours).max() > 0
    moved = guide.with_params(params)
    np.testing.assert_allclose(
        moved.merge().logits(TOKENS), moved.logits(TOKENS), rtol=1e-4, atol=1e-4
    )


def test_what_is_frozen_is_not_trained_or_saved(small, tiny, tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be trained whole"):
        bft.trainable(small)
    with pytest.raises(ModelError, match="cannot be saved"):
        small.save(tmp_path / "out")
    with pytest.raises(GuideError, match="not a FullGuide"):
        bft.lm.quantize(bft.trainable(tiny))
