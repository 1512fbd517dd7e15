"""Both gradients of the topic prompt, of its path and of its score, against quadrature."""

import importlib.util
from pathlib import Path

import jax
import pytest

from bayesft.testing import assert_unbiased

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "topic_prompt.py"
NUM_RUNS = 20_000


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("topic_prompt", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_value_and_gradients_are_unbiased(example):
    (value, gradient), (values, gradients) = example.toy_gradients(NUM_RUNS)
    assert_unbiased(values, value, resolution=0.1, family=5)
    for name, exact in gradient.items():
        assert_unbiased(gradients[name], exact, resolution=0.15, family=5)


def test_a_planted_bug_is_caught(example, monkeypatch):
    """Texts that are drawn after the soft prompt and scored as if it were fixed."""

    def frozen(params, z, target, x):
        return prompted(jax.lax.stop_gradient(params), z, target, x)

    prompted = example.prompted
    bound = example.bound_of(4)
    (_, gradient), _ = example.toy_gradients(2)
    monkeypatch.setattr(example, "prompted", frozen)
    target, params = example.toy_target(), example.toy_params()
    keys = jax.random.split(jax.random.key(0), 2_000)
    estimate = lambda key: example.value_and_grad(bound, key, params, target, target.xs)[1]
    found = jax.jit(jax.vmap(estimate))(keys)
    assert_unbiased(found["mean"], gradient["mean"])  # the path through z alone is not cut
    with pytest.raises(AssertionError):
        assert_unbiased(found["base"], gradient["base"])
