"""Objectives of twists, walked by their table: the exact twist is where they end, and only it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from samplers.language import HAS_AB, IN_JAX, TOKEN_BY_TOKEN, replicated
from twists.learning import blank, gradients, learnable, roll

from bayesft._sample import sample
from bayesft.errors import TargetError
from bayesft.evidence import potential
from bayesft.samplers import importance, twisted
from bayesft.testing import assert_unbiased, exact_twist
from bayesft.twists import OBJECTIVES, fit, fitting, fudge
from bayesft.twists.fitting import _loss
from bayesft.twists.objective import TwistObjective

KEY = jax.random.key(0)
FAMILY = 10
RUNS = 3000
CASES = {
    "token by token, truncate": (TOKEN_BY_TOKEN, "truncate"),
    "constraint in Python and prefix, condition": (HAS_AB + 0.5 * TOKEN_BY_TOKEN, "condition"),
    "in JAX, force": (IN_JAX, "force"),
}


def assert_stationary(objective, target):
    """At the exact twist the gradient is 0: in every sample, or for `fudge` in expectation."""
    twist = exact_twist(target)
    rollouts = roll(target, twist, objective, KEY)
    found = gradients(objective, twist, target, rollouts)[:, learnable(target)]
    assert np.isfinite(found).all()
    found = np.where(np.abs(found) < 1e-7, 0.0, found)  # terms of size 1 cancel up to rounding
    if isinstance(objective, type(fudge())):
        assert_unbiased(found, np.zeros(found.shape[1]), resolution=0.02, family=FAMILY)
    else:
        np.testing.assert_allclose(found, np.zeros_like(found), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_vanishes_at_the_exact_twist(name, case):
    evidence, eos = CASES[case]
    assert_stationary(OBJECTIVES[name](), replicated(evidence, RUNS, eos))


@dataclasses.dataclass(frozen=True)
class Tampered(TwistObjective):
    """An objective that is handed something else than it asked for."""

    right: TwistObjective
    tamper: object
    from_prior: bool = False
    needs_positives: bool = False

    def bind(self, target):
        return dataclasses.replace(self, right=self.right.bind(target))

    def __call__(self, paths, positives):
        return self.right(*self.tamper(paths, positives))


def unweighted_negatives(paths, positives):
    return dataclasses.replace(paths, log_ratio=jnp.zeros_like(paths.log_ratio)), positives


def unweighted_positives(paths, positives):
    count = positives.weights.shape[0]
    return paths, dataclasses.replace(positives, weights=jnp.full(count, 1 / count))


def no_terminal_condition(paths, positives):
    values = jnp.where(paths.live, paths.log_twists, 0.0)
    zeros = jnp.zeros_like(paths.log_end)
    return dataclasses.replace(paths, log_twists=values, log_end=zeros), positives


def no_last_token(paths, positives):
    """The last token of every sequence (EOS, mostly) is not scored."""
    last = jnp.pad(paths.live[:, 1:], ((0, 0), (0, 1)))
    return dataclasses.replace(paths, log_ratio=jnp.where(last, paths.log_ratio, 0.0)), positives


@pytest.mark.parametrize(
    ("name", "tamper"),
    [
        ("contrastive", unweighted_negatives),
        ("soft_q", no_terminal_condition),
        ("path_consistency", no_last_token),
        ("sixo", unweighted_positives),
    ],
)
def test_planted_bugs_are_noticed(name, tamper):
    target = replicated(TOKEN_BY_TOKEN + IN_JAX, RUNS, "truncate")
    twist = exact_twist(target)
    if tamper in (unweighted_negatives, unweighted_positives):
        # Where the proposal is exact, weights change nothing: let another twist propose.
        rollouts = roll(target, blank(), OBJECTIVES[name](), KEY, num_particles=256)
        means = [
            gradients(objective, twist, target, rollouts)[:, learnable(target)].mean(0)
            for objective in (OBJECTIVES[name](), Tampered(OBJECTIVES[name](), tamper))
        ]
        assert np.abs(means[1]).max() > 5 * np.abs(means[0]).max()
    else:
        with pytest.raises(AssertionError):
            assert_stationary(Tampered(OBJECTIVES[name](), tamper), target)


def test_planted_bug_in_fudge_that_regresses_on_twisted_draws():
    wrong = Tampered(fudge(), lambda paths, positives: (paths, positives), from_prior=False)
    target = replicated(IN_JAX, RUNS, "truncate")
    with pytest.raises(AssertionError):
        twist = exact_twist(target)
        found = gradients(wrong, twist, target, roll(target, twist, wrong, KEY))
        reached = found[:, learnable(target)]
        assert_unbiased(reached, np.zeros(reached.shape[1]), family=FAMILY)


# ---- learning -----------------------------------------------------------------------------------


def learn(objective, target, num_steps=150):
    schedule = optax.cosine_decay_schedule(0.3, num_steps, alpha=0.01)
    settings = dict(optimizer=optax.adam(schedule), num_steps=num_steps, key=KEY)
    return fit(target, blank(), objective=objective, num_particles=512, **settings).twist


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_learned_table_approaches_the_exact_one(name):
    target = replicated(IN_JAX, 1, "condition")
    # One-step targets carry evidence back a token at a time.
    twist = learn(OBJECTIVES[name](), target, num_steps=300 if name == "soft_q" else 150)
    error = np.asarray(twist.params - exact_twist(target).params)
    error = np.where(learnable(target), error, 0.0)
    if name == "contrastive":  # before the first token nothing has ended: that factor is free
        error[0] -= error[0].mean()
    # What noise is left in fudge's regression of 512 sequences a step; the others end without any.
    assert np.abs(error).max() < (0.2 if name == "fudge" else 0.01)
    assert log_weight_variance(target, twist) < plain_variance(target) / 50


@pytest.mark.parametrize("name", ["contrastive", "soft_q"])
def test_the_end_is_learned_too(name, monkeypatch):
    """Planted bug: without the last token, what stands in for evidence at the end stays 1."""
    right = fitting.beside

    def without_last(target, twist, xs, tokens):
        log_twists, live = right(target, twist, xs, tokens)
        return log_twists, live & jnp.pad(live[..., 1:], ((0, 0), (0, 0), (0, 1)))

    monkeypatch.setattr(fitting, "beside", without_last)
    target = replicated(IN_JAX, 1, "condition")
    wrong = Tampered(OBJECTIVES[name](), lambda *given: given)  # another objective, another trace
    twist = learn(wrong, target, num_steps=30)
    error = np.abs(np.asarray(twist.params - exact_twist(target).params))
    assert error[learnable(target)].max() > 1.0


def plain_variance(target) -> float:
    draws = sample(target, importance(4096), jax.random.key(1))
    log_weights = np.asarray(draws.log_weights)
    return float(log_weights[log_weights > -np.inf].var())


def log_weight_variance(target, twist) -> float:
    draws = sample(target, twisted(twist, 4096, ess_threshold=0), jax.random.key(1))
    log_weights = np.asarray(draws.log_weights)
    assert (log_weights > -np.inf).all()
    return float(log_weights.var())


def test_what_follows_the_end_counts_nothing():
    target, objective = replicated(IN_JAX, 4, "condition"), OBJECTIVES["contrastive"]()
    rng = np.random.default_rng(0)
    twist = blank().with_params(jnp.asarray(rng.normal(size=blank().params.shape), jnp.float32))
    rollouts = roll(target, twist, objective, KEY)
    tokens = np.asarray(rollouts.tokens)
    ended = np.cumsum(tokens == 2, axis=-1) - (tokens == 2) > 0
    garbage = jnp.asarray(np.where(ended, 0, tokens))
    for name, make in OBJECTIVES.items():
        losses = [
            _loss(make().bind(target), twist, target, target.xs, rolled, None)
            for rolled in (rollouts, dataclasses.replace(rollouts, tokens=garbage))
        ]
        assert losses[0] == losses[1], name


def test_fudge_needs_bounds():
    target = replicated(potential(lambda tokens, length: jnp.float32(0)), 1)
    with pytest.raises(TargetError, match="bounds"):
        fudge().bind(target)
