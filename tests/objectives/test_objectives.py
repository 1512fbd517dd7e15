"""Every objective against enumeration: value, gradient and minimiser."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives.table import CASES

import bayesft as bft
from bayesft.base import Horizon
from bayesft.errors import (
    FitError,
    GuideError,
    HardConstraintError,
    SamplerError,
    TargetError,
)
from bayesft.fitting.order import Order
from bayesft.objectives import OBJECTIVES
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased, enumerate_target

HORIZON = Horizon(4)
ESTIMATORS = {
    "score_function": bft.estimators.score_function(),
    "leave_one_out": bft.estimators.leave_one_out(num_samples=4),
    "enumerate": bft.estimators.enumerate(),
}


def count_a(tokens, length):
    return ((tokens == 0) & (jnp.arange(tokens.shape[-1]) < length)).sum().astype(jnp.float32)


@pytest.fixture(scope="module")
def language():
    rows = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]]))
    return bft.priors.markov(jnp.log(jnp.array([0.5, 0.3, 0.2])), rows, eos=2)


@pytest.fixture(scope="module")
def target(language):
    return bft.Target(language, bft.evidence.potential(count_a), max_new_tokens=4)


@pytest.fixture(scope="module")
def guide(language):
    guide = bft.trainable(language)
    keys = jax.random.split(jax.random.key(1), len(guide.params))
    return guide.with_params(
        {
            name: value + 0.5 * jax.random.normal(key, value.shape)
            for key, (name, value) in zip(keys, guide.params.items(), strict=True)
        }
    )


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def one_step(objective, target, guide, xs, key, estimator=None):
    recording = record(objective, key, (bind(guide, HORIZON), target), xs, estimator=estimator)
    return replay_value_and_grad(
        objective,
        lambda params: (BoundGuide(guide.with_params(params), HORIZON), target),
        guide.params,
        recording,
        estimator=estimator,
    )


def log_q(guide, target, params, tokens):
    x = jax.tree.map(lambda a: a[0], target.xs)
    return jax.vmap(BoundGuide(guide.with_params(params), HORIZON)(x).log_prob)(tokens)


def exact_reverse_kl(params, guide, target):
    exact = enumerate_target(target)
    scores = log_q(guide, target, params, exact.tokens)
    log_density = exact.log_probs + exact.log_z
    return jnp.sum(jnp.exp(scores) * (scores - log_density))


def exact_forward_kl(params, guide, target):
    exact = enumerate_target(target)
    scores = log_q(guide, target, params, exact.tokens)
    return jnp.sum(jnp.exp(exact.log_probs) * (exact.log_probs - scores))


def test_the_room_is_covered():
    """Objectives of draws are in the table, others in test_programs, test_hierarchical,
    test_variational_smc and here."""
    others = {"mle", "forward_kl", "wake_sleep", "hierarchical", "iwhvi", "diwhvi"}
    others |= {"variational_smc"}
    assert {objective.__name__ for objective in OBJECTIVES} - others == set(CASES) - {
        "renyi above 1"
    }


@pytest.mark.parametrize("name", ESTIMATORS)
def test_reverse_kl_under_every_estimator(target, guide, name):
    def one(key):
        value, gradient = one_step(
            bft.objectives.reverse_kl, target, guide, target.xs, key, ESTIMATORS[name]
        )
        return value, flat(gradient)

    keys = jax.random.split(jax.random.key(0), 20_000 if name != "enumerate" else 2)
    values, gradients = jax.lax.map(jax.jit(one), keys, batch_size=1000)
    exact, exact_gradient = jax.value_and_grad(exact_reverse_kl)(guide.params, guide, target)
    exact_gradient = flat(exact_gradient)
    if name == "enumerate":
        np.testing.assert_allclose(values, exact, rtol=1e-5)
        np.testing.assert_allclose(gradients[0], exact_gradient, atol=1e-5)
        return
    used = jnp.abs(exact_gradient) > 1e-6
    assert_unbiased(values, exact, family=2 * len(ESTIMATORS))
    assert_unbiased(gradients[:, used], exact_gradient[used], family=2 * len(ESTIMATORS))


def test_forward_kl_from_exact_draws_is_unbiased_in_its_gradient(target, guide):
    """Rejection gives exact draws, so nothing is biased but the reported constant log Z."""
    objective = bft.objectives.forward_kl(bft.samplers.rejection(num_draws=400, log_bound=4.0))
    step = jax.jit(lambda xs: flat(one_step(objective, target, guide, xs, jax.random.key(0))[1]))
    gradients = []
    with jax.debug_key_reuse(False):  # checked at every call; other tests pay for it
        for seed in range(50):
            gradients.append(step(objective.observe(target, guide, jax.random.key(seed))))
    exact = flat(jax.grad(exact_forward_kl)(guide.params, guide, target))
    used = jnp.abs(exact) > 1e-6
    assert_unbiased(jnp.stack(gradients)[:, used], exact[used])


def test_forward_kl_from_weighted_draws_approaches_the_exact_value(target, guide):
    """Self-normalised weights: the stated O(1/N) bias is far below the tolerance at this N."""
    objective = bft.objectives.forward_kl(
        lambda q: bft.samplers.importance(num_particles=200_000, proposal=q)
    )
    xs = objective.observe(target, guide, jax.random.key(0))
    value, gradient = one_step(objective, target, guide, xs, jax.random.key(0))
    exact, exact_gradient = jax.value_and_grad(exact_forward_kl)(guide.params, guide, target)
    # Weights lie in [e^-2, e^6] here; 200 000 of them give standard errors below 0.004.
    np.testing.assert_allclose(value, exact, atol=0.03)
    np.testing.assert_allclose(flat(gradient), flat(exact_gradient), atol=0.03)


def test_draws_without_their_weights_are_caught(target, guide):
    """Planted bug: the guide's draws, taken for the target's, beside the tolerance above."""
    objective = bft.objectives.forward_kl(
        lambda q: bft.samplers.importance(num_particles=4000, proposal=q)
    )
    xs = objective.observe(target, guide, jax.random.key(0))
    score = jax.jit(jax.vmap(lambda x: objective(bind(guide, HORIZON), target, x)))
    exact = enumerate_target(target).forward_kl(guide)
    assert abs(score(xs).mean() - exact) < 0.1
    equal = dataclasses.replace(xs.observed, weight=jnp.ones(xs.observed.weight.shape))
    assert abs(score(dataclasses.replace(xs, observed=equal)).mean() - exact) > 0.3


def test_mle_is_the_cross_entropy_of_the_data(language, guide):
    data = bft.empirical([[0, 1, 2], [1, 2], [0, 0, 1, 1]])
    bound = data.bind(guide)

    def mean_score(params):
        q = BoundGuide(guide.with_params(params), bound.horizon)
        scores = jax.vmap(lambda x: -q(x).log_prob(x.observed.tokens))(bound.xs)
        return scores.mean()

    expected, expected_gradient = jax.value_and_grad(mean_score)(guide.params)
    value, gradient = replay_value_and_grad(
        bft.objectives.mle,
        lambda params: (BoundGuide(guide.with_params(params), bound.horizon), bound),
        guide.params,
        record(
            bft.objectives.mle, jax.random.key(0), (bind(guide, bound.horizon), bound), bound.xs
        ),
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(flat(gradient), flat(expected_gradient), atol=1e-5)
    # Planted bug: the last token of each completion left out.
    cut = jax.vmap(lambda x: bind(guide, bound.horizon)(x).token_log_probs(x.observed.tokens)[:-1])
    assert abs(-cut(bound.xs).sum(-1).mean() - value) > 0.1


@pytest.fixture(scope="module")
def tabular(language):
    """A guide with a parameter for every sequence, so that it can equal any posterior."""
    sequences = [list(row) for row in language.enumerate(4).tolist()]
    complete = [row[: row.index(2) + 1] if 2 in row else row for row in sequences]
    return bft.trainable(bft.empirical(complete, vocab_size=3, eos=2))


LOO_64 = bft.estimators.leave_one_out(num_samples=64)


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl"])
def test_the_minimiser_is_the_enumerated_posterior(target, tabular, name):
    objective = {
        "reverse_kl": bft.objectives.reverse_kl,
        "forward_kl": bft.objectives.forward_kl(
            bft.samplers.rejection(num_draws=256, log_bound=4.0)
        ),
    }[name]
    # Key reuse is checked at every call, which the loops of other tests pay for.
    with jax.debug_key_reuse(False):
        fitted = bft.fit(
            target,
            tabular,
            objective=objective,
            estimator=LOO_64 if name == "reverse_kl" else None,
            optimizer=optax.adam(optax.cosine_decay_schedule(0.2, 300)),
            num_steps=300,
            key=jax.random.key(0),
        )
    divergence = exact_reverse_kl(fitted.guide.params, fitted.guide, target)
    divergence += enumerate_target(target).log_z
    assert divergence + 1e-6 >= 0.0
    assert divergence < (1e-4 if name == "reverse_kl" else 0.02)


def test_fit_reports_the_objective_and_repeats_itself(target, guide):
    def run(**options):
        return bft.fit(
            target,
            guide,
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(num_samples=8),
            optimizer=optax.sgd(0.1),
            num_steps=5,
            key=jax.random.key(3),
            **options,
        )

    seen = []
    first = run(callbacks=[seen.append])
    assert [info.step for info in seen] == list(range(5))
    np.testing.assert_array_equal(first.values, run().values)
    np.testing.assert_allclose(first.values, run(micro_batch=3).values, rtol=1e-5)
    off_policy = run(steps_per_recording=3)
    assert not np.allclose(first.values[1:], off_policy.values[1:])


def test_the_guide_passed_in_survives_the_fit(target, guide):
    before = flat(guide.params)
    bft.fit(
        target,
        guide,
        objective=bft.objectives.reverse_kl,
        estimator=bft.estimators.leave_one_out(num_samples=2),
        optimizer=optax.sgd(0.1),
        num_steps=1,
        key=jax.random.key(3),
    )
    np.testing.assert_array_equal(before, flat(guide.params))


def fitting(target, guide, **options):
    defaults = dict(
        objective=bft.objectives.reverse_kl,
        estimator=bft.estimators.leave_one_out(num_samples=4),
        optimizer=optax.sgd(0.1),
        num_steps=2,
        key=jax.random.key(0),
    )
    return bft.fit(target, guide, **{**defaults, **options})


def test_infinite_objectives_are_refused_before_any_work(language, guide, target):
    hard = bft.evidence.constraint(lambda completions: [False] * len(completions))
    constrained = bft.Target(language, hard, max_new_tokens=4)
    conditioned = bft.Target(language, max_new_tokens=4, eos="condition")
    for declared in (constrained, conditioned):
        with pytest.raises(HardConstraintError, match=r"log_penalty[\s\S]*forward_kl"):
            fitting(declared, guide)
    hidden = bft.evidence.potential(lambda y, n: jnp.where(y[0] == 1, -jnp.inf, 0.0))
    with pytest.raises(HardConstraintError, match="density of 0"):
        fitting(bft.Target(language, hidden, max_new_tokens=4), guide, num_steps=50)


def test_misuse_is_refused(language, guide, target):
    with pytest.raises(GuideError, match="not a guide"):
        fitting(target, language)
    with pytest.raises(TargetError, match="num_steps=0"):
        fitting(target, guide, num_steps=0)
    with pytest.raises(TargetError, match="micro_batch=0"):
        fitting(target, guide, micro_batch=0)
    with pytest.raises(TargetError, match="completions"):
        fitting(target, guide, objective=bft.objectives.mle)
    explosive = bft.evidence.potential(lambda y, n: jnp.float32(jnp.nan))
    with pytest.raises(FitError, match="step 0"):
        fitting(bft.Target(language, explosive, max_new_tokens=4), guide)


def test_no_prompt_stands_twice_in_a_batch_and_none_is_left_out():
    order = Order(5, 3, jax.random.key(0))
    rows = [order.rows(step).tolist() for step in range(10)]
    assert order.rows(4).tolist() == rows[4]  # whatever was asked before
    assert all(len(set(batch)) == 3 for batch in rows)
    counts = np.bincount(np.concatenate(rows), minlength=5)
    assert counts.max() - counts.min() <= 1


def test_enumeration_beside_impossible_transitions(language):
    """0 · log 0 is 0, not NaN: the gradient is that of the possible sequences."""
    rows = language.transition_logits.at[0, 1].set(-jnp.inf)
    sparse = bft.priors.markov(language.initial_logits, rows, eos=2)
    target = bft.Target(sparse, bft.evidence.potential(count_a), max_new_tokens=4)
    fitted = fitting(target, bft.trainable(sparse), estimator=bft.estimators.enumerate())
    assert np.isfinite(fitted.values).all()
    assert fitted.values[1] < fitted.values[0]


def test_a_guide_with_another_end_of_sequence_is_refused(language, target):
    other = bft.priors.markov(language.initial_logits, language.transition_logits, eos=1)
    with pytest.raises(GuideError):
        fitting(target, bft.trainable(other))


def test_forward_kl_without_draws_of_the_posterior_is_refused(language, guide, target):
    best = bft.objectives.forward_kl(bft.samplers.best_of_n(4, num_draws=8))
    with pytest.raises(SamplerError, match="posterior"):
        fitting(target, guide, objective=best, estimator=None)
    never = bft.evidence.constraint(lambda completions: [False] * len(completions))
    impossible = bft.Target(language, never, max_new_tokens=4)
    dead = bft.objectives.forward_kl(bft.samplers.importance(16))
    with pytest.raises(SamplerError, match="weight 0"):
        fitting(impossible, guide, objective=dead, estimator=None)
