"""Tokens per second of plain sampling beside torch's `generate`, on the same weights, and beside
the time of the matrix products alone, measured in the same run."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from models import SMALL, WIDE, saved_model
from peers import Peer, in_turns, report, seconds

import bayesft as bft

TOKENS = 64
CASES = {"4 layers, D 256, V 1024": (SMALL, 1.3), "6 layers, D 384, V 32000": (WIDE, 2.0)}
ASKED_SHARE = 0.6


def kernels(lm: bft.lm.LanguageModel) -> Iterator[jax.Array]:
    """The matrices [in, out] that each token is multiplied by, in order."""
    for index in range(lm.card.architecture.num_layers):
        layer = lm.weights["layers"][index]
        for part, name in (
            ("attention", "query_key_value"),
            ("attention", "output"),
            ("mlp", "up"),
            ("mlp", "down"),
        ):
            yield layer[part][name]["kernel"]
    yield lm.weights["embedding"].T


@jax.jit
def products(lm: bft.lm.LanguageModel, rows: jax.Array) -> jax.Array:
    """The products of TOKENS steps alone; each waits for the one before."""

    def step(_, last):
        for kernel in kernels(lm):
            inputs = jnp.full((rows.shape[0], kernel.shape[0]), last)
            last = 1e-9 * (inputs @ kernel)[0, 0]
        return last

    return jax.lax.fori_loop(0, TOKENS, step, jnp.float32(1))


def main() -> None:
    for name, (sizes, asked) in CASES.items():
        with saved_model(sizes) as (lm, folder):
            for rows in (32, 128):
                measure(f"sampling {rows} x {TOKENS}, {name}", lm, folder, rows, asked)


def measure(name: str, lm: bft.lm.LanguageModel, folder: str, rows: int, asked: float) -> None:
    target = bft.Target(lm, prompts=[[1]], max_new_tokens=TOKENS)
    sampler = bft.samplers.importance(num_particles=rows)
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def ours() -> float:
        key = next(keys)
        return seconds(lambda: jax.block_until_ready(bft.sample(target, sampler, key).tokens))

    def bound() -> float:
        return seconds(lambda: jax.block_until_ready(products(lm, jnp.zeros(rows))))

    with Peer("peer_generate.py", folder, str(rows), str(TOKENS)) as peer:
        mine, least, theirs = in_turns(ours, bound, lambda: peer.ask()["seconds"], rounds=5)
    report(
        name,
        bayesft_tokens_per_second=rows * TOKENS / mine,
        torch_tokens_per_second=rows * TOKENS / theirs,
        ratio=theirs / mine,
        asked_at_least=asked,
        share_of_matmul_bound=least / mine,
        asked_share_at_least=ASKED_SHARE,
    )


if __name__ == "__main__":
    main()
