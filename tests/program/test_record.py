"""Recordings and their replays: unbiased, independent of micro-batches, corrected off policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.base import Horizon
from bayesft.errors import ChoiceError
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased

HORIZON = Horizon(4)
LOO = bft.estimators.leave_one_out(num_samples=4)


@pytest.fixture(scope="module")
def language():
    rows = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]]))
    return bft.priors.markov(jnp.log(jnp.array([0.5, 0.3, 0.2])), rows, eos=2)


def count_a(tokens, length):
    return ((tokens == 0) & (jnp.arange(tokens.shape[-1]) < length)).sum().astype(jnp.float32)


class Calls:
    def __init__(self):
        self.sizes = []

    def __call__(self, completion_ids):
        self.sizes.append(len(completion_ids))
        return [float(ids.count(0)) for ids in completion_ids]


@pytest.fixture(scope="module")
def targets(language):
    host = bft.evidence.reward(Calls(), beta=1.0)
    device = bft.evidence.potential(count_a)
    prompts = [[], [0], [1]]
    return {
        "host": bft.Target(language, host, prompts=prompts, max_new_tokens=4),
        "device": bft.Target(language, device, prompts=prompts, max_new_tokens=4),
    }


@pytest.fixture(scope="module")
def guide(language):
    return shifted(bft.trainable(language), 0.5, seed=1)


def shifted(guide, scale, seed):
    """The guide with noise on every logit."""
    keys = jax.random.split(jax.random.key(seed), len(guide.params))
    return guide.with_params(
        {
            name: value + scale * jax.random.normal(key, value.shape)
            for key, (name, value) in zip(keys, guide.params.items(), strict=True)
        }
    )


def recorded(target, guide, key=None, objective=bft.objectives.reverse_kl):
    return record(
        objective,
        jax.random.key(0) if key is None else key,
        (bind(guide, HORIZON), target),
        target.xs,
        estimator=LOO,
        resolve=target.evaluate_host,
    )


def replayed(target, guide, recording, objective=bft.objectives.reverse_kl, **options):
    return replay_value_and_grad(
        objective,
        lambda params: (BoundGuide(guide.with_params(params), HORIZON), target),
        guide.params,
        recording,
        estimator=LOO,
        **options,
    )


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def exact_reverse_kl(params, guide, target):
    """Mean over prompts of KL(q ‖ p*) − log Z, by enumeration."""
    tokens = jnp.asarray(target.prior.enumerate(4))

    def one(x):
        distribution = BoundGuide(guide.with_params(params), HORIZON)(x)
        log_q = jax.vmap(distribution.log_prob)(tokens)
        log_p = jax.vmap(lambda y: target.log_density(y, x))(tokens)
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    return jax.vmap(one)(target.xs).mean()


def test_python_evidence_is_called_once_for_all_lanes(targets, guide):
    calls = targets["host"].terms[0].evidence.fn
    calls.sizes.clear()
    recording = recorded(targets["host"], guide)
    assert calls.sizes == [3 * 4]
    device = recorded(targets["device"], guide)
    np.testing.assert_allclose(recording.costs, device.costs, rtol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 12, 100])
def test_micro_batches_change_nothing(targets, guide, micro_batch):
    recording = recorded(targets["host"], guide)
    value, gradient = replayed(targets["host"], guide, recording)
    small = replayed(targets["host"], guide, recording, micro_batch=micro_batch)
    np.testing.assert_allclose(small[0], value, rtol=1e-5)
    np.testing.assert_allclose(flat(small[1]), flat(gradient), atol=2e-6)


@pytest.mark.parametrize("policy", ["on", "off"])
def test_replays_are_unbiased(targets, guide, policy):
    """On the guide that was recorded, and on another one through importance weights."""
    target = targets["device"]
    other = guide
    if policy == "off":
        other = shifted(guide, 0.3, seed=8)

    @jax.jit
    def one(key):
        return flat(replayed(target, other, recorded(target, guide, key))[1])

    keys = jax.random.split(jax.random.key(2), 20_000)
    gradients = jax.lax.map(one, keys, batch_size=1000)
    exact = flat(jax.grad(exact_reverse_kl)(other.params, guide, target))
    used = jnp.abs(exact) > 1e-7  # the row of EOS and of the unused initial state has gradient 0
    assert_unbiased(gradients[:, used], exact[used], family=2)


def test_a_planted_bug_is_caught(targets, guide):
    """Baselines that see a lane's own cost bias the gradient."""
    target = targets["device"]

    @jax.jit
    def one(key):
        recording = recorded(target, guide, key)
        costs = 0.5 * recording.costs[..., None]
        own = {name: jnp.broadcast_to(costs, s.shape) for name, s in recording.stored.items()}
        return flat(replayed(target, guide, dataclasses.replace(recording, stored=own))[1])

    gradients = jax.lax.map(one, jax.random.split(jax.random.key(3), 20_000), batch_size=1000)
    exact = flat(jax.grad(exact_reverse_kl)(guide.params, guide, target))
    used = jnp.abs(exact) > 1e-7
    with pytest.raises(AssertionError):
        assert_unbiased(gradients[:, used], exact[used])


def test_the_gradient_at_the_optimum_is_zero_in_every_sample(language):
    target = bft.Target(language, max_new_tokens=4)
    guide = bft.trainable(language)
    _, gradient = replayed(target, guide, recorded(target, guide))
    np.testing.assert_allclose(flat(gradient), 0.0, atol=1e-6)


def test_a_prompt_in_a_batch_records_what_it_records_alone(targets, guide):
    target = targets["device"]
    together = recorded(target, guide)
    alone = recorded(target.select([1]), guide)
    one = jax.tree.map(lambda a: a[1:2], together.data)
    jax.tree.map(np.testing.assert_array_equal, one, alone.data)


def test_evidence_in_a_plate(targets, guide):
    """Two completions per lane; one call for all P × K × 2 rows."""
    target = targets["host"]
    calls = target.terms[0].evidence.fn

    def twice(guide, target, x):
        def lane(i):
            y, log_q = bft.draw("y", guide(x), with_log_prob=True)
            bft.cost(jax.lax.stop_gradient(log_q) - target.log_density(y, x))

        bft.plate(lane, 2)
        return 0.0

    calls.sizes.clear()
    recording = recorded(target, guide, objective=twice)
    assert calls.sizes == [3 * 4 * 2]
    value, gradient = replayed(target, guide, recording, objective=twice)
    np.testing.assert_allclose(value, recording.costs.mean(), rtol=1e-5)
    assert np.isfinite(flat(gradient)).all()


def test_evidence_in_a_bound_of_several_samples(targets, guide):
    """The lanes of a log_mean_exp ask for it like those of a plate, and replay the same bound."""
    target = targets["host"]
    calls = target.terms[0].evidence.fn
    vimco = bft.estimators.vimco()

    def bound(guide, target, x):
        def lane(_):
            y, log_q = bft.draw("y", guide(x), vimco, with_log_prob=True)
            return target.log_density(y, x) - log_q

        return -bft.log_mean_exp(lane, 2)

    calls.sizes.clear()
    recording = recorded(target, guide, objective=bound)
    assert calls.sizes == [3 * 2]
    value, gradient = replayed(target, guide, recording, objective=bound)
    np.testing.assert_allclose(value, recording.costs.mean(), rtol=1e-5)
    assert np.isfinite(flat(gradient)).all()


def test_evidence_in_a_scan_or_an_unrecorded_program_is_refused(targets, guide):
    target = targets["host"]

    def scanned(guide, target, x):
        def step(carry, _):
            y = bft.draw("y", guide(x))
            bft.cost(-target.log_density(y, x))
            return carry, None

        bft.scan(step, 0.0, length=2)
        return 0.0

    with pytest.raises(ChoiceError, match=r"bft\.scan"):
        recorded(target, guide, objective=scanned)
    x = jax.tree.map(lambda a: a[0], target.xs)
    program = bft.expectation(bft.objectives.reverse_kl, estimator=LOO)
    with pytest.raises(ChoiceError, match="not recorded"):
        program.estimate(jax.random.key(0), bind(guide, HORIZON), target, x)


def test_values_given_beside_an_enumerated_choice_are_refused(targets):
    """Its paths would draw the choice themselves, whatever is given for it."""
    xs = targets["device"].xs

    def program(p, x):
        y = bft.draw("y", dist.Bernoulli(probs=p), bft.estimators.score_function())
        return 1.0 * y + bft.draw("z", dist.Bernoulli(probs=p), bft.estimators.enumerate())

    given = {"y": (jnp.ones((3, 1), jnp.int32), None)}
    with pytest.raises(ChoiceError, match=r"given for \['y'\][\s\S]*several paths"):
        record(program, jax.random.key(0), (0.3,), xs, given=given)


def test_costs_along_a_sequence_credit_each_token_with_what_follows(language, guide):
    """Step rewards with return-to-go: unbiased, with less variance than the same cost at once."""
    score = bft.estimators.score_function()
    target = bft.Target(language, max_new_tokens=4)
    x = jax.tree.map(lambda a: a[0], target.xs)
    weight = jnp.array([1.0, -2.0, 3.0, 0.5])

    def steps(y):
        return weight * (y == 0)

    def along(params):
        y = bft.draw("y", BoundGuide(guide.with_params(params), HORIZON)(x), score)
        bft.cost(steps(y), along="y")
        return 0.0

    def at_once(params):
        y = bft.draw("y", BoundGuide(guide.with_params(params), HORIZON)(x), score)
        return steps(y).sum()

    tokens = jnp.asarray(language.enumerate(4))

    def exact(params):
        q = jax.vmap(BoundGuide(guide.with_params(params), HORIZON)(x).log_prob)(tokens)
        return jnp.sum(jnp.exp(q) * jax.vmap(steps)(tokens).sum(-1))

    truth = flat(jax.grad(exact)(guide.params))
    used = jnp.abs(truth) > 1e-7
    variances = []
    for program in (along, at_once):
        expectation = bft.expectation(program)
        keys = jax.random.split(jax.random.key(9), 20_000)
        run = jax.jit(jax.vmap(lambda k, e=expectation: flat(e.value_and_grad(k, guide.params)[1])))
        gradients = run(keys)
        assert_unbiased(gradients[:, used], truth[used], family=2)
        variances.append(gradients.var(0).sum())
    assert variances[0] < 0.8 * variances[1]
