"""The SFT step of `steps.py` in plain JAX, for this one shape: `by_hand.py FOLDER`.

What XLA makes of the same mathematics without programs, guides, prompts or `vmap`: one row per
token, a tied head, and a batch that is differentiated whole.
"""

from __future__ import annotations

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from steps import LENGTH, OPTIMIZER, ROWS, SIZES, serve, timed

import bayesft as bft
from bayesft.base import Horizon, Prompt

STEPS = SIZES["steps"]["sft"]
HEAD_DIM = 64


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def rotate(x):
    angle = jnp.arange(LENGTH)[:, None] / 10000.0 ** (jnp.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def block(x, layer):
    heads = norm(x, layer["attention_norm"]) @ layer["query_key_value"]
    query, keys, values = jnp.moveaxis(heads.reshape(ROWS, LENGTH, 3, -1, HEAD_DIM), 2, 0)
    scores = jnp.einsum("nthd,nshd->nhts", rotate(query) / HEAD_DIM**0.5, rotate(keys))
    past = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    weights = jax.nn.softmax(jnp.where(past, scores, -1e30), -1)
    mixed = jnp.einsum("nhts,nshd->nthd", weights, values).reshape(x.shape)
    x = x + mixed @ layer["output"]
    gate, up = jnp.split(norm(x, layer["mlp_norm"]) @ layer["up"], 2, -1)
    return x + (jax.nn.silu(gate) * up) @ layer["down"]


def loss(params, tokens):
    x = params["embedding"][tokens].reshape(ROWS * LENGTH, -1)
    for layer in params["layers"]:
        x = block(x, layer)
    x = norm(x, params["final_norm"]).reshape(ROWS, LENGTH, -1)[:, :-1]
    logits = jnp.einsum("ntd,vd->ntv", x, params["embedding"])
    own = jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - own).sum() / ROWS


@functools.partial(jax.jit, donate_argnums=(0, 1))
def step(params, state, tokens):
    value, gradient = jax.value_and_grad(loss)(params, tokens)
    updates, state = OPTIMIZER.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


def main(folder: str) -> None:
    lm = bft.lm.load(folder)
    layers = [
        {
            "query_key_value": layer["attention"]["query_key_value"]["kernel"],
            "output": layer["attention"]["output"]["kernel"],
            "up": layer["mlp"]["up"]["kernel"],
            "down": layer["mlp"]["down"]["kernel"],
            "attention_norm": layer["attention_norm"]["scale"],
            "mlp_norm": layer["mlp_norm"]["scale"],
        }
        for layer in lm.weights["layers"].values()
    ]
    start = {
        "embedding": lm.weights["embedding"],
        "layers": layers,
        "final_norm": lm.weights["final_norm"]["scale"],
    }
    ids = np.random.default_rng(0).integers(4, lm.vocab_size, (STEPS, ROWS, LENGTH))
    _check(lm, start, ids[0])
    batches = [(jnp.asarray(tokens),) for tokens in ids]
    serve(lambda: timed(step, start, batches))


def _check(lm, params, tokens) -> None:
    """The same loss as bayesft's, or it would be another step."""
    one = jnp.ones((), jnp.int32)
    score = lambda row: lm.token_log_probs(row[1:], Prompt(row[:1], one, one), Horizon(LENGTH - 1))
    value = -jax.vmap(score)(jnp.asarray(tokens)).sum() / ROWS
    np.testing.assert_allclose(loss(params, tokens), value, rtol=1e-4)


if __name__ == "__main__":
    main(*sys.argv[1:])
