"""The laws of the evidence room, walked over its table; every member's test file has EXAMPLES."""

import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import HostEvidence, LeafEvidence, PrefixEvidence
from bayesft.evidence import EVIDENCE, potential
from bayesft.priors.markov import markov
from bayesft.target import Target, prefix_sum

HORIZON = 3
EPSILON = 1e-5  # a few float32 roundings of sums of at most ten numbers of size one


def language():
    logits = jnp.zeros((3, 3))
    return markov(logits[0], logits, eos=2, vocabulary=("a", "b", ""))


def examples(member) -> list:
    path = Path(__file__).parent / f"test_{member.__name__}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{member.__name__}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.EXAMPLES
    return module.EXAMPLES


ALL = [
    pytest.param(evidence, id=f"{member.__name__}-{evidence.name}")
    for member in EVIDENCE
    for evidence in examples(member)
]
OUTCOMES = language().enumerate(HORIZON)


def values(evidence) -> np.ndarray:
    """log φ of every outcome, [M]."""
    target = Target(language(), evidence, max_new_tokens=HORIZON)
    x = jax.tree.map(lambda a: a[0], target.xs)
    total = np.asarray(jax.vmap(lambda y: target.log_device_evidence(y, x))(OUTCOMES))
    lengths = 1 + np.argmax(np.c_[OUTCOMES == 2, np.ones(len(OUTCOMES), bool)], axis=1)
    ids = np.full(len(OUTCOMES), target.xs.id[0])
    host = target.evaluate_host(ids, OUTCOMES, np.minimum(lengths, HORIZON))
    for term in target.host_terms:
        total = total + np.asarray(term.scaled(jnp.asarray(host[term.evidence.name])))
    return total


# ---- the laws -----------------------------------------------------------------------------------


def stays_in_bounds(evidence) -> bool:
    found = values(evidence)
    low, high = evidence.bounds
    proper = not np.isnan(found).any() and (found < np.inf).all()
    return bool(proper and (found >= low).all() and (found <= high).all())


def ignores_padding(evidence) -> bool:
    target = Target(language(), evidence, max_new_tokens=HORIZON)
    x = jax.tree.map(lambda a: a[0], target.xs)
    ended, junk = jnp.array([0, 2, 2]), jnp.array([0, 2, 1])
    return bool(target.log_density(ended, x) == target.log_density(junk, x))


def adds_and_scales(evidence, other) -> bool:
    one, two = values(evidence), values(other)
    same = np.allclose(values(evidence + other), one + two, atol=EPSILON)
    same &= np.allclose(values(other + evidence), values(evidence + other), atol=EPSILON)
    same &= np.allclose(values(0.5 * (evidence + other)), 0.5 * one + 0.5 * two, atol=EPSILON)
    same &= np.allclose(values(evidence * 2.0), 2.0 * one, atol=EPSILON)
    return bool(same and (values(0.0 * evidence) == 0).all())


@pytest.mark.parametrize("evidence", ALL)
def test_values_stay_in_bounds(evidence):
    assert stays_in_bounds(evidence)
    assert stays_in_bounds(evidence + evidence)
    assert stays_in_bounds(0.5 * evidence)
    assert evidence.hard or stays_in_bounds(-2.0 * evidence)


@pytest.mark.parametrize("evidence", ALL)
def test_padding_changes_nothing(evidence):
    assert ignores_padding(evidence)


@pytest.mark.parametrize("evidence", ALL)
def test_algebra(evidence):
    other = potential(lambda tokens, length: length / 3.0, bounds=(0, 1))
    assert adds_and_scales(evidence, other)
    assert adds_and_scales(evidence, evidence)


@pytest.mark.parametrize("evidence", ALL)
def test_jit_is_eager_and_vmap_is_loop(evidence):
    target = Target(language(), evidence, max_new_tokens=HORIZON)
    x = jax.tree.map(lambda a: a[0], target.xs)
    loop = [float(target.log_device_evidence(jnp.asarray(y), x)) for y in OUTCOMES]
    batched = jax.vmap(lambda y: target.log_device_evidence(y, x))(OUTCOMES)
    jitted = jax.jit(lambda t, y: t.log_device_evidence(y, x))
    np.testing.assert_allclose(batched, loop, atol=EPSILON)
    np.testing.assert_allclose([jitted(target, y) for y in OUTCOMES], loop, atol=EPSILON)


@pytest.mark.parametrize("evidence", ALL)
def test_new_leaves_do_not_retrace(evidence):
    traces = []

    @jax.jit
    def use(evidence):
        traces.append(1)
        return jax.tree.leaves(evidence)

    use(evidence)
    use(jax.tree.map(lambda a: a + 1, evidence))
    assert len(traces) == 1


@pytest.mark.parametrize("evidence", ALL)
def test_kind_matches_what_it_can_do(evidence):
    if isinstance(evidence, PrefixEvidence):
        x = jax.tree.map(lambda a: a[0], Target(language(), max_new_tokens=HORIZON).xs)
        state, total = evidence.init(x), 0.0
        for token in (0, 1, 0):
            state, increment = evidence.step(state, jnp.int32(token))
            total += float(increment)
        total += float(evidence.cut(state))
        whole = prefix_sum(evidence, jnp.array([0, 1, 0]), x, jnp.int32(3), jnp.array(False))
        assert math.isclose(total, float(whole), abs_tol=EPSILON)
    leaves = [term.evidence for term in evidence.terms]
    assert leaves == [evidence] or not isinstance(evidence, LeafEvidence)
    assert any(isinstance(leaf, HostEvidence) for leaf in leaves) == bool(
        Target(language(), evidence, max_new_tokens=HORIZON).host_terms
    )


# ---- planted bugs: the laws catch them -----------------------------------------------------------


def test_bounds_that_are_wrong_are_caught():
    assert not stays_in_bounds(potential(lambda tokens, length: 1.0 * length, bounds=(0, 1)))
    assert not stays_in_bounds(potential(lambda tokens, length: length * jnp.nan))


def test_a_sum_over_padding_is_caught():
    class Unpadded(Target):
        """A target that forgets to replace what follows the end."""

        def log_density(self, tokens, x):
            return self.log_prior(tokens, x) + self.log_device_evidence(tokens, x)

    evidence = potential(lambda tokens, length: (tokens == 1).sum())
    target = Unpadded(language(), evidence, max_new_tokens=HORIZON)
    x = jax.tree.map(lambda a: a[0], target.xs)
    ended, junk = jnp.array([0, 2, 2]), jnp.array([0, 2, 1])
    assert target.log_density(ended, x) != target.log_density(junk, x)
    assert ignores_padding(evidence)


def test_evidence_that_remembers_its_calls_is_caught():
    calls = []
    forgetful = potential(lambda tokens, length: calls.append(1) or 1.0 * len(calls))
    other = potential(lambda tokens, length: 1.0 * length)
    assert not adds_and_scales(forgetful, other)
