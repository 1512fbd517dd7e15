"""Metrics of a step: against numpy on the recording, against enumeration, and absent where moot."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bayesft as bft
from bayesft.errors import FitError
from bayesft.fitting.completions import first_completions, prompt_text
from bayesft.fitting.metrics import learning_rate, measure
from bayesft.fitting.sequences import drawn_sequences
from bayesft.priors.sequence import bind
from bayesft.program import draw, plate, record
from bayesft.testing import assert_unbiased, enumerate_target

INITIAL = np.array([0.5, 0.3, 0.2])
ROWS = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
EOS, NUM_TOKENS, NUM_LANES = 2, 3, 5
PROMPTS = [[], [0], [1, 0]]
LANGUAGE = bft.priors.markov(jnp.log(jnp.asarray(INITIAL)), jnp.log(jnp.asarray(ROWS)), eos=EOS)
LOO = bft.estimators.leave_one_out(num_samples=NUM_LANES)


def letters_a(completion_ids):
    return [float(ids.count(0)) for ids in completion_ids]


def brevity(completion_ids):
    return [-float(len(ids)) for ids in completion_ids]


def count_b(tokens, length):
    return ((tokens == 1) & (jnp.arange(tokens.shape[-1]) < length)).sum().astype(jnp.float32)


def shifted(prior):
    guide = bft.trainable(prior)
    keys = jax.random.split(jax.random.key(1), len(guide.params))
    return guide.with_params(
        {
            name: value + 0.5 * jax.random.normal(key, value.shape)
            for key, (name, value) in zip(keys, guide.params.items(), strict=True)
        }
    )


GUIDE = shifted(LANGUAGE)
REWARDS = 2 * bft.evidence.reward(letters_a, beta=0.5) + bft.evidence.reward(brevity, beta=0.5)
IN_JAX = bft.evidence.potential(count_b)
TARGET = bft.Target(
    LANGUAGE, REWARDS + IN_JAX + 0.5 * IN_JAX, prompts=PROMPTS, max_new_tokens=NUM_TOKENS
)


def recorded(objective=bft.objectives.reverse_kl, target=TARGET, estimator=LOO):
    return record(
        objective,
        jax.random.key(0),
        (bind(GUIDE, target.horizon), target),
        target.xs,
        estimator=estimator,
        resolve=target.evaluate_host,
    )


@pytest.fixture(scope="module")
def recording():
    return recorded()


def log_prior_by_hand(prompt, tokens):
    total, before = 0.0, prompt[-1] if prompt else None
    for token in tokens:
        total += np.log(INITIAL if before is None else ROWS[before])[token]
        before = token
    return total


def by_hand(recording) -> dict[str, float]:
    """Every metric from tokens and log-probs, in float64 and Python loops."""
    tokens, log_probs = (np.asarray(recording.data["y"][k]) for k in ("value", "log_prob"))
    ids = [[row[: [*row, EOS].index(EOS) + 1] for row in rows] for rows in tokens.tolist()]
    lengths = np.array([[len(row) for row in rows] for rows in ids])
    ended = np.array([[row[-1] == EOS for row in rows] for rows in ids])
    log_q = log_probs.astype(float).sum(-1)
    log_prior = np.array(
        [
            [log_prior_by_hand(prompt, row) for row in rows]
            for prompt, rows in zip(PROMPTS, ids, strict=True)
        ]
    )
    a, b = (np.array([[row.count(t) for row in rows] for rows in ids]) for t in (0, 1))
    short = -lengths.astype(float)
    reward = 2 * a + short
    log_evidence = reward / 0.5 + 1.5 * b
    weights = np.exp(log_prior + log_evidence - log_q)
    spread = reward.std(1, ddof=1)
    num_prompt_tokens = NUM_LANES * sum(map(len, PROMPTS))
    return {
        "reward": reward.mean(),
        "reward_std": spread.mean(),
        "frac_reward_zero_std": (spread == 0).mean(),
        "rewards/letters_a/mean": a.mean(),
        "rewards/letters_a/std": a.std(ddof=1),
        "rewards/brevity/mean": short.mean(),
        "rewards/brevity/std": short.std(ddof=1),
        "log_potentials/count_b/mean": b.mean(),
        "log_potentials/count_b#2/mean": b.mean(),
        "log_evidence": log_evidence.mean(),
        "kl": (log_q - log_prior).mean(),
        "entropy": -log_q.sum() / lengths.sum(),
        "ess_share": (weights.sum(1) ** 2 / (weights**2).sum(1)).mean() / NUM_LANES,
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/mean_terminated_length": lengths[ended].mean(),
        "completions/min_terminated_length": lengths[ended].min(),
        "completions/max_terminated_length": lengths[ended].max(),
        "completions/clipped_ratio": 1 - ended.mean(),
        "num_completion_tokens": lengths.sum(),
        "num_tokens": lengths.sum() + num_prompt_tokens,
    }


def test_every_metric_is_what_numpy_says(recording):
    found, expected = measure(recording, TARGET, LANGUAGE.eos), by_hand(recording)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


BUGS = {
    "kl": lambda data: data["stored/0"].update(log_prior=data["stored/0"]["log_prior"] + 0.1),
    "rewards/letters_a/mean": lambda data: data["host/0"].update(
        letters_a=data["host/0"]["letters_a"] * 0.5
    ),
    "entropy": lambda data: data["y"].update(log_prob=data["y"]["log_prob"] * 1.01),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(recording, name):
    data = {slot: dict(entry) for slot, entry in recording.data.items()}
    BUGS[name](data)
    found = measure(dataclasses.replace(recording, data=data), TARGET, LANGUAGE.eos)
    assert abs(found[name] - by_hand(recording)[name]) > 1e-3


def test_means_estimate_what_enumeration_says():
    """KL(q ‖ π0), E_q[log φ] and E_q[reward] are those of the listed language."""
    target = bft.Target(LANGUAGE, REWARDS, max_new_tokens=NUM_TOKENS)
    many = recorded(target=target, estimator=bft.estimators.leave_one_out(num_samples=8192))
    exact, x = enumerate_target(target), jax.tree.map(lambda a: a[0], target.xs)
    log_q = jax.vmap(bind(GUIDE, target.horizon)(x).log_prob)(jnp.asarray(exact.tokens))
    q = np.exp(np.asarray(log_q, np.float64))
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-5)
    scores = drawn_sequences(many, target)
    log_ratio = np.asarray(scores.token_log_probs.sum(-1) - scores.scores.log_prior)[0]
    evidence = np.asarray(
        2 * scores.scores.log_potentials["letters_a"] + scores.scores.log_potentials["brevity"]
    )[0]
    found = measure(many, target, LANGUAGE.eos)
    for name, values, truth in (
        ("kl", log_ratio, q @ (np.log(q) - exact.log_prior)),
        ("log_evidence", evidence, q @ exact.log_evidence),
        ("reward", 0.5 * evidence, 0.5 * q @ exact.log_evidence),
    ):
        np.testing.assert_allclose(found[name], values.mean(), rtol=1e-4)
        assert_unbiased(values, truth, family=3, resolution=0.3)


# ---- what is absent, and what loops change -------------------------------------------------------


def measured(objective, estimator=LOO, target=TARGET):
    return measure(recorded(objective, target, estimator), target, LANGUAGE.eos)


def test_a_draw_in_a_plate_counts_as_a_completion():
    def in_plate(guide, target, x):
        def one(_):
            y, log_q = draw("y", guide(x), with_log_prob=True)
            return log_q - target.log_density(y, x)

        return plate(one, 2).sum()

    found = measured(in_plate)
    recording = recorded(in_plate)
    drawn = recording.data["plate/0"]["y"]["value"]
    assert drawn.shape == (3, NUM_LANES, 2, NUM_TOKENS)
    host = np.asarray(recording.data["plate/0"]["host/0"]["letters_a"], np.float64) * 0.5
    np.testing.assert_allclose(found["rewards/letters_a/mean"], host.mean(), rtol=1e-5)
    assert found["num_completion_tokens"] > 3 * NUM_LANES * 2


def test_what_an_objective_does_not_have_is_absent():
    def two_choices(guide, target, x):
        (y, log_q), (_, other) = (draw(n, guide(x), with_log_prob=True) for n in ("y", "z"))
        return log_q + other - target.log_density(y, x)

    def no_density(guide, target, x):
        return draw("y", guide(x), with_log_prob=True)[1]

    def of_something_else(guide, target, x):
        y, log_q = draw("y", guide(x), with_log_prob=True)
        return log_q - target.log_density(y.at[0].set(2), x)

    assert measured(two_choices) == {}
    for objective in (no_density, of_something_else):
        found = measured(objective)
        assert "entropy" in found and "completions/mean_length" in found
        assert not {"kl", "reward", "ess_share", "log_evidence"} & set(found)
    in_jax = bft.Target(LANGUAGE, IN_JAX, max_new_tokens=NUM_TOKENS)
    exact = bft.estimators.enumerate()
    assert measured(bft.objectives.reverse_kl, exact, in_jax) == {}


def test_rewards_of_different_strength_have_no_sum():
    evidence = bft.evidence.reward(letters_a, 0.5) + bft.evidence.reward(brevity, 1.0)
    target = bft.Target(LANGUAGE, evidence, max_new_tokens=NUM_TOKENS)
    found = measured(bft.objectives.reverse_kl, target=target)
    assert {"rewards/letters_a/mean", "rewards/brevity/mean", "log_evidence"} <= set(found)
    assert not {"reward", "reward_std", "frac_reward_zero_std"} & set(found)


def test_one_lane_has_no_spread():
    found = measured(bft.objectives.reverse_kl, bft.estimators.score_function())
    assert "reward" in found and "kl" in found
    assert not {"reward_std", "frac_reward_zero_std", "ess_share"} & set(found)


def test_without_an_ended_completion_there_is_no_terminated_length():
    target = bft.Target(LANGUAGE, None, prompts=PROMPTS, max_new_tokens=1)
    recording = recorded(target=target)
    tokens = recording.data["y"]["value"]
    cut = jnp.zeros_like(tokens)
    data = {
        "y": {**recording.data["y"], "value": cut},
        "stored/0": {**recording.data["stored/0"], "tokens": cut},
    }
    found = measure(dataclasses.replace(recording, data=data), target, LANGUAGE.eos)
    assert found["completions/clipped_ratio"] == 1
    assert not [name for name in found if "terminated" in name]
    assert "kl" in found


# ---- a fit ---------------------------------------------------------------------------------------


def fit(target=TARGET, num_steps=3, **options):
    defaults = dict(
        objective=bft.objectives.reverse_kl,
        estimator=LOO,
        optimizer=optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0.0, 2)),
        key=jax.random.key(0),
    )
    return bft.fit(target, GUIDE, num_steps=num_steps, **{**defaults, **options})


def test_a_step_reports_its_metrics_and_hands_out_guide_and_completions():
    seen, guides, rows = [], [], []

    def look(info):
        seen.append(info)
        guides.append(info.guide)
        rows.append(info.completions(4))
        info.add({"mine": info.step})

    fitted = fit(callbacks=[look, lambda info: seen.append(info.metrics["mine"])])
    assert seen[1::2] == [0, 1, 2] and [info.metrics["mine"] for info in fitted.history] == [
        0,
        1,
        2,
    ]
    infos = seen[::2]
    assert infos == fitted.history
    rates = [info.metrics["learning_rate"] for info in infos]
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.0], atol=1e-7)
    totals = [info.metrics["num_tokens"] for info in infos]
    first, second, third = totals
    assert first < second < third and third - second <= 3 * NUM_LANES * (NUM_TOKENS + 2)
    for info in infos:
        mean = info.metrics["completions/mean_length"]
        rate = mean * 3 * NUM_LANES / info.seconds
        np.testing.assert_allclose(info.scalars["tokens_per_second"], rate, rtol=1e-5)
        assert [*info.scalars][:: len(info.scalars) - 1] == ["objective", "step_time"]
        np.testing.assert_allclose(
            info.value, info.metrics["kl"] - info.metrics["log_evidence"], rtol=1e-5
        )
        with pytest.raises(FitError, match="step that is over"):
            _ = info.guide
    # The copy of the last step is the fitted guide; that of the first is another one.
    same = jax.tree.map(np.array_equal, guides[-1].params, fitted.guide.params)
    assert all(jax.tree.leaves(same))
    assert not all(
        jax.tree.leaves(jax.tree.map(np.array_equal, guides[0].params, fitted.guide.params))
    )
    assert [row.prompt for row in rows[0]][:3] != [rows[0][0].prompt] * 3


def test_completions_are_the_texts_with_their_scores(recording):
    tokens = np.asarray(recording.data["y"]["value"])
    rows = first_completions(recording, TARGET, 7)
    assert len(rows) == 7 and len(first_completions(recording, TARGET, 100)) == 3 * NUM_LANES
    for i, row in enumerate(rows):
        p, k = i % 3, i // 3
        ids = tokens[p, k].tolist()
        ids = ids[: [*ids, EOS].index(EOS) + 1]
        assert row.prompt == prompt_text(PROMPTS[p])
        assert row.text == LANGUAGE.decode(ids)
        assert row.rewards == {"letters_a": ids.count(0), "brevity": -len(ids)}
        expected = 4.0 * ids.count(0) - 2.0 * len(ids) + 1.5 * ids.count(1)
        np.testing.assert_allclose(row.log_evidence, expected, rtol=1e-6)
        log_q = np.asarray(recording.data["y"]["log_prob"])[p, k].sum()
        gap = log_q - log_prior_by_hand(PROMPTS[p], ids)
        np.testing.assert_allclose(row.log_ratio, gap, atol=1e-5)


def test_draws_of_a_sampler_have_an_ess_and_data_only_tokens():
    target = bft.Target(LANGUAGE, IN_JAX, prompts=PROMPTS, max_new_tokens=NUM_TOKENS)
    seen = []
    objective = bft.objectives.forward_kl(bft.samplers.importance(16))
    options = dict(estimator=None, num_steps=1, optimizer=optax.sgd(0.1), callbacks=[seen.append])
    fit(target, objective=objective, **options)
    expected = bft.sample(target, bft.samplers.importance(16), jax.random.key(3))
    assert set(seen[0].metrics) == {"grad_norm", "num_tokens", "num_completion_tokens", "ess_share"}
    assert 0 < seen[0].metrics["ess_share"] <= 1
    weighed = dataclasses.replace(
        target.xs,
        observed=bft.base.Observation(expected.tokens, expected.weights, expected.log_prior),
    )
    flat = jax.tree.map(
        lambda a: a.reshape(-1, *a.shape[2:]),
        dataclasses.replace(
            weighed,
            tokens=jnp.repeat(target.xs.tokens[:, None], 16, 1),
            length=jnp.repeat(target.xs.length[:, None], 16, 1),
            id=jnp.repeat(target.xs.id[:, None], 16, 1),
        ),
    )
    found = measure(dataclasses.replace(recorded(), xs=flat, data={}), target, LANGUAGE.eos)
    np.testing.assert_allclose(found["ess_share"], np.mean(expected.ess) / 16, rtol=1e-5)
    assert found["num_completion_tokens"] == np.sum(expected.lengths)

    data = bft.empirical([[0, 1, 2], [1, 2]], prompts=[[0], [1]])
    seen.clear()
    fit(data, objective=bft.objectives.mle, **options)
    assert set(seen[0].metrics) == {"grad_norm", "num_tokens", "num_completion_tokens"}
    assert seen[0].metrics["num_tokens"] == 3 + 2 + 2


def test_a_rate_that_is_not_in_the_state_is_absent():
    params = {"a": jnp.zeros(2)}
    assert learning_rate(optax.adam(1e-3).init(params)) == {}
    held = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3).init(params)
    np.testing.assert_allclose(learning_rate(held)["learning_rate"], 1e-3)
