"""Agreement with the reference implementation, and bugs that it would notice."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft.lm
from bayesft.base import Prompt
from bayesft.lm.architecture import Architecture
from bayesft.lm.families import FAMILIES
from bayesft.lm.language_model import DecoderPrior

MODELS = (*FAMILIES, "llama3_scaled")
ADAPTERS = {"peft_llama": "llama", "peft_gpt2": "gpt2"}
LIMIT = 1e-4
# Sums of at most 64 terms of size 1 in another order differ by about 64 · 2⁻²⁴ = 4e-6.
TOLERANCE = dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def load(golden: Path):
    """Loads a golden model or adapter by name, once."""

    @functools.cache
    def load(name: str) -> DecoderPrior:
        base = bayesft.lm.load(golden / ADAPTERS.get(name, name), tokenizer=False)
        return bayesft.lm.load_adapter(base, golden / name) if name in ADAPTERS else base

    return load


@pytest.fixture(scope="module")
def reference(golden: Path):
    """The reference's arrays by name, read once."""

    @functools.cache
    def reference(name: str) -> dict[str, np.ndarray]:
        with np.load(golden / name / "reference.npz") as arrays:
            return dict(arrays)

    return reference


def error(prior: DecoderPrior, reference: dict[str, np.ndarray]) -> float:
    """Largest distance of logits from the reference's where tokens are real."""
    logits = np.asarray(prior.logits(reference["tokens"]))
    return float(np.abs(logits - reference["logits"])[reference["mask"] == 1].max())


def prompts(reference: dict[str, np.ndarray]) -> Prompt:
    """The reference's prompts with padding that would be noticed."""
    num_prompts, length = reference["prompt"].shape
    return Prompt(
        jnp.pad(jnp.asarray(reference["prompt"]), ((0, 0), (0, 3)), constant_values=7),
        jnp.full(num_prompts, length, jnp.int32),
        jnp.arange(num_prompts, dtype=jnp.int32),
    )


def test_every_family_has_reference_logits_and_every_reference_a_family(golden: Path):
    configs = [json.loads(path.read_text()) for path in golden.glob("*/config.json")]
    assert {config["model_type"] for config in configs} == set(FAMILIES)


@pytest.mark.parametrize("name", [*MODELS, *ADAPTERS])
def test_logits_equal_the_reference(load, reference, name: str):
    assert error(load(name), reference(name)) <= LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_the_reference(load, reference, name: str):
    """One at a time, past the windows of 8; with the logits of the whole sequences."""
    lm, greedy = load(name), reference(name)["greedy"]

    @jax.jit
    def decode(prior: DecoderPrior, xs: Prompt) -> tuple[jax.Array, jax.Array]:
        def step(carry, _):
            state, logits = carry
            tokens = logits.argmax(-1).astype(jnp.int32)
            return prior.advance(state, tokens), (tokens, logits)

        first = prior.start(xs, 1, greedy.shape[1])
        return jax.lax.scan(step, first, length=greedy.shape[1])[1]

    tokens, logits = (found[:, :, 0] for found in decode(lm, prompts(reference(name))))
    np.testing.assert_array_equal(tokens.T, greedy)
    lines = np.concatenate([reference(name)["prompt"], greedy], axis=1)
    whole = np.zeros_like(reference(name)["tokens"])  # one shape, one compilation
    whole[:, : lines.shape[1]] = lines
    forced = lm.logits(whole)[:, lines.shape[1] - greedy.shape[1] - 1 : lines.shape[1] - 1]
    np.testing.assert_allclose(logits.swapaxes(0, 1), forced, **TOLERANCE)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_within_its_rounding(golden: Path, reference, name: str):
    lm = bayesft.lm.load(golden / name, jnp.bfloat16, tokenizer=False)
    state, _, hidden = jax.eval_shape(lambda: lm.start_hidden(prompts(reference(name)), 2, 4))
    kept = [*jax.tree.leaves((state.prompt.layers, state.layers)), hidden]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("bfloat16")}
    # Each layer rounds the stream of size 1 to 2⁻⁹ a handful of times; logits are of size 2.
    assert error(lm, reference(name)) <= 2 * 2.0**-5


def first_layer(lm: bayesft.lm.LanguageModel) -> bayesft.lm.LanguageModel:
    """The model without its other layers: gradients of one compile in a third of the time."""
    whole = lm.card.architecture
    architecture = dataclasses.replace(
        whole, num_layers=1, ropes=whole.ropes[:1], windows=whole.windows[:1]
    )
    card = dataclasses.replace(lm.card, name=f"{lm.name}, first layer", architecture=architecture)
    weights = lm.weights | {"layers": {0: lm.weights["layers"][0]}}
    return bayesft.lm.LanguageModel(weights, card)


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_step_and_learn(load, reference, name: str):
    """Every linear map adapted, fused ones too: two tokens, and a gradient of every factor."""
    guide = bayesft.lm.lora(first_layer(load(name)), rank=2, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype) / 4, guide.params)
    xs = jax.tree.map(lambda leaf: leaf[:1], prompts(reference(name)))
    length = reference(name)["prompt"].shape[1]

    @jax.jit
    def run(guide, params):
        adapted = guide.with_params(params)
        state, first = adapted.start(xs, 1, 2)
        token = first.argmax(-1).astype(jnp.int32)
        _, second = adapted.advance(state, token)
        line = jnp.concatenate([xs.tokens[:, :length], token], axis=1)

        def score(params):
            logits = guide.with_params(params).logits(line)[0, -2:]
            return jax.nn.logsumexp(logits), logits

        return jnp.concatenate([first, second], 1)[0], *jax.grad(score, has_aux=True)(params)

    stepped, gradient, forced = run(guide, params)
    np.testing.assert_allclose(stepped, forced, **TOLERANCE)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(gradient))


def _of_all_layers(field: str, change):
    """A change of a field that has one value per layer."""
    return lambda a: {field: tuple(map(change, getattr(a, field)))}


WITHOUT_WINDOWS = _of_all_layers("windows", lambda _: None)
BUGS = {
    "scaling of positions ignored": (
        "llama3_scaled",
        _of_all_layers("ropes", lambda rope: dataclasses.replace(rope, scaling=None)),
    ),
    "another theta": (
        "llama",
        _of_all_layers("ropes", lambda rope: dataclasses.replace(rope, theta=10000.0)),
    ),
    "theta of the layers that see everything": (
        "gemma3_text",
        _of_all_layers("ropes", lambda rope: dataclasses.replace(rope, theta=1e6)),
    ),
    "whole heads rotated": (
        "gpt_neox",
        _of_all_layers("ropes", lambda rope: dataclasses.replace(rope, size=8)),
    ),
    "every layer rotated": ("smollm3", lambda a: {"ropes": (a.ropes[0],) * a.num_layers}),
    "window ignored in Mistral": ("mistral", WITHOUT_WINDOWS),
    "window ignored in GPT-Neo": ("gpt_neo", WITHOUT_WINDOWS),
    "window ignored in Gemma 2": ("gemma2", WITHOUT_WINDOWS),
    "window ignored in Gemma 3": ("gemma3_text", WITHOUT_WINDOWS),
    "window too long by one": ("mistral", _of_all_layers("windows", lambda size: size + 1)),
    "windows in every layer": ("gpt_neo", _of_all_layers("windows", lambda _: 8)),
    "attention scaled": ("gpt_neo", lambda a: {"attention_scale": a.head_dim**-0.5}),
    "attention unscaled": ("gemma2", lambda a: {"attention_scale": 1.0}),
    "scores not capped": ("gemma2", lambda a: {"score_cap": None}),
    "logits not capped": ("gemma2", lambda a: {"logit_cap": None}),
    "norms without offset": ("gemma", lambda a: {"norm_offset": 0.0}),
    "embeddings not scaled": ("gemma", lambda a: {"embedding_scale": 1.0}),
    "exact GELU": ("gemma3_text", lambda a: {"activation": "gelu"}),
    "tanh GELU": ("gpt_neox", lambda a: {"activation": "gelu_tanh"}),
    "sequential residual": ("gpt_neox", lambda a: {"parallel": False}),
    "queries first": ("gpt_neox", lambda a: {"interleaved": False}),
}
"""Planted bugs: a model, and the fields of its architecture that are read wrongly."""


def _misread(lm, changes: dict[str, object]):
    architecture: Architecture = dataclasses.replace(lm.card.architecture, **changes)
    card = dataclasses.replace(lm.card, name=str(changes), architecture=architecture)
    return dataclasses.replace(lm, card=card)


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_noticed(load, reference, bug: str):
    name, change = BUGS[bug]
    lm = load(name)
    assert error(_misread(lm, change(lm.card.architecture)), reference(name)) > LIMIT


def test_planted_bug_in_the_adapter_scale_is_noticed(load, reference):
    guide = load("peft_llama")
    adapter = dataclasses.replace(guide.adapter, alpha=guide.adapter.rank)
    assert error(dataclasses.replace(guide, adapter=adapter), reference("peft_llama")) > LIMIT
