"""Agreement with the reference implementation, and bugs that it would notice."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft.lm
from bayesft.base import Prompt
from bayesft.lm.language_model import DecoderPrior

FAMILIES = ("llama", "llama3_scaled", "gpt2")
ADAPTERS = {"peft_llama": "llama", "peft_gpt2": "gpt2"}
LIMIT = 1e-4


@pytest.fixture(scope="module")
def load(golden: Path):
    """Loads a golden model or adapter by name."""

    def load(name: str) -> DecoderPrior:
        base = bayesft.lm.load(golden / ADAPTERS.get(name, name), tokenizer=False)
        return bayesft.lm.load_adapter(base, golden / name) if name in ADAPTERS else base

    return load


def error(prior: DecoderPrior, reference: dict[str, np.ndarray]) -> float:
    """Largest distance of logits from the reference's where tokens are real."""
    logits = np.asarray(prior.logits(reference["tokens"]))
    return float(np.abs(logits - reference["logits"])[reference["mask"] == 1].max())


@pytest.mark.parametrize("name", [*FAMILIES, *ADAPTERS])
def test_logits_equal_the_reference(load, golden: Path, name: str):
    with np.load(golden / name / "reference.npz") as reference:
        assert error(load(name), dict(reference)) <= LIMIT


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_the_reference(load, golden: Path, name: str):
    with np.load(golden / name / "reference.npz") as reference:
        prompt, greedy = reference["prompt"], reference["greedy"]
    num_prompts, length = prompt.shape
    xs = Prompt(
        jnp.pad(jnp.asarray(prompt), ((0, 0), (0, 3)), constant_values=7),
        jnp.full(num_prompts, length, jnp.int32),
        jnp.arange(num_prompts, dtype=jnp.int32),
    )

    @jax.jit
    def decode(prior: DecoderPrior) -> jax.Array:
        def step(carry, _):
            state, logits = carry
            tokens = logits.argmax(-1).astype(jnp.int32)
            return prior.advance(state, tokens), tokens

        first = prior.start(xs, 1, greedy.shape[1])
        return jax.lax.scan(step, first, length=greedy.shape[1])[1]

    np.testing.assert_array_equal(decode(load(name))[:, :, 0].T, greedy)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama3_scaled", lambda a: dataclasses.replace(a.rope, scaling=None)),
        ("llama", lambda a: dataclasses.replace(a.rope, theta=10000.0)),
    ],
)
def test_planted_bug_in_rope_is_noticed(load, golden: Path, name: str, change):
    lm = load(name)
    architecture = dataclasses.replace(lm.card.architecture, rope=change(lm.card.architecture))
    card = dataclasses.replace(lm.card, name="bug", architecture=architecture)
    with np.load(golden / name / "reference.npz") as reference:
        assert error(dataclasses.replace(lm, card=card), dict(reference)) > LIMIT


def test_planted_bug_in_the_adapter_scale_is_noticed(load, golden: Path):
    guide = load("peft_llama")
    adapter = dataclasses.replace(guide.adapter, alpha=guide.adapter.rank)
    with np.load(golden / "peft_llama" / "reference.npz") as reference:
        assert error(dataclasses.replace(guide, adapter=adapter), dict(reference)) > LIMIT
