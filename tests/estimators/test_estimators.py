"""The estimators' table, and what each member does by itself; gradients are in test_table.py."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import bayesft as bft
from bayesft.base import (
    Claim,
    Estimator,
    MultiPathEstimator,
    MultiSampleEstimator,
    PathwiseEstimator,
    ScoreEstimator,
)
from bayesft.errors import EstimatorError, FitError
from bayesft.estimators import ESTIMATORS
from bayesft.estimators.doubly_reparameterize import DoublyReparameterize
from bayesft.estimators.importance import Importance
from bayesft.estimators.reparameterize import Reparameterize

MEMBERS = [
    bft.estimators.detached(),
    bft.estimators.doubly_reparameterize(),
    bft.estimators.enumerate(),
    bft.estimators.gumbel_straight_through(0.5),
    bft.estimators.importance(dist.Normal(0.0, 1.0)),
    bft.estimators.leave_one_out(num_samples=4),
    bft.estimators.measure_valued(),
    bft.estimators.moving_average(0.9),
    bft.estimators.learned_baseline(lambda d: jnp.ones(1), 1),
    bft.estimators.rebar(0.5),
    bft.estimators.relax(lambda params, z: params * z, 0.5),
    bft.estimators.reparameterize(),
    bft.estimators.score_function(baseline=0.5),
    bft.estimators.trained_rebar(lambda soft: soft),
    bft.estimators.vimco(),
]


def test_every_member_of_the_table_is_tested():
    assert {type(member) for member in MEMBERS} == set(ESTIMATORS)


@pytest.mark.parametrize("estimator", MEMBERS, ids=lambda e: type(e).__name__)
def test_members_state_a_claim_and_are_static(estimator):
    assert isinstance(estimator, Estimator)
    assert isinstance(estimator, PathwiseEstimator | ScoreEstimator | MultiPathEstimator)
    assert isinstance(estimator.claim, Claim)
    assert estimator.claim.kind in ("exact", "unbiased", "biased")
    assert estimator.claim.detail or estimator.claim.kind != "biased"
    assert jax.jit(lambda e: e.num_samples, static_argnums=0)(estimator) == estimator.num_samples
    assert estimator.num_samples >= 1


def test_leave_one_out_excludes_the_own_lane():
    credited = jnp.array([1.0, 2.0, 6.0])
    stored = bft.estimators.leave_one_out(num_samples=3).prepare(credited)
    assert jnp.allclose(stored, jnp.array([4.0, 3.5, 1.5]))


def test_enumerate_refuses_what_it_cannot_list():
    enumerate_ = bft.estimators.enumerate()
    pair = dist.Bernoulli(probs=jnp.array([0.2, 0.3]))
    for distribution in (dist.Normal(0.0, 1.0), pair, pair.to_event(1)):
        with pytest.raises(EstimatorError, match="'b'"):
            enumerate_.expand("b", distribution, jax.random.key(0))


def test_too_many_paths_are_refused_with_their_number():
    def program(logits):
        total = jnp.zeros(())
        for i in range(3):
            d = dist.Categorical(logits=logits)
            total += bft.draw(f"x{i}", d, bft.estimators.enumerate())
        return total

    with pytest.raises(EstimatorError, match=r"8,000,000 paths .*\n.*\n.*leave_one_out"):
        bft.expectation(program).estimate(jax.random.key(0), jnp.zeros(200))


@pytest.mark.parametrize("estimator", MEMBERS, ids=lambda e: type(e).__name__)
def test_what_is_required_is_required_of_every_choice(estimator):
    continuous = isinstance(estimator, Reparameterize | DoublyReparameterize | Importance)
    d = dist.Normal(0.0, 1.0) if continuous else dist.Bernoulli(probs=0.3)
    ranks = {"exact": 2, "unbiased": 1, "biased": 0}

    def program(p):
        if isinstance(estimator, MultiSampleEstimator):
            return p * bft.log_mean_exp(lambda _: 1.0 * bft.draw("x", d, estimator), 2)
        bft.cond(True, lambda: bft.cost(jnp.sum(bft.draw("x", d, estimator))), lambda: None)
        return p

    for required in ("unbiased", "exact"):
        run = bft.expectation(program, require=required)
        if ranks[estimator.claim.kind] >= ranks[required]:
            run.init(0.0)
            continue
        with pytest.raises(EstimatorError) as caught:
            run.value_and_grad(jax.random.key(0), 0.0)
        assert "'x'" in str(caught.value) and str(estimator.claim) in str(caught.value)
    with pytest.raises(EstimatorError, match="no claim"):
        bft.expectation(program, require="biased").init(0.0)  # pyright: ignore[reportArgumentType]


def test_settings_that_mean_nothing_are_refused():
    for make in (
        lambda: bft.estimators.gumbel_straight_through(0.0),
        lambda: bft.estimators.rebar(-1.0),
        lambda: bft.estimators.moving_average(1.0),
        lambda: bft.estimators.importance(dist.Normal(0.0, 1.0), num_draws=0),
    ):
        with pytest.raises(EstimatorError, match="What to do: use"):
            make()
    proposal = bft.estimators.importance(dist.Normal(jnp.zeros(2), 1.0))
    with pytest.raises(EstimatorError, match=r"\(2,\)"):
        proposal.expand("x", dist.Normal(0.0, 1.0), jax.random.key(0))


def test_importance_weighs_what_the_distribution_cannot_draw_by_nothing():
    """A half-normal choice from a normal proposal, and a gamma whose density is NaN below 0."""
    for make, mean in (
        (lambda t: dist.HalfNormal(t), lambda t: t * jnp.sqrt(2 / jnp.pi)),
        (lambda t: dist.Gamma(t, 2.0), lambda t: t / 2),
    ):
        estimator = bft.estimators.importance(dist.Normal(0.5, 1.5), 4)
        run = bft.expectation(lambda t, m=make, e=estimator: bft.draw("x", m(t), e))
        keys = jax.random.split(jax.random.key(0), 20_000)
        value, gradient = jax.jit(jax.vmap(lambda k, r=run: r.value_and_grad(k, 1.2)))(keys)
        bft.testing.assert_unbiased(value, mean(1.2), family=4, resolution=0.1)
        bft.testing.assert_unbiased(gradient, jax.grad(mean)(1.2), family=4, resolution=0.2)


def test_elements_of_a_batch_shape_have_their_own_gradient():
    """E[(w·x)²] for three elements: their variances and the square of the weighted mean."""
    weights, t = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.4, 0.6, 0.3])
    for estimator, make, variance in (
        (bft.estimators.measure_valued(), lambda t: dist.Normal(t, t), lambda t: t**2),
        (bft.estimators.rebar(), lambda t: dist.Bernoulli(probs=t), lambda t: t * (1 - t)),
    ):
        run = bft.expectation(
            lambda t, m=make, e=estimator: (weights @ bft.draw("x", m(t).to_event(1), e)) ** 2
        )
        keys = jax.random.split(jax.random.key(1), 20_000)
        value, gradient = jax.jit(jax.vmap(lambda k, r=run: r.value_and_grad(k, t)))(keys)
        exact = jax.value_and_grad(lambda t, v=variance: (weights @ t) ** 2 + weights**2 @ v(t))(t)
        bft.testing.assert_unbiased(value, exact[0], family=4, resolution=0.5)
        bft.testing.assert_unbiased(gradient, exact[1], family=4, resolution=1.0)


def test_measure_valued_takes_costs_with_jumps_and_costs_that_are_infinite():
    """P(x > 0.5) for a normal x; an infinite cost is passed on, not dropped."""
    weak = bft.estimators.measure_valued()
    run = bft.expectation(lambda m: jnp.where(bft.draw("x", dist.Normal(m, 1.0), weak) > 0.5, 1, 0))
    keys = jax.random.split(jax.random.key(2), 20_000)
    gradient = jax.jit(jax.vmap(lambda k: run.value_and_grad(k, 0.2)[1]))(keys)
    exact = jnp.exp(dist.Normal(0.0, 1.0).log_prob(0.3))
    bft.testing.assert_unbiased(gradient, exact, resolution=0.05)
    run = bft.expectation(
        lambda p: jnp.where(bft.draw("x", dist.Bernoulli(probs=p), weak) == 1, jnp.inf, 0.0)
    )
    assert not jnp.isfinite(run.value_and_grad(jax.random.key(0), 0.2)[1])


def test_implicit_gradients_of_a_dirichlet_agree_with_the_closed_form():
    """E[Σ x²] = Σ a(a + 1)/(A(A + 1)) with A = Σ a; Gamma and Beta are in test_table.py."""
    path, a = bft.estimators.reparameterize(), jnp.array([0.7, 1.3, 2.0])
    run = bft.expectation(lambda t: jnp.sum(bft.draw("x", dist.Dirichlet(t), path) ** 2))
    keys = jax.random.split(jax.random.key(3), 10_000)
    value, gradient = jax.jit(jax.vmap(lambda k: run.value_and_grad(k, a)))(keys)
    exact = jax.value_and_grad(lambda t: (t * (t + 1)).sum() / t.sum() / (t.sum() + 1))(a)
    bft.testing.assert_unbiased(value, exact[0], family=2, resolution=0.05)
    bft.testing.assert_unbiased(gradient, exact[1], family=2, resolution=0.05)


@pytest.mark.parametrize(
    ("of", "trials"),
    [
        (lambda logit: dist.Bernoulli(logits=logit), 1),
        (lambda logit: dist.Bernoulli(logits=logit).expand([2]).to_event(1), 2),
        (lambda logit: dist.Binomial(3, logits=logit), 3),
    ],
    ids=["bernoulli", "event", "binomial"],
)
def test_gradients_at_a_logit_of_0(of, trials):
    """Where guides start, and where numpyro's log-probs take |logit|."""
    cost = lambda logit, estimator: 5.0 + jnp.sum(bft.draw("y", of(logit), estimator))
    value, gradient = bft.expectation(
        lambda t: cost(t, bft.estimators.score_function())
    ).value_and_grad(jax.random.key(2), 0.0)
    np.testing.assert_allclose(gradient, value * (value - 5.0 - trials / 2), rtol=1e-5)
    if trials != 2:
        exact = bft.expectation(lambda t: cost(t, bft.estimators.enumerate()))
        value, gradient = exact.value_and_grad(jax.random.key(2), 0.0)
        np.testing.assert_allclose([value, gradient], [5 + trials / 2, trials / 4], rtol=1e-5)


def test_a_moving_average_is_carried_and_cuts_the_variance():
    average = bft.estimators.moving_average(0.9)

    @bft.expectation
    def program(p):
        return 5.0 + bft.draw("b", dist.Bernoulli(probs=p), average)

    with pytest.raises(EstimatorError, match=r"\['b'\].*state[\s\S]*init and step"):
        program.estimate(jax.random.key(0), 0.3)
    with pytest.raises(EstimatorError, match=r"lack those of the choices \['b'\][\s\S]*init"):
        program.step(jax.random.key(0), {}, 0.3)

    def run(key):
        def step(states, i):
            states, (_, gradient) = program.step(jax.random.fold_in(key, i), states, 0.3)
            return states, gradient

        return jax.lax.scan(step, program.init(0.3), jnp.arange(30))[1]

    gradients = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(4), 2_000))
    bft.testing.assert_unbiased(gradients[:, 0], 1.0, family=2)
    bft.testing.assert_unbiased(gradients[:, -1], 1.0, family=2)
    assert gradients[:, -1].var() < 0.05 * gradients[:, 0].var()
    total, weight = average.update(
        average.update(average.init(), jnp.array(2.0), None), jnp.array(4.0), None
    )
    assert jnp.isclose(
        average.baseline((total, weight), jnp.zeros(1), None)[0], (0.9 * 2 + 4) / 1.9
    )


def test_fit_requires_what_expectations_do():
    language = bft.priors.markov(jnp.log(jnp.full(2, 0.5)), jnp.log(jnp.full((2, 2), 0.5)), eos=1)

    class Half(type(bft.estimators.score_function())):
        @property
        def claim(self):
            return Claim("biased", "by one half")

    for estimator, steps, match in (
        (Half(0.0), 1, r"'y'[\s\S]*by one half"),
        (bft.estimators.score_function(), 2, "seen the draws"),
    ):
        with pytest.raises(EstimatorError, match=match):
            bft.fit(
                bft.Target(language, max_new_tokens=3),
                bft.trainable(language),
                objective=bft.objectives.reverse_kl,
                estimator=estimator,
                optimizer=optax.sgd(0.1),
                num_steps=1,
                steps_per_recording=steps,
                require="unbiased",
                key=jax.random.key(0),
            )


def test_a_cost_that_is_nan_is_named_with_its_choices():
    language = bft.priors.markov(jnp.log(jnp.full(2, 0.5)), jnp.log(jnp.full((2, 2), 0.5)), eos=1)
    potential = bft.evidence.potential(lambda y, n: jnp.where(n == 2, jnp.nan, 0.0))
    target = bft.Target(language, potential, max_new_tokens=3)
    with pytest.raises(FitError, match=r"step 0 in \d+ of 64 lanes.* where y = \[0 1 1\]"):
        bft.fit(
            target,
            bft.trainable(language),
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(64),
            optimizer=optax.sgd(0.1),
            num_steps=1,
            key=jax.random.key(0),
        )


def test_fit_carries_the_state_from_step_to_step():
    language = bft.priors.markov(jnp.log(jnp.full(2, 0.5)), jnp.log(jnp.full((2, 2), 0.5)), eos=1)
    target = bft.Target(language, bft.evidence.potential(lambda y, n: -30.0 + n), max_new_tokens=3)

    def norms(estimator):
        fitted = bft.fit(
            target,
            bft.trainable(language),
            objective=bft.objectives.reverse_kl,
            estimator=estimator,
            optimizer=optax.sgd(0.0),
            num_steps=20,
            key=jax.random.key(0),
        )
        return np.array([info.metrics["grad_norm"] for info in fitted.history])

    carried = norms(bft.estimators.moving_average())
    plain = norms(bft.estimators.score_function())
    np.testing.assert_allclose(carried[0], plain[0], rtol=1e-5)
    assert carried[1:].mean() < 0.3 * plain[1:].mean()


def test_a_users_own_estimator_fits_in_a_few_lines():
    """A score estimator whose baseline is half of the other lanes' mean."""

    class Half(ScoreEstimator):
        claim = Claim("unbiased")
        num_samples = 4

        def prepare(self, credited):
            return 0.5 * (credited.sum(0, keepdims=True) - credited) / 3

    @bft.expectation
    def program(p):
        return 5.0 + bft.draw("b", dist.Bernoulli(probs=p), Half())

    keys = jax.random.split(jax.random.key(0), 10_000)
    _, gradient = jax.jit(jax.vmap(lambda k: program.value_and_grad(k, 0.3)))(keys)
    bft.testing.assert_unbiased(gradient, 1.0)
