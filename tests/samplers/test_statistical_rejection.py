"""Statistical rejection: the law of its sweeps, by listing candidates and acceptances."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY
from samplers.language import HAS_AB, IN_PYTHON, LANGUAGE, NO_TOKEN, TOKEN_BY_TOKEN

from bayesft._sample import sample
from bayesft.base import Evidence
from bayesft.draws import Status
from bayesft.errors import EvidenceError, SamplerError
from bayesft.evidence import potential
from bayesft.samplers import statistical_rejection
from bayesft.target import Target
from bayesft.testing import assert_frequencies, enumerate_target

RUNS = 12_000
MODULE = importlib.import_module("bayesft.samplers.statistical_rejection")


def short(evidence: Evidence | None, num_runs: int = RUNS, eos="truncate") -> Target:
    """At most two tokens: seven outcomes."""
    return Target(LANGUAGE, evidence, prompts=[""] * num_runs, max_new_tokens=2, eos=eos)


def pairs(log_evidence: tuple[float, ...]) -> dict[tuple[int, int], float]:
    """Probability of the first two accepted of some candidates, in order, by listing sweeps."""
    found: dict[tuple[int, int], float] = {}

    def sweep(left: tuple[int, ...], accepted: tuple[int, ...], probability: float) -> None:
        peak = max(log_evidence[i] for i in left)
        walk(left, 0, left, accepted, probability, peak)

    def walk(order, at, left, accepted, probability, peak) -> None:
        if probability == 0:
            return
        if len(accepted) == 2:
            found[accepted] = found.get(accepted, 0.0) + probability
            return
        if at == len(order):
            return sweep(left, accepted, probability)
        i = order[at]
        p = float(np.exp(log_evidence[i] - peak))
        without = tuple(j for j in left if j != i)
        walk(order, at + 1, without, (*accepted, i), probability * p, peak)
        walk(order, at + 1, left, accepted, probability * (1 - p), peak)

    sweep(tuple(range(len(log_evidence))), (), 1.0)
    return found


def law_of_two(exact, num_candidates: int) -> np.ndarray:
    """Probability of every ordered pair of outcomes, [M, M]."""
    prior, values = np.exp(exact.log_prior), exact.log_evidence.round(5)
    law = np.zeros((len(prior), len(prior)))
    known: dict[tuple[float, ...], dict] = {}
    for rows in itertools.product(range(len(prior)), repeat=num_candidates):
        key = tuple(values[list(rows)].tolist())
        if key not in known:
            known[key] = pairs(key)
        for (i, j), probability in known[key].items():
            law[rows[i], rows[j]] += prior[list(rows)].prod() * probability
    return law


def found_pairs(draws, exact) -> np.ndarray:
    digits = 3 ** np.arange(2)
    index = np.zeros(9, int)
    index[exact.tokens @ digits] = np.arange(len(exact.tokens))
    found = index[np.asarray(draws.tokens) @ digits]
    counts = np.zeros((len(exact.tokens),) * 2, int)
    np.add.at(counts, (found[:, 0], found[:, 1]), 1)
    return counts


@pytest.mark.parametrize("evidence", [TOKEN_BY_TOKEN, IN_PYTHON])
def test_law_of_two_draws_of_four_candidates(evidence):
    target = short(evidence)
    draws = sample(target, statistical_rejection(4, 2), jax.random.key(0))
    exact = enumerate_target(target)
    law = law_of_two(exact, 4)
    assert law.sum() == pytest.approx(1)
    counts = found_pairs(draws, exact)
    assert_frequencies(counts.ravel(), law.ravel(), resolution=0.05, family=FAMILY)
    with pytest.raises(AssertionError, match="frequencies are wrong"):  # it is not p*
        assert_frequencies(counts.sum(1), np.exp(exact.log_probs), family=FAMILY)
    assert draws.log_z is None and (draws.status == Status.OK).all()
    assert set(draws.info["num_sweeps"].tolist()) == {1, 2}
    assert (np.asarray(draws.log_weights) == 0).all()


def test_one_draw_tends_to_the_posterior_and_all_candidates_are_the_prior():
    target = short(TOKEN_BY_TOKEN)
    exact = enumerate_target(target)
    draws = sample(target, statistical_rejection(64, 1), jax.random.key(0))
    digits = 3 ** np.arange(2)
    index = np.zeros(9, int)
    index[exact.tokens @ digits] = np.arange(7)

    def counts(tokens) -> np.ndarray:
        return np.bincount(index[np.asarray(tokens) @ digits].ravel(), minlength=7)

    # "aa", whose potential is the largest, is missed by 64 candidates with probability 0.95^64.
    assert 0.95**64 < 0.04
    law = law_of_many(exact, 64)
    assert_frequencies(counts(draws.tokens), law, resolution=0.05, family=FAMILY)
    assert np.abs(law - np.exp(exact.log_probs)).sum() / 2 < 0.01
    every = sample(target, statistical_rejection(3, 3), jax.random.key(0))
    prior = np.exp(exact.log_prior)
    assert_frequencies(counts(every.tokens), prior, resolution=0.05, family=FAMILY)


def law_of_many(exact, num_candidates: int) -> np.ndarray:
    """Of one draw: P(y) = Σ_m P(maximum is m)·P(y accepted first | maximum m), by the position."""
    prior, values = np.exp(exact.log_prior), exact.log_evidence.round(5)
    law = np.zeros(len(prior))
    levels = np.unique(values)
    # With all candidates at most m: i.i.d. given that; subtract those that stay below m.
    for peak, below in zip(levels, [-np.inf, *levels[:-1]], strict=True):
        ratio = np.exp(values - peak)
        at_most, under = prior * (values <= peak), prior * (values <= below)
        reject_most, reject_under = (at_most * (1 - ratio)).sum(), (under * (1 - ratio)).sum()
        for before in range(num_candidates):
            after = num_candidates - 1 - before
            reached = at_most * ratio * reject_most**before * at_most.sum() ** after
            missed = under * ratio * reject_under**before * under.sum() ** after
            law += reached - missed
    return law


def test_impossible_candidates_are_never_taken():
    target = short(HAS_AB, 400)
    draws = sample(target, statistical_rejection(8, 2), jax.random.key(0))
    exhausted = draws.status == Status.EXHAUSTED
    assert exhausted.any() and not exhausted.all()
    empty = np.isneginf(np.asarray(draws.log_weights))
    assert (empty.any(1) == exhausted).all() and not np.asarray(draws.lengths)[empty].any()
    assert (np.asarray(draws.tokens)[~empty] == [0, 1]).all()
    assert_frequencies(  # "ab" is 30% of the prior
        [(draws.info["num_sweeps"] == 0).sum(), (draws.info["num_sweeps"] > 0).sum()],
        [0.7**8, 1 - 0.7**8],
        family=FAMILY,
    )


def test_nothing_possible():
    target = short(NO_TOKEN, 3)
    draws = sample(target, statistical_rejection(8, 2), jax.random.key(0))
    assert (draws.status == Status.EXHAUSTED).all() and not draws.weights.any()


def test_densities_under_condition():
    target = short(TOKEN_BY_TOKEN, 20, "condition")
    draws = sample(target, statistical_rejection(64, 4), jax.random.key(0))
    tokens = np.asarray(draws.tokens)
    assert (tokens == 2).any(-1).all()
    assert (draws.status == Status.OK).all()
    assert not np.isnan(np.asarray(draws.log_prior)).any() and draws.log_ended is not None


def test_batches_do_not_change_what_is_drawn(monkeypatch):
    target = short(TOKEN_BY_TOKEN, 10)
    draws = sample(target, statistical_rejection(20, 4), jax.random.key(0))
    monkeypatch.setattr(MODULE, "MAX_ROWS", 70)
    again = sample(target, statistical_rejection(20, 4), jax.random.key(0))
    assert (again.tokens == draws.tokens).all()


def test_settings_are_checked():
    with pytest.raises(SamplerError, match="9 draws cannot be taken from 8 candidates"):
        statistical_rejection(8, 9)
    with pytest.raises(SamplerError, match="num_candidates"):
        statistical_rejection(0, 1)
    with pytest.raises(SamplerError, match="num_draws"):
        statistical_rejection(8, 0)


def test_evidence_that_is_nan_is_an_error():
    nan = potential(lambda tokens, length: jnp.nan * length)
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(short(nan, 1), statistical_rejection(4, 1), jax.random.key(0))


# ---- planted bugs -------------------------------------------------------------------------------


def test_a_wrong_acceptance_probability_is_caught(monkeypatch):
    right = MODULE.log_uniform
    monkeypatch.setattr(MODULE, "log_uniform", lambda *args: 0.5 * right(*args))
    draws, exact = _draws_of_two()
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(found_pairs(draws, exact).ravel(), law_of_two(exact, 4).ravel())


def test_candidates_that_stay_in_the_pool_are_caught():
    """With replacement, the best of the candidates is taken again."""
    draws, exact = _draws_of_two()
    prior, values = np.exp(exact.log_prior), exact.log_evidence.round(5)
    law = np.zeros((7, 7))
    for rows in itertools.product(range(7), repeat=4):
        w = np.exp(values[list(rows)])
        for (i, j), probability in _with_replacement(w / w.max()).items():
            law[rows[i], rows[j]] += prior[list(rows)].prod() * probability
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(found_pairs(draws, exact).ravel(), law.ravel())


def _with_replacement(p: np.ndarray) -> dict[tuple[int, int], float]:
    """First two accepted where accepted candidates are met again; the best has p = 1."""
    found: dict[tuple[int, int], float] = {}
    first = p * np.cumprod([1.0, *(1 - p[:-1])])
    for i in range(len(p)):
        passed = first[i]
        for j in (*range(i + 1, len(p)), *range(i + 1)):
            found[i, j] = passed * p[j]
            passed *= 1 - p[j]
    return found


def _draws_of_two():
    target = short(TOKEN_BY_TOKEN)
    draws = sample(target, statistical_rejection(4, 2), jax.random.key(0))
    return draws, enumerate_target(target)
