"""Log-probabilities: equal to log softmax of logits, chunked or not, and small in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft.lm
from bayesft.base import Horizon, Prompt
from bayesft.lm.activations import soft_cap
from bayesft.lm.log_probs import log_probs_of

TOLERANCE = dict(rtol=2e-5, atol=2e-5)  # see test_engine


@pytest.fixture(scope="module")
def case():
    """Hidden states [T, D], head rows [V, D], tokens [T] and cotangents [T]."""
    rng = np.random.default_rng(0)
    hidden, rows = rng.normal(size=(7, 8)), rng.normal(size=(50, 8))
    tokens, weights = rng.integers(0, 50, 7), rng.normal(size=7)
    as_float = lambda x: jnp.asarray(x, jnp.float32)
    return as_float(hidden), as_float(rows), jnp.asarray(tokens, jnp.int32), as_float(weights)


def plain(tokens, hidden, rows, cap=None):
    logits = jnp.matmul(hidden, rows.T, preferred_element_type=jnp.float32)
    log_probs = jax.nn.log_softmax(soft_cap(logits, cap))
    return jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]


def value_and_gradients(case, log_probs, *options):
    """Value, and gradients by hidden states alone, by the head alone, and by both."""
    hidden, rows, tokens, weights = case
    loss = lambda hidden, rows: jnp.sum(weights * log_probs(tokens, hidden, rows, *options))
    by_one = [jax.grad(loss, argnum)(hidden, rows) for argnum in (0, 1)]
    return *jax.value_and_grad(loss, (0, 1))(hidden, rows), by_one


def assert_close(ours, theirs, **tolerance):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **tolerance or TOLERANCE), ours, theirs
    )


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("chunk", [10, 16, 49, 50, 64])
def test_chunks_change_neither_value_nor_gradient(case, chunk: int, cap: float | None):
    ours = value_and_gradients(case, log_probs_of, cap, chunk)
    assert_close(ours, value_and_gradients(case, plain, cap))


def test_a_planted_bug_is_caught(case, monkeypatch: pytest.MonkeyPatch):
    """A slope that forgets the derivative of the cap."""
    monkeypatch.setattr(bayesft.lm.log_probs, "_bent", lambda weights, *_: weights)
    ours = value_and_gradients(case, log_probs_of, 2.0, 16)
    with pytest.raises(AssertionError):
        assert_close(ours, value_and_gradients(case, plain, 2.0))


def test_sums_over_bfloat16_are_in_float32(case):
    """Products of bfloat16 are exact in float32; only gradients are rounded, to 8 bits."""
    hidden, rows, tokens, weights = case
    half = (hidden.astype(jnp.bfloat16), rows.astype(jnp.bfloat16), tokens, weights)
    wide = (*(x.astype(jnp.float32) for x in half[:2]), tokens, weights)
    value, gradients, by_one = value_and_gradients(half, log_probs_of, None, 16)
    expected, expected_gradients, _ = value_and_gradients(wide, plain)
    np.testing.assert_allclose(value, expected, **TOLERANCE)
    for found in (gradients, by_one):
        assert {leaf.dtype for leaf in found} == {jnp.dtype("bfloat16")}
        for ours, theirs in zip(found, expected_gradients, strict=True):
            # One rounding of each softmax weight and one of each sum, of terms of size 3.
            np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-8, atol=3 * 2**-7)


def test_gradients_per_lane_add_up_to_the_gradient_of_all_lanes(case):
    """The head's cotangent is per lane where lanes are asked for, and summed where they are not."""
    hidden, rows, tokens, _ = case
    lanes = jnp.stack([hidden, 2 * hidden, -hidden])
    loss = lambda rows, hidden: log_probs_of(tokens, hidden, rows, chunk=16).sum()
    each = jax.vmap(jax.grad(loss), (None, 0))(rows, lanes)
    alone = jnp.stack([jax.grad(loss)(rows, lane) for lane in lanes])
    together = jax.grad(lambda rows: jax.vmap(loss, (None, 0))(rows, lanes).sum())(rows)
    np.testing.assert_allclose(each, alone, **TOLERANCE)
    np.testing.assert_allclose(each.sum(0), together, **TOLERANCE)


def test_values_far_apart_are_finite(case):
    hidden, rows, tokens, _ = case
    chunked = jax.value_and_grad(lambda h: log_probs_of(tokens, h, rows, chunk=16).sum())
    value, gradient = chunked(1e3 * hidden)
    np.testing.assert_allclose(value, plain(tokens, 1e3 * hidden, rows).sum(), rtol=1e-5)
    assert np.isfinite(gradient).all()


def compiled_gradient(argnums, batch: int, chunk: int):
    """Gradient over a batch of lanes, as programs take it: a vmap inside a grad."""
    num_tokens, width, vocab_size = 32, 16, 4096

    def loss(hidden, rows, tokens):
        lane = lambda h, t: log_probs_of(t, h, rows, chunk=chunk)
        return jax.vmap(lane)(hidden, tokens).sum()

    return (
        jax.jit(jax.grad(loss, argnums))
        .lower(
            jax.ShapeDtypeStruct((batch, num_tokens, width), jnp.float32),
            jax.ShapeDtypeStruct((vocab_size, width), jnp.float32),
            jax.ShapeDtypeStruct((batch, num_tokens), jnp.int32),
        )
        .compile()
    )


def test_memory_does_not_grow_with_tokens_times_vocabulary():
    logits = 16 * 32 * 4096 * 4  # bytes of [lanes · T, V]
    head = 4096 * 16 * 4
    chunked, whole = (
        compiled_gradient((0, 1), batch=16, chunk=c).memory_analysis() for c in (256, 4096)
    )
    assert chunked.temp_size_in_bytes < logits / 4
    assert whole.temp_size_in_bytes > logits / 2
    # Nor is there a head gradient per lane: it is summed over lanes inside the products.
    assert chunked.temp_size_in_bytes < logits / 16 * 3 + 8 * head


def test_a_frozen_head_costs_no_head_gradient():
    both, hidden_only = (
        compiled_gradient(argnums, batch=4, chunk=256).cost_analysis()["flops"]
        for argnums in ((0, 1), 0)
    )
    assert hidden_only < 0.6 * both  # two products of the size of the logits, not four


@pytest.mark.parametrize("vocab_size", [131072, 131071])
def test_a_large_frozen_head_is_read_in_place(vocab_size: int):
    """The logits are 256 MiB and the head 128 MiB; no chunk divides the second vocabulary."""
    log_prob = lambda hidden, rows, tokens: log_probs_of(tokens, hidden, rows).sum()
    compiled = (
        jax.jit(jax.value_and_grad(log_prob))
        .lower(
            jax.ShapeDtypeStruct((512, 256), jnp.float32),
            jax.ShapeDtypeStruct((vocab_size, 256), jnp.float32),
            jax.ShapeDtypeStruct((512,), jnp.int32),
        )
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes <= 32e6


@functools.partial(jax.jit, static_argnums=3)
def score(prior, tokens, x: Prompt, horizon: Horizon) -> jax.Array:
    return prior.token_log_probs(tokens, x, horizon)


def make_prompt(tokens: list[int], size: int) -> Prompt:
    padded = np.full(size, 4, np.int32)
    padded[: len(tokens)] = tokens
    return Prompt(jnp.asarray(padded), jnp.int32(len(tokens)), jnp.int32(0))


@pytest.mark.parametrize("fixture", ["tiny", "windowed"])
@pytest.mark.parametrize("prompt", [[1], [1, 7, 9, 11, 3]])
def test_token_log_probs_are_the_log_softmax_of_logits(
    fixture: str, prompt: list[int], request: pytest.FixtureRequest
):
    prior = request.getfixturevalue(fixture)
    tokens = [9, 4, 17, 2, 2, 2]  # ends at its fourth token
    line = prompt + tokens + [0] * (5 - len(prompt))
    logits = prior.logits(jnp.asarray([line], jnp.int32))[0, len(prompt) - 1 :][:6]
    expected = plain_rows(logits, tokens) * (np.arange(6) < 4)
    found = score(prior, jnp.asarray(tokens, jnp.int32), make_prompt(prompt, 6), Horizon(6))
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def plain_rows(logits, tokens) -> np.ndarray:
    return np.asarray(jax.nn.log_softmax(logits))[np.arange(len(tokens)), tokens]


def test_a_single_token_is_scored_by_the_prompt_alone(tiny):
    x, token = make_prompt([1, 7], 4), jnp.asarray([5], jnp.int32)
    expected = plain_rows(tiny.logits(jnp.asarray([[1, 7]], jnp.int32))[0, 1:], [5])
    np.testing.assert_allclose(score(tiny, token, x, Horizon(1)), expected, **TOLERANCE)
    for stranger in (-100, -1, tiny.vocab_size):
        assert score(tiny, jnp.asarray([stranger], jnp.int32), x, Horizon(1)) == -np.inf


def test_forced_eos_is_certain(tiny):
    tokens = jnp.asarray([9, 4, 2], jnp.int32)
    found = score(tiny, tokens, make_prompt([1], 2), Horizon(3, "force"))
    assert found[2] == 0 and found[1] < 0


def test_nested_vmap_equals_a_loop_and_gradients_agree(tiny):
    """Prompts × lanes inside grad, as programs call it, against one sequence at a time."""
    xs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(
        make_prompt(prompt, 4) for prompt in ([1, 5], [1, 9, 3, 8])
    ))  # fmt: skip
    rng = np.random.default_rng(1)
    tokens = jnp.asarray(rng.integers(3, 23, (2, 3, 4)), jnp.int32)
    guide, horizon = tiny.trainable(), Horizon(4)

    def batched(params):
        one = lambda y, x: guide.with_params(params).token_log_probs(y, x, horizon)
        return jax.vmap(jax.vmap(one, (0, None)))(tokens, xs)

    @jax.jit
    @jax.value_and_grad
    def single(params, y, x):
        return guide.with_params(params).token_log_probs(y, x, horizon).sum()

    looped, total = np.zeros((2, 3)), None
    for p in range(2):
        x = jax.tree.map(lambda leaf, p=p: leaf[p], xs)
        for k in range(3):
            value, gradient = single(guide.params, tokens[p, k], x)
            looped[p, k] = value
            total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def together(params):
        scores = batched(params).sum(-1)
        return scores.sum(), scores

    (_, scores), found = together(guide.params)
    np.testing.assert_allclose(scores, looped, **TOLERANCE)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_prompts_run_once_per_prompt_not_once_per_lane(config):
    """Under a vmap over lanes the prompt's pass has no lane axis: flops say so."""
    lm = bayesft.lm.initialise(config, jax.random.key(2))
    x = jax.tree.map(lambda leaf: leaf[None], make_prompt([1] * 32, 32))

    def flops(lanes: int) -> float:
        def score(lm, tokens):
            one = lambda y, x: lm.token_log_probs(y, x, Horizon(4))
            return jax.vmap(jax.vmap(one, (0, None)))(tokens, x)

        tokens = jax.ShapeDtypeStruct((1, lanes, 4), jnp.int32)
        return jax.jit(score).lower(lm, tokens).compile().cost_analysis()["flops"]

    assert flops(8) < 3 * flops(1)
