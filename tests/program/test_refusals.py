"""What a program cannot mean is refused by `bft.expectation` itself, with what to do."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.errors import ChoiceError, CostError, EstimatorError
from bayesft.program import scope

SCORE, PATH = bft.estimators.score_function(), bft.estimators.reparameterize()
ENUMERATE = bft.estimators.enumerate()
BIT = dist.Bernoulli(probs=0.5)


def estimate(program, seed=0):
    return bft.expectation(program).estimate(jax.random.key(seed), 0.3)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (jnp.zeros(2), r"shape \(2,\)"),
        ({"cost": 0.0}, "shape dict"),
        ((0.0, 1.0), "shape tuple"),
        ("0.0", "shape str"),
        (jnp.zeros((), jnp.complex64), r"shape \(\) and dtype complex64"),
    ],
)
def test_a_cost_that_is_no_real_number(value, what):
    with pytest.raises(ChoiceError, match=rf"cost of {what}[\s\S]*num_samples"):
        estimate(lambda t: value)


def test_a_cost_that_is_nan_comes_with_the_choices():
    def program(t):
        def lane(i):
            bft.cost(jnp.log(bft.draw("x", dist.Normal(i - 5.0, 0.1), PATH)))

        b = bft.draw("b", BIT, SCORE)
        bft.plate(lane, 2)
        return t * b

    run = bft.expectation(program)
    for attempt in (
        lambda: run.estimate(jax.random.key(0), 0.3),
        lambda: run.value_and_grad(jax.random.key(0), 0.3),
        lambda: run.step(jax.random.key(0), {}, 0.3),
    ):
        with pytest.raises(CostError, match=r"NaN, where b = [01], plate/0/x = \[-5\.\S* +-\d"):
            attempt()
    assert jnp.isnan(jax.jit(lambda k: run.estimate(k, 0.3))(jax.random.key(0)))


def test_a_cost_that_is_nan_along_a_choice_comes_with_it():
    def program(t):
        y = bft.draw("y", dist.Bernoulli(probs=0.5).expand([2]), SCORE)
        bft.cost(jnp.log(-1.0 - y), along="y")

    with pytest.raises(CostError, match=r"NaN, where y = \[[01] [01]\]"):
        estimate(program)


def test_a_lane_with_a_number_is_not_blamed():
    """Of eight lanes those with b = 1 have no number; a path of an enumeration has no values."""
    lanes = bft.estimators.leave_one_out(num_samples=8)
    blamed = lambda b: jnp.where(b == 1, jnp.nan, 0.0)
    with pytest.raises(CostError, match="where b = 1"):
        estimate(lambda t: blamed(bft.draw("b", BIT, lanes)))
    with pytest.raises(CostError, match=r"where b = 1|one of which has no number"):
        estimate(lambda t: blamed(bft.draw("b", BIT, ENUMERATE)))
    with pytest.raises(CostError, match="no choice is made"):
        estimate(lambda t: jnp.nan * t)


def test_what_cannot_be_sampled_or_has_no_density():
    sampler = types.SimpleNamespace(sample=lambda key: jax.random.normal(key), has_rsample=True)
    for estimator in (SCORE, bft.estimators.leave_one_out(2), ENUMERATE):
        with pytest.raises(ChoiceError, match=r"'y'.*SimpleNamespace.*no density[\s\S]*log_prob"):
            estimate(lambda t, e=estimator: bft.draw("y", sampler, e))
    with pytest.raises(ChoiceError, match="no density"):
        estimate(lambda t: bft.draw("y", sampler, PATH, with_log_prob=True)[1])
    assert jnp.isfinite(estimate(lambda t: bft.draw("y", sampler, PATH)))
    with pytest.raises(ChoiceError, match=r"'y'.*function, which cannot be sampled"):
        estimate(lambda t: bft.draw("y", lambda key: 0.0, SCORE))


def test_a_models_choice_has_a_density_and_values_of_its_shape():
    sampler = types.SimpleNamespace(sample=lambda key: jax.random.normal(key))
    drawn = bft.model(lambda d: bft.draw("y", d))
    for attempt in (
        lambda: drawn(sampler).sample(jax.random.key(0)),
        lambda: drawn(sampler).log_density({"y": jnp.zeros(())}),
        lambda: estimate(lambda t: bft.estimate_log_prob("y", sampler, t)),
    ):
        with pytest.raises(ChoiceError, match=r"'y'.*SimpleNamespace.*no density"):
            attempt()
    with pytest.raises(ChoiceError, match=r"'y' is given.*\(3,\); it has \(\)[\s\S]*plate"):
        drawn(dist.Normal(0.0, 1.0)).condition({"y": jnp.zeros(3)}).log_density({})
    wide = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
    with pytest.raises(ChoiceError, match=r"shape \(\); it has \(3,\)"):
        drawn(wide).log_prob({"y": jnp.zeros(())})


@pytest.mark.parametrize("estimator", [SCORE, ENUMERATE, bft.estimators.importance(BIT, 2)])
def test_a_mask_takes_the_density_away(estimator):
    """Two masked values have the weights 1 and 1, and a masked score is 0."""
    for masked in (BIT.mask(jnp.array(False)), BIT.mask(jnp.array(False)).expand([2]).to_event(1)):
        with pytest.raises(ChoiceError, match=r"'b' is drawn from a masked BernoulliProbs"):
            estimate(lambda t, d=masked: jnp.sum(1.0 * bft.draw("b", d, estimator)))


def test_a_scan_has_a_number_of_steps():
    with pytest.raises(ChoiceError, match=r"scan/0.*number of steps[\s\S]*length="):
        estimate(lambda t: bft.scan(lambda c, _: (c, None), 0.0)[0])


def test_an_enumeration_runs_in_parts_and_is_exact(monkeypatch):
    """Of nested choices too, whose parts multiply; and in bounded memory."""

    def program(logits):
        a = bft.draw("a", dist.Categorical(logits=logits), ENUMERATE)
        b = bft.draw("b", dist.Categorical(logits=jnp.cos(logits + a)), ENUMERATE)
        return jnp.sin(1.0 * a + 2.0 * b)

    logits = jnp.sin(jnp.arange(7.0))
    run = bft.expectation(program)
    at_once = run.value_and_grad(jax.random.key(0), logits)
    monkeypatch.setattr(scope, "PATHS_TOGETHER", 10)  # five of the first, one of the second
    in_parts = run.value_and_grad(jax.random.key(0), logits)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), at_once, in_parts)

    def wide(logits):
        a = bft.draw("a", dist.Categorical(logits=logits), ENUMERATE)
        return jnp.sum(jnp.sin(a * jnp.arange(500.0)) ** 2)

    def temporary(num_values):
        compiled = jax.jit(bft.expectation(wide).value_and_grad)
        lowered = compiled.lower(jax.random.key(0), jnp.zeros(num_values))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(scope, "PATHS_TOGETHER", 256)
    assert temporary(4096) < 2 * 256 * 500 * 4 * 4 < 4096 * 500 * 4


def test_too_many_paths_are_refused_with_their_number():
    wide = dist.Categorical(logits=jnp.zeros(2000))
    twice = lambda t: bft.draw("a", wide, ENUMERATE) + bft.draw("b", wide, ENUMERATE)
    with pytest.raises(EstimatorError, match=r"4,000,000 paths[\s\S]*leave_one_out"):
        estimate(twice)
