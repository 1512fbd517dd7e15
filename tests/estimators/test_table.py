"""Every estimator on every distribution, in every construct, against the exact gradient."""

import dataclasses
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from estimators.table import (
    CELLS,
    FAMILIES,
    FINITE,
    MORE_RUNS,
    NUM_RUNS,
    REFUSED,
    ROWS,
    cost,
    deviation,
    estimates,
    is_slow,
    markdown,
    parsed,
    plain,
    truth,
)

import bayesft as bft
from bayesft.errors import EstimatorError
from bayesft.testing import assert_unbiased

E = bft.estimators
PAGE = Path(__file__).resolve().parents[2] / "docs" / "estimator_table.md"
"""What a full run wrote, slow cells included."""


def test_every_estimator_has_a_row():
    of_bounds = {"vimco", "doubly_reparameterize"}  # tests/estimators/test_multi_sample.py
    assert set(ROWS) == set(E.__all__) - {"ESTIMATORS"} - of_bounds


@pytest.fixture(scope="module")
def results():
    """What became of the cells, written to the page that $BAYESFT_ESTIMATOR_TABLE names."""
    found = {}
    yield found
    if named := os.environ.get("BAYESFT_ESTIMATOR_TABLE"):
        page = Path(named)
        before = parsed(page.read_text(encoding="utf-8")) if page.exists() else {}
        page.write_text(markdown(before | found), encoding="utf-8")


def cells(table, slow):
    def cell(name, of, program):
        marks = [pytest.mark.slow] if slow(name, of, program) else []
        return pytest.param(name, of, program, marks=marks, id=f"{name}-{of}-{program.__name__}")

    return pytest.mark.parametrize(("name", "of", "program"), [cell(*c) for c in table])


@cells(CELLS, is_slow)
def test_value_and_gradient_are_right(name, of, program, results):
    results[name, of, program] = "FAILED"
    estimator = ROWS[name].make(FAMILIES[of])
    assert (estimator.claim.kind == "biased") == (ROWS[name].biased is not None)
    seed = CELLS.index((name, of, program))
    num_runs = MORE_RUNS.get((name, of, program), NUM_RUNS)
    value, gradient = estimates(program, FAMILIES[of], estimator, num_runs=num_runs, seed=seed)
    exact, exact_gradient = truth(name, of, program)
    size = 2 * len(CELLS)
    rounding = 2.0**-10  # of the truth: quadrature in float32, and points in place of integrals
    resolution = 0.2 * max(1.0, float(jnp.abs(exact_gradient).max()))
    assert_unbiased(value, exact, family=size, rounding=rounding)
    assert_unbiased(gradient, exact_gradient, family=size, rounding=rounding, resolution=resolution)
    distance = max(deviation(value, exact), deviation(gradient, exact_gradient))
    results[name, of, program] = f"{distance:.1f}"


@cells(REFUSED, lambda name, of, program: program is not plain)
def test_distributions_that_an_estimator_cannot_take_are_refused(name, of, program, results):
    results[name, of, program] = "FAILED"
    family = FAMILIES[of]
    draw = lambda t: cost(bft.draw("x", family.make(t), ROWS[name].make(family)), t)
    run = bft.expectation(lambda t: program(t, draw))
    with pytest.raises(EstimatorError, match=r"'x'[\s\S]*What to do: use [\s\S]*score_function"):
        run.init(family.theta)
    results[name, of, program] = "refused"


def test_the_committed_table_is_what_a_run_wrote():
    page = PAGE.read_text(encoding="utf-8")
    found = parsed(page)
    assert page == markdown(found)
    assert {cell for cell, what in found.items() if what == "refused"} == set(REFUSED)
    assert all(re.fullmatch(r"\d\.\d", found[cell]) for cell in found.keys() & set(CELLS))


@pytest.mark.slow  # as the run that completes it
def test_the_committed_table_is_complete():
    found = parsed(PAGE.read_text(encoding="utf-8"))
    assert found.keys() == {*CELLS, *REFUSED}


MULTI_PATH = ("enumerate", "measure_valued", "rebar", "importance")


def in_plate(choose):
    return bft.plate(lambda i: choose(), 2).sum()


def in_scan(choose):
    return bft.scan(lambda carry, _: (carry + choose(), None), 0.0, length=2)[0]


def in_cond(choose):
    return bft.cond(True, lambda: choose(), lambda: jnp.zeros(()))


@pytest.mark.parametrize("construct", [in_plate, in_scan, in_cond], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", MULTI_PATH)
def test_values_of_several_paths_may_not_leave(name, construct):
    family = FAMILIES["bernoulli"]

    def program(t):
        return construct(lambda: cost(bft.draw("x", family.make(t), ROWS[name].make(family)), t))

    with pytest.raises(EstimatorError, match=r"'x' takes several paths[\s\S]*bft\.cost"):
        bft.expectation(program).estimate(jax.random.key(0), family.theta)


# Deliberate mistakes, each in the estimator named, which its test must notice.
class ForgetsSupport(type(E.enumerate())):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values[1:], weights[1:]


class SignOfTheNegativePart(type(E.measure_valued())):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values, 2 * jax.lax.stop_gradient(weights) - weights


class WeightWithoutGradient(type(E.importance(None))):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values, jax.lax.stop_gradient(weights)


class StopsTheConditionalSample(type(E.rebar())):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values.at[2].set(jax.lax.stop_gradient(values[2])), weights


class OtherTemperature(type(E.gumbel_straight_through())):
    def sample(self, name, distribution, key):
        return dataclasses.replace(E.gumbel_straight_through(0.8)).sample(name, distribution, key)


class StopsTheSample(type(E.reparameterize())):
    def sample(self, name, distribution, key):
        return jax.lax.stop_gradient(super().sample(name, distribution, key))


class SeesItsOwnCost(type(E.moving_average())):
    def baseline(self, state, credited, described):
        return 0.5 * (super().baseline(state, credited, described) + credited)


class UpdatesBeforeUse(type(E.learned_baseline(lambda d: d, 1))):
    def baseline(self, state, credited, described):
        return super().baseline(self.update(state, credited, described), credited, described)


class ForgetsTheCorrection(type(E.relax(lambda p, z: z, ()))):
    def control(self, described, stored):
        return jnp.zeros(())


class OneNoiseForBoth(type(E.trained_rebar(lambda s: s))):
    def control(self, described, stored):
        return super().control(dataclasses.replace(described, hard=1 - described.hard), stored)


class CountsItself(type(E.leave_one_out(3))):
    def prepare(self, credited):
        return jnp.broadcast_to(credited.mean(0, keepdims=True), credited.shape)


class KeepsTheScore(type(E.detached())):
    def surrogate(self, credited, log_prob, stored):
        return E.score_function().surrogate(credited, log_prob, stored)


class NoBaselineInTheScore(type(E.score_function())):
    def surrogate(self, credited, log_prob, stored):
        return super().surrogate(credited, log_prob, 0.5 * credited)


BUGS = {
    "enumerate": lambda f: ForgetsSupport(),
    "measure_valued": lambda f: SignOfTheNegativePart(),
    "importance": lambda f: WeightWithoutGradient(f.proposal, 2),
    "rebar": lambda f: StopsTheConditionalSample(0.4, 0.8),
    "gumbel_straight_through": lambda f: OtherTemperature(0.4),
    "reparameterize": lambda f: StopsTheSample(),
    "moving_average": lambda f: SeesItsOwnCost(0.5),
    "leave_one_out": lambda f: CountsItself(3),
    "detached": lambda f: KeepsTheScore(),
    "learned_baseline": lambda f: UpdatesBeforeUse(
        **vars(E.learned_baseline(lambda d: jnp.ones(1), 1, decay=0.5))
    ),
    "relax": lambda f: ForgetsTheCorrection(**vars(ROWS["relax"].make(f))),
    "trained_rebar": lambda f: OneNoiseForBoth(**vars(ROWS["trained_rebar"].make(f))),
    "score_function": lambda f: NoBaselineInTheScore(0.0),
}


@pytest.mark.parametrize("name", ROWS)
def test_planted_bugs_are_caught(name):
    row = ROWS[name]
    family = FAMILIES["bernoulli of a logit" if row.families is FINITE else row.families[0]]
    mean = row.truth(family)
    value, gradient = estimates(plain, family, BUGS[name](family))
    exact, exact_gradient = jax.jit(jax.value_and_grad(mean))(family.theta)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(value, exact, rounding=2.0**-10)
        assert_unbiased(gradient, exact_gradient, rounding=2.0**-10)
