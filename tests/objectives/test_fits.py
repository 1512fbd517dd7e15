"""Every objective of draws fits a guide of sequences, and says what it cannot do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives.table import EXACT, TARGET
from samplers.language import HAS_AB, IN_JAX, LANGUAGE, guide

import bayesft as bft
from bayesft import objectives
from bayesft.errors import GuideError, HardConstraintError, ObjectiveError, TargetError
from bayesft.fitting.update import update
from bayesft.objectives import generators

OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.1, 100))
LOO = bft.estimators.leave_one_out(64)
ENUMERATE = bft.estimators.enumerate()
HELLINGER = generators.squared_hellinger
# What may be left of KL(q ‖ p*), which is 0.139 at the start: nothing where the gradient has no
# noise at the posterior, a tenth elsewhere.
NOTHING, TENTH = 1e-3, 0.0139
FITS = {
    "iwae": (objectives.iwae(4), LOO, TENTH),
    "chi_upper_bound": (objectives.chi_upper_bound(log_z=1.0), ENUMERATE, NOTHING),
    "f_divergence": (objectives.f_divergence(HELLINGER, log_z=1.0), ENUMERATE, NOTHING),
    "log_variance": (objectives.log_variance(16), None, NOTHING),
    "trajectory_balance": (objectives.trajectory_balance, None, TENTH),
    "reweighted_wake_sleep": (objectives.reweighted_wake_sleep(64), None, TENTH),
}


def fit(target, guide, objective, estimator=None, num_steps=100, **options):
    with jax.debug_key_reuse(False):  # checked at every call; other tests pay for it
        return bft.fit(
            target,
            guide,
            objective=objective,
            estimator=estimator,
            optimizer=OPTIMIZER,
            num_steps=num_steps,
            key=jax.random.key(0),
            **options,
        )


@pytest.mark.parametrize("name", FITS)
def test_a_fit_ends_at_the_posterior(name):
    objective, estimator, tolerance = FITS[name]
    start = guide()
    assert EXACT.reverse_kl(start) > 10 * TENTH
    if name == "trajectory_balance":
        start = objectives.with_log_z(start, TARGET)
    fitted = fit(TARGET, start, objective, estimator)
    assert EXACT.reverse_kl(fitted.guide) < tolerance
    if name == "trajectory_balance":
        np.testing.assert_allclose(fitted.guide.log_zs, EXACT.log_z, atol=0.1)


def test_equal_settings_do_not_trace_again():
    fit(TARGET, guide(), objectives.log_variance(16), num_steps=1)
    traced = update._cache_size()
    fit(TARGET, guide(), objectives.log_variance(16), num_steps=1)
    assert update._cache_size() == traced
    for name in ("iwae", "reweighted_wake_sleep"):
        make = getattr(objectives, name)
        assert make(4) == make(4) != make(5)
    assert objectives.renyi(0.5, 4) == objectives.renyi(0.5, 4) != objectives.renyi(0.6, 4)
    assert objectives.chi_upper_bound() == objectives.chi_upper_bound(2.0)


def test_python_evidence_is_asked_once_for_all_draws():
    """Draws in a plate are rows of the same call, and the numbers are those of JAX evidence."""
    rows = []

    def count(completion_ids):
        rows.append(len(completion_ids))
        return [ids.count(0) for ids in completion_ids]

    evidence = bft.evidence.reward(count, beta=1.0, bounds=(0.0, 4.0))
    told = bft.Target(LANGUAGE, evidence, max_new_tokens=2)
    objective, estimator, _ = FITS["iwae"]
    values = [fit(t, guide(), objective, estimator, 2).values for t in (told, TARGET)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    assert rows == [4 * 64] * 2


def test_every_prompt_has_its_own_log_z():
    target = bft.Target(LANGUAGE, IN_JAX, prompts=["", "a", "b"], max_new_tokens=2)
    balanced = objectives.with_log_z(guide(), target, initial=1.0)
    moved = balanced.with_params({**balanced.params, "log_z": jnp.arange(3.0)})
    found = [float(moved.log_z(jax.tree.map(lambda a, i=i: a[i], target.xs))) for i in range(3)]
    assert found == [0.0, 1.0, 2.0]
    unknown = bft.Target(LANGUAGE, IN_JAX, prompts=["ab"], max_new_tokens=2)
    assert np.isnan(moved.log_z(jax.tree.map(lambda a: a[0], unknown.xs)))
    with pytest.raises(GuideError, match="not a guide"):
        objectives.with_log_z(LANGUAGE, target)
    with pytest.raises(GuideError, match="with_log_z"):
        fit(TARGET, guide(), objectives.trajectory_balance, num_steps=1)


HIDDEN = bft.evidence.potential(lambda y, n: jnp.where(y[0] == 1, -jnp.inf, 0.0))
INFINITE = ["iwae", "log_variance", "trajectory_balance", "reweighted_wake_sleep"]


@pytest.mark.parametrize("name", INFINITE)
def test_hard_constraints_are_refused_before_any_work(name):
    hard = bft.Target(LANGUAGE, HAS_AB, max_new_tokens=2)
    objective, estimator, _ = FITS[name]
    start = objectives.with_log_z(guide(), hard)
    with pytest.raises(HardConstraintError, match="log_penalty"):
        fit(hard, start, objective, estimator)


def test_a_density_of_0_that_was_not_declared_is_met_by_name():
    hidden = bft.Target(LANGUAGE, HIDDEN, max_new_tokens=2)
    with pytest.raises(HardConstraintError, match="LogVariance"):
        fit(hidden, guide(), objectives.log_variance(16))


def test_finite_generators_allow_hard_constraints():
    """The density of 0 costs f(0) and no NaN; the guide leaves the sequences that are ruled out."""
    hard = bft.Target(LANGUAGE, HAS_AB, max_new_tokens=2)
    ruled = bft.testing.enumerate_target(bft.Target(LANGUAGE, HIDDEN, max_new_tokens=2))
    target = ruled.target
    for objective in (
        objectives.chi_upper_bound(2.0),
        objectives.f_divergence(generators.jensen_shannon),
    ):
        start = ruled.log_probs_of(guide())
        fitted = fit(target, guide(), objective, bft.estimators.enumerate())
        assert np.isfinite(fitted.values).all()
        impossible = np.isneginf(ruled.log_probs)
        left = np.exp(ruled.log_probs_of(fitted.guide)[impossible]).sum()
        assert left < 0.05 < np.exp(start[impossible]).sum()
    with pytest.raises(HardConstraintError, match="renyi is infinite"):
        fit(hard, guide(), objectives.renyi(0.5, 4), LOO, num_steps=1)
    with pytest.raises(HardConstraintError, match="jeffreys"):
        fit(hard, guide(), objectives.f_divergence(generators.jeffreys), num_steps=1)


def test_bad_settings_are_refused():
    for make in (objectives.iwae, lambda k: objectives.renyi(0.5, k)):
        with pytest.raises(ObjectiveError, match="num_samples=0"):
            make(0)
    for make in (objectives.log_variance, objectives.reweighted_wake_sleep):
        with pytest.raises(ObjectiveError, match="num_samples ≥ 2"):
            make(1)
    with pytest.raises(ObjectiveError, match="reverse_kl"):
        objectives.renyi(1.0, 4)
    with pytest.raises(ObjectiveError, match="chi_upper_bound"):
        objectives.renyi(-1.0, 4)
    with pytest.raises(ObjectiveError, match="renyi"):
        objectives.chi_upper_bound(1.0)
    with pytest.raises(ObjectiveError, match="log_z=-inf"):
        objectives.chi_upper_bound(log_z=-np.inf)
    for objective in (objectives.renyi(0.5, 4), *(entry[0] for entry in FITS.values())):
        with pytest.raises(TargetError, match="data"):
            fit(bft.empirical([[0, 2]]), guide(), objective, bft.estimators.leave_one_out(2))
    with pytest.raises(TargetError, match="forward_kl"):
        fit(TARGET, guide(), objectives.wake_sleep)
