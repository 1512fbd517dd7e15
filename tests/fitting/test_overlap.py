"""Recordings one step ahead: what they are, that they are unbiased, and that they overlap."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
from fitting.tiny import LOO, OPTIMIZER, count, fit, language, target
from jax.flatten_util import ravel_pytree

import bayesft as bft
from bayesft.base import Horizon
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.fitting.order import Order
from bayesft.priors.sequence import BoundGuide
from bayesft.program import record, replay_value_and_grad
from bayesft.program.record import begin, proceed

HORIZON = Horizon(1)
PAIR = bft.estimators.leave_one_out(2)
PAIRS = jnp.asarray(list(itertools.product(range(3), repeat=2)), jnp.int32)
RATE = 0.7


@pytest.fixture(scope="module")
def drawn():
    """A guide, its target, and a recording of two lanes of one token: 9 outcomes."""
    told = bft.Target(language(), bft.evidence.reward(count, beta=0.5), max_new_tokens=1)
    guide = bft.trainable(language())
    recording = record(
        bft.objectives.reverse_kl,
        jax.random.key(5),
        (BoundGuide(guide, HORIZON), told),
        told.xs,
        estimator=PAIR,
        resolve=told.evaluate_host,
    )
    return guide, told, recording


def with_pair(drawn, params, pair, proposal=lambda prior: prior):
    """The recording that draws this pair of tokens at these parameters, from a proposal."""
    guide, told, _ = drawn
    tokens = pair[None, :, None]
    bound = BoundGuide(guide.with_params(params), HORIZON)
    law = bound(jax.tree.map(lambda a: a[0], told.xs)).proposed_by(proposal)
    log_probs = jax.vmap(jax.vmap(law.token_log_probs))(tokens)
    program, args, key = bft.objectives.reverse_kl, (bound, told), jax.random.key(5)
    given = {"y": (tokens, log_probs)}
    pending = begin(program, key, args, told.xs, estimator=PAIR, given=given)
    answers = {"host/0": {"count": 2.0 * (tokens[..., 0] == 0)}}
    made = proceed(program, args, pending, answers, estimator=PAIR).recording
    return dataclasses.replace(
        made, data=made.data | {"y": {"value": tokens, "log_prob": log_probs}}
    )


def test_the_hand_made_recording_is_one_that_is_made(drawn):
    guide, _, recording = drawn
    made = with_pair(drawn, guide.params, recording.data["y"]["value"][0, :, 0])
    parts = [(r.data, r.stored, r.costs) for r in (made, recording)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *parts)


def gradient_at(drawn, params, recording):
    guide, told, _ = drawn
    return replay_value_and_grad(
        bft.objectives.reverse_kl,
        lambda params: (BoundGuide(guide.with_params(params), HORIZON), told),
        params,
        recording,
        estimator=PAIR,
    )[1]


def gap(drawn, params, recordings, chances):
    """How far the mean gradient over all pairs is from the exact one."""
    guide, told, _ = drawn
    x = jax.tree.map(lambda a: a[0], told.xs)

    def exact(params):
        tokens = jnp.arange(3, dtype=jnp.int32)[:, None]
        law = BoundGuide(guide.with_params(params), HORIZON)(x)
        log_q = jax.vmap(law.log_prob)(tokens)
        log_p = jax.vmap(lambda y: told.log_prior(y, x))(tokens) + 2.0 * (tokens[:, 0] == 0)
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    each = jax.vmap(lambda recording: gradient_at(drawn, params, recording))(recordings)
    mean = ravel_pytree(jax.tree.map(lambda g: jnp.tensordot(chances, g, 1), each))[0]
    return jnp.abs(mean - ravel_pytree(jax.grad(exact)(params))[0]).max()


def chances_of(recordings):
    return jnp.exp(recordings.data["y"]["log_prob"].sum((1, 2, 3)))


EXACT, BIASED = 1e-5, 1e-2  # sums of nine terms of order 1 in float32


def test_an_update_that_the_draws_did_not_see_biases_nothing(drawn):
    """Σ over pairs of q_θ0(pair)·g(θ1, pair) is ∇ at θ1, for every θ1 that an update leads to.

    Planted bug: with weights of 1, as if the pair had been drawn at θ1, it is not.
    """

    @jax.jit
    def gaps(start):
        ahead = jax.vmap(lambda pair: with_pair(drawn, start, pair))(PAIRS)
        changes = jax.vmap(lambda recording: gradient_at(drawn, start, recording))(ahead)

        def both(change):
            params = jax.tree.map(lambda a, g: a - RATE * g, start, change)
            scored = jax.vmap(lambda pair: with_pair(drawn, params, pair).data["y"])(PAIRS)
            as_if = dataclasses.replace(ahead, data=ahead.data | {"y": scored})
            return [gap(drawn, params, each, chances_of(ahead)) for each in (ahead, as_if)]

        return jax.vmap(both)(changes)

    weighed, unweighed = gaps(drawn[0].params)
    assert weighed.max() < EXACT and unweighed.max() > BIASED


def test_a_proposal_biases_nothing_that_it_can_draw(drawn):
    """Drawn at a temperature and weighed by the density of that; top-p leaves a part out.

    Planted bug: recorded with the guide's own log-prob, the draws are biased.
    """
    shapes = {"temperature": {"temperature": 2.0}, "top-p": {"temperature": 2.0, "top_p": 0.5}}

    @jax.jit
    def gaps(params):
        def of(**options):
            proposal = lambda prior: bft.priors.shaped(prior, **options)
            made = jax.vmap(lambda pair: with_pair(drawn, params, pair, proposal))(PAIRS)
            own = jax.vmap(lambda pair: with_pair(drawn, params, pair).data["y"])(PAIRS)
            wrong = dataclasses.replace(made, data=made.data | {"y": own})
            return [gap(drawn, params, each, chances_of(made)) for each in (made, wrong)]

        return {name: of(**options) for name, options in shapes.items()}

    found = gaps(drawn[0].params)
    assert found["temperature"][0] < EXACT and found["temperature"][1] > BIASED
    assert not found["top-p"][0] < BIASED


def test_choices_from_data_are_weighed_by_what_drew_them(drawn):
    """Known log-probs are recorded beside the guide's; unknown ones are taken to be the guide's."""
    guide, told, recording = drawn
    bound = BoundGuide(guide, HORIZON)
    tokens, log_probs = (recording.data["y"][part] for part in ("value", "log_prob"))

    def recorded(**given):
        return record(
            bft.objectives.reverse_kl,
            jax.random.key(5),
            (bound, told),
            told.xs,
            estimator=PAIR,
            resolve=told.evaluate_host,
            given=given,
        )

    made = recorded(y=(tokens, log_probs - 0.5))
    np.testing.assert_array_equal(made.data["y"]["log_prob"], log_probs - 0.5)
    unknown = recorded(y=(tokens, None))
    for each in (made, unknown):
        np.testing.assert_allclose(each.costs, recording.costs, atol=1e-6)
    np.testing.assert_allclose(unknown.data["y"]["log_prob"], log_probs, atol=1e-6)
    value = [gradient_at(drawn, guide.params, each) for each in (made, unknown)]
    weighed, as_they_are = (ravel_pytree(each)[0] for each in value)
    np.testing.assert_allclose(weighed, np.exp(0.5) * as_they_are, atol=1e-5)
    with pytest.raises(ChoiceError, match=r"\['z'\], which the program does not choose"):
        recorded(z=(tokens, None))
    with pytest.raises(ChoiceError, match=r"leads with \(1, 1\); the program has \(1, 2\)"):
        recorded(y=(tokens[:, :1], None))


def test_a_fit_records_the_density_of_its_proposal(drawn):
    """Tokens with the log-probs they were drawn with; costs are the guide's all the same."""
    guide, told, _ = drawn
    law = BoundGuide(guide, HORIZON)
    proposal = lambda prior: bft.priors.shaped(prior, temperature=2.0, top_p=0.8, banned=[2])
    recording = record(
        bft.objectives.reverse_kl,
        jax.random.key(5),
        (law, told),
        told.xs,
        estimator=PAIR,
        resolve=told.evaluate_host,
        proposal=proposal,
    )
    tokens = recording.data["y"]["value"][0, :, 0]
    assert (tokens != 2).all()
    made = jax.jit(lambda pair: with_pair(drawn, guide.params, pair, proposal))(tokens)
    recorded = [r.data["y"]["log_prob"] for r in (made, recording)]
    np.testing.assert_allclose(*recorded, atol=1e-6)
    np.testing.assert_allclose(made.costs, recording.costs, atol=1e-6)


def on_every_path(guide, target, x):
    """Its sequence is drawn again on both sides of the coin, and not recorded."""
    heads = bft.draw("heads", numpyro.distributions.Bernoulli(0.5), bft.estimators.enumerate())
    _, log_q = bft.draw("y", guide(x), with_log_prob=True)
    return heads * log_q


def test_a_proposal_is_checked():
    with pytest.raises(bft.errors.EstimatorError, match="never drawn"):
        top_p = lambda guide: bft.priors.shaped(guide, top_p=0.9)
        fit(1, proposal=top_p, require="unbiased")
    warm = lambda guide: bft.priors.shaped(guide, temperature=1.5)
    for unrecorded in (bft.objectives.forward_kl(bft.samplers.importance(4)), on_every_path):
        with pytest.raises(bft.errors.EstimatorError, match="draws no sequence from it"):
            fit(1, objective=unrecorded, proposal=warm)
    values = fit(3, proposal=warm, require="unbiased", overlap=True).values
    assert np.isfinite(values).all()


def test_fit_records_at_the_parameters_it_says():
    """The driver beside a loop by hand: draws of θ_t in order, of θ_(t-1) one step ahead."""
    told, guide, key = target(), bft.trainable(language()), jax.random.key(0)
    order = Order(3, 2, jax.random.fold_in(key, 0))

    def args(params):
        return BoundGuide(guide.with_params(params), Horizon(3)), told

    @jax.jit
    def step(params, state, recording):
        _, gradient = replay_value_and_grad(
            bft.objectives.reverse_kl, args, params, recording, estimator=LOO
        )
        change, state = OPTIMIZER.update(gradient, state, params)
        return optax.apply_updates(params, change), state

    found = {}
    for ahead in (False, True):
        past, state = [guide.params], OPTIMIZER.init(guide.params)
        for t in range(3):
            rows = order.rows(t)
            with jax.debug_key_reuse(False):
                recording = record(
                    bft.objectives.reverse_kl,
                    jax.random.split(jax.random.fold_in(key, t + 1))[1],
                    args(past[max(t - 1, 0)] if ahead else past[-1]),
                    jax.tree.map(lambda a, rows=rows: a[rows], told.xs),
                    estimator=LOO,
                    resolve=told.evaluate_host,
                )
            params, state = step(past[-1], state, recording)
            past.append(params)
        found[ahead] = ravel_pytree(past[-1])[0]
        fitted = ravel_pytree(fit(3, overlap=ahead).guide.params)[0]
        np.testing.assert_allclose(fitted, found[ahead], atol=1e-5)
    assert jnp.abs(found[True] - found[False]).max() > 1e-3


@pytest.mark.parametrize("ahead", [False, True])
def test_rewards_are_evaluated_while_the_device_works(ahead):
    """One step ahead they run in a thread of their own; each batch once, the last one not twice."""
    threads, sizes = [], []

    def watched(completion_ids):
        threads.append(threading.current_thread() is threading.main_thread())
        sizes.append(len(completion_ids))
        return count(completion_ids)

    fit(5, fn=watched, overlap=ahead)
    assert sizes == [2 * 4] * 5
    assert threads == [True, *[not ahead] * 4]


def test_an_error_in_the_thread_is_an_error_of_the_fit():
    calls = []

    def dies(completion_ids):
        calls.append(0)
        return count(completion_ids) if len(calls) < 3 else [np.nan for _ in completion_ids]

    with pytest.raises(bft.errors.EvidenceError, match="dies returned nan"):
        fit(5, fn=dies, overlap=True)


def test_objectives_without_evidence_in_python_overlap_too():
    """Their recordings are whole at once; states of estimators go from one to the next."""
    device = bft.Target(
        language(),
        bft.evidence.potential(lambda y, n: ((y == 0) & (jnp.arange(3) < n)).sum() * 1.0),
        prompts=[[], [0], [1]],
        max_new_tokens=3,
    )
    moving = bft.estimators.moving_average()
    with jax.debug_key_reuse(False):
        fitted = bft.fit(
            device,
            bft.trainable(language()),
            objective=bft.objectives.reverse_kl,
            estimator=moving,
            optimizer=OPTIMIZER,
            num_steps=6,
            prompts_per_step=2,
            key=jax.random.key(0),
            overlap=True,
        )
    told = fit(6, estimator=moving, overlap=True)
    np.testing.assert_allclose(fitted.values, told.values, rtol=1e-5)


def test_a_control_variate_of_the_recording_is_refused():
    """That of relax has mean 0 only at the parameters that the choice was drawn at."""
    relax = bft.estimators.relax(lambda params, z: params * z.sum(), jnp.float32(0.1))

    def objective(guide, target, x):
        probs = jax.nn.sigmoid(guide.params[".initial_logits"][0])
        return 1.0 * bft.draw("b", numpyro.distributions.Bernoulli(probs=probs), relax)

    with pytest.raises(EstimatorError, match="'b' needs recordings"):
        fit(2, objective=objective, overlap=True)
    fit(1, objective=objective)
