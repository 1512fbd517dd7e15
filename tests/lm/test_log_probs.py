"""Log-probabilities: equal to log softmax of logits, chunked or not, and small in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft.lm
from bayesft.base import Horizon, Prompt
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


def plain(tokens, hidden, rows):
    log_probs = jax.nn.log_softmax(hidden @ rows.T)
    return jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]


@pytest.mark.parametrize("chunk", [10, 16, 49, 50, 64])
def test_chunks_change_neither_value_nor_gradient(case, chunk: int):
    hidden, rows, tokens, weights = case

    def loss(log_probs):
        return lambda hidden, rows: jnp.sum(weights * log_probs(tokens, hidden, rows))

    chunked = loss(lambda *args: log_probs_of(*args, chunk=chunk))
    value, gradient = jax.value_and_grad(chunked, (0, 1))(hidden, rows)
    expected, expected_gradient = jax.value_and_grad(loss(plain), (0, 1))(hidden, rows)
    np.testing.assert_allclose(value, expected, **TOLERANCE)
    for ours, theirs in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("chunk", [16, 64])
def test_a_cap_bends_every_product(case, chunk: int):
    hidden, rows, tokens, _ = case
    capped = jax.nn.log_softmax(2 * jnp.tanh(hidden @ rows.T / 2))
    expected = jnp.take_along_axis(capped, tokens[:, None], axis=1)[:, 0]
    found = log_probs_of(tokens, hidden, rows, 2.0, chunk)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


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
    assert hidden_only < 0.85 * both


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
