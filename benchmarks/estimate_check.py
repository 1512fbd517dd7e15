"""The formulas of `estimate.py` beside what XLA says of a small model's programs."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from estimate import Load, Model, Plan
from models import config
from peers import report

import bayesft as bft
import bayesft.lm

ROWS, PROMPT, NEW = 8, 16, 48
SMALL = Model(2, 128, 384, 4, 2, 32, 512, itemsize=4)
DEEP, DEEPER = (Model(layers, 128, 384, 4, 2, 32, 512, itemsize=4) for layers in (2, 6))


def small(model: Model) -> bayesft.lm.LanguageModel:
    sizes = {
        "vocab_size": model.vocab,
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "intermediate_size": model.mlp,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_heads,
        "tie_word_embeddings": False,
    }
    return bayesft.lm.initialise(config(sizes) | sizes, jax.random.key(0))


def beside(name: str, formula: float, xla: float) -> None:
    report(name, formula=round(formula), xla=round(xla), ratio=round(formula / xla, 3))


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def held(tree) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def gradient(guide, rows: int = ROWS):
    """Of the log-probs of completions with respect to all parameters, blocks rematerialised."""
    guide = guide.with_remat(jax.checkpoint_policies.nothing_saveable)
    horizon = bft.base.Horizon(NEW)

    def loss(params, tokens, xs):
        tokens, xs = bft.sharding.split_rows((tokens, xs))
        model = guide.with_params(params)
        return jax.vmap(lambda y, x: model.token_log_probs(y, x, horizon).sum())(tokens, xs).sum()

    tokens = jnp.full((rows, NEW), 3, jnp.int32)
    full = jnp.full(rows, PROMPT, jnp.int32)
    xs = bft.Prompt(jnp.full((rows, PROMPT), 3, jnp.int32), full, full)
    step = jax.jit(lambda *arguments: bft.sharding.shard(jax.grad(loss)(*arguments)))
    return step.lower(guide.params, tokens, xs)


def peak(lowered) -> int:
    """Bytes beside the arguments; activations may lie where gradients will be."""
    analysis = lowered.compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def check() -> None:
    lm, load = small(SMALL), Load(ROWS, ROWS, PROMPT, NEW)
    beside("parameters", SMALL.params, size(lm.weights))
    factors = bayesft.lm.lora(lm, rank=8, key=jax.random.key(0)).params
    beside("parameters of an adapter", SMALL.adapter(8), size(factors))

    tokens = jnp.full((ROWS, load.length), 3, jnp.int32)
    forward = jax.jit(lambda lm, tokens: lm.logits(tokens)).lower(lm, tokens)
    count = ROWS * load.length
    flops = SMALL.layer_flops(count, count * load.length) + SMALL.head_flops(count)
    beside("flops, forward", flops, forward.cost_analysis()["flops"])

    xs = bft.Prompt(tokens[:1, :PROMPT], jnp.full(1, PROMPT), jnp.zeros(1, jnp.int32))
    state, _ = lm.start(xs, ROWS, NEW)
    step = jax.jit(lambda lm, state, tokens: lm.advance(state, tokens))
    decoding = step.lower(lm, state, tokens[:1, :ROWS])
    flops = SMALL.layer_flops(ROWS, ROWS * load.length) + SMALL.head_flops(ROWS)
    beside("flops, a token of each row", flops, decoding.cost_analysis()["flops"])
    caches = sum(leaf.nbytes for leaf in jax.tree.leaves(state.layers))
    beside("bytes, KV cache", ROWS * SMALL.cache(NEW), caches)

    plan = Plan(SMALL, load, 1, 1)
    alone = gradient(lm.trainable())
    beside("flops, gradient", plan.flops()["gradient"], alone.cost_analysis()["flops"])
    # With many rows, what is stored of activations is far more than the gradients.
    many = Load(32 * ROWS, 32 * ROWS, PROMPT, NEW)
    deep, deeper = (Plan(m, many, 1, 1) for m in (DEEP, DEEPER))
    held_by = [peak(gradient(small(p.model).trainable(), many.rows)) for p in (deep, deeper)]
    expected = [p.block_inputs() + p.one_block() + 4 * p.model.params for p in (deep, deeper)]
    beside("bytes, activations and gradients", expected[1], held_by[1])
    beside("of these, four of six layers", expected[1] - expected[0], held_by[1] - held_by[0])

    plan = Plan(SMALL, load, 1, 4)
    with bft.sharding.on(jax.make_mesh((4,), ("fsdp",))):
        guide = lm.trainable()
        guide = guide.with_params(bft.sharding.place(guide.params))
        compiled = gradient(guide).compile()
    beside("bytes, parameters on one of 4 devices", plan.split(4), held(guide.params))
    moved = gathered(compiled.as_text())
    beside("bytes, all-gathers of the gradient on 4 devices", plan.gathered(), moved * 3 / 4)


def gathered(program: str) -> int:
    """Bytes of the results of all all-gathers of float32 in a program."""
    found = re.findall(r" = \(?((?:f32\[[\d,]*\][^ ]* ?)+)\)? all-gather(?:-start)?\(", program)
    shapes = [shape for result in found for shape in re.findall(r"f32\[([\d,]*)\]", result)]
    return sum(4 * int(jnp.prod(jnp.array([*map(int, shape.split(","))]))) for shape in shapes)
