"""A 0.6B-parameter model with random weights on one accelerator, beside what the hardware allows.

The bounds are measured in the same run: bytes over the bandwidth of a copy, floating-point
operations over the rate of a large product. `gpu.py --tiny` runs everything small, on any device.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from models import config
from peers import in_turns, report, seconds
from smc import POTENTIAL, timer

import bayesft as bft
from bayesft.lm.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of the model and of the work."""

    model: dict
    dtype: jnp.dtype
    particles: int
    new_tokens: int
    rows: int
    row_length: int
    product: int
    """Side of the square product whose rate is the peak."""
    copied: int
    """Bytes of the copy whose bandwidth is the peak."""


LARGE = Case(
    {
        "vocab_size": 151936,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "model_type": "qwen3",
    },
    jnp.dtype(jnp.bfloat16),
    particles=128,
    new_tokens=256,
    rows=8,
    row_length=512,
    product=8192,
    copied=4 * 2**30,
)
TINY = Case(
    {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128},
    jnp.dtype(jnp.float32),
    particles=4,
    new_tokens=8,
    rows=2,
    row_length=16,
    product=256,
    copied=2**20,
)


def weights_per_token(architecture: Architecture) -> int:
    """Weights that a token is multiplied by: all matrices, and the head."""
    layer = sum(p.inputs * p.outputs for p in architecture.projections.values())
    return architecture.num_layers * layer + architecture.vocab_size * architecture.width


def decode_bytes(architecture: Architecture, case: Case) -> float:
    """Bytes that must be read for one token of all particles, averaged over the new tokens.

    The weights once, and the keys and values that are written so far, half of the buffer.
    """
    heads = architecture.num_key_heads * architecture.head_dim
    cache = case.particles * architecture.num_layers * 2 * heads * (case.new_tokens + 1) / 2
    return case.dtype.itemsize * (weights_per_token(architecture) + cache)


def training_flops(architecture: Architecture, case: Case) -> float:
    """Multiplications and additions of one step: the products, forward and twice backward.

    Of attention, scores and mixing count for the half of the positions that a token sees.
    """
    tokens = case.rows * (case.row_length - 1)
    heads = architecture.num_heads * architecture.head_dim
    attention = architecture.num_layers * 2 * heads * case.row_length / 2
    return 3 * 2 * tokens * (weights_per_token(architecture) + attention)


def median(work, rounds: int = 5) -> float:
    work()
    return statistics.median(seconds(work) for _ in range(rounds))


def peak_flops(case: Case) -> float:
    """Operations per second of a square product in the model's dtype."""
    matrix = jnp.ones((case.product, case.product), case.dtype)
    product = jax.jit(jnp.matmul)
    taken = median(lambda: jax.block_until_ready(product(matrix, matrix)))
    return 2 * case.product**3 / taken


def peak_bandwidth(case: Case) -> float:
    """Bytes per second of a copy, read and written."""
    array = jnp.ones(case.copied // 4, jnp.float32)
    scale = jax.jit(lambda array: 1.5 * array)
    taken = median(lambda: jax.block_until_ready(scale(array)))
    return 2 * case.copied / taken


def decode(lm: bft.lm.LanguageModel, case: Case, bandwidth: float) -> None:
    target = bft.Target(lm, prompts=[[1]], max_new_tokens=case.new_tokens)
    sampler = bft.samplers.importance(num_particles=case.particles)
    (taken,) = in_turns(timer(target, sampler), rounds=5)
    bound = decode_bytes(lm.card.architecture, case) / bandwidth
    report(
        f"decode {case.particles} x {case.new_tokens}",
        tokens_per_second=case.particles * case.new_tokens / taken,
        milliseconds_per_step=1e3 * taken / case.new_tokens,
        milliseconds_by_bandwidth=1e3 * bound,
        share_of_bandwidth_bound=bound * case.new_tokens / taken,
        asked_share_at_least=0.6,
    )


def resampling(lm: bft.lm.LanguageModel, case: Case) -> None:
    target = bft.Target(lm, POTENTIAL, prompts=[[1]], max_new_tokens=case.new_tokens)
    always, never = (bft.samplers.smc(case.particles, ess_threshold=e) for e in (1, 0))
    with_moves, without = in_turns(timer(target, always), timer(target, never), rounds=5)
    report(
        f"SMC {case.particles} x {case.new_tokens}, resampling at every step",
        milliseconds_per_step=1e3 * with_moves / case.new_tokens,
        share_of_resampling=1 - without / with_moves,
        asked_share_at_most=0.1,
    )


def training(lm: bft.lm.LanguageModel, case: Case, flops: float) -> None:
    steps = 6
    shape = (case.rows * steps, case.row_length)
    ids = np.random.default_rng(0).integers(4, lm.vocab_size, shape).tolist()
    fitted = bft.fit(
        bft.empirical([row[1:] for row in ids], prompts=[row[:1] for row in ids]),
        bft.trainable(lm),
        objective=bft.objectives.mle,
        optimizer=optax.adamw(1e-4),
        num_steps=steps,
        prompts_per_step=case.rows,
        key=jax.random.key(0),
    )
    taken = statistics.median(info.seconds for info in fitted.history[1:])
    needed = training_flops(lm.card.architecture, case)
    report(
        f"gradient step {case.rows} x {case.row_length} tokens, all parameters",
        seconds=taken,
        teraflops_per_second=needed / taken / 1e12,
        share_of_matmul_peak=needed / taken / flops,
        asked_share_at_least=0.4,
    )


def main(case: Case) -> None:
    lm = bft.lm.initialise(config(case.model), jax.random.key(0), dtype=case.dtype)
    flops, bandwidth = peak_flops(case), peak_bandwidth(case)
    report(
        "device",
        device=jax.devices()[0].device_kind,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(lm.weights)),
        peak_teraflops_per_second=flops / 1e12,
        peak_gigabytes_per_second=bandwidth / 1e9,
    )
    decode(lm, case, bandwidth)
    resampling(lm, case)
    training(lm, case, flops)


if __name__ == "__main__":
    main(TINY if "--tiny" in sys.argv[1:] else LARGE)
