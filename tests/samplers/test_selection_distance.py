"""KL and win rate of best-of-n and soft best-of-n: against their laws, listed over n-tuples."""

import itertools

import numpy as np
import pytest
from samplers.claims import FAMILY

from bayesft.samplers import selection_distance
from bayesft.samplers.selection_distance import best_distance, soft_distance
from bayesft.testing import assert_unbiased

N, RUNS, NUM_DRAWS = 4, 600, 64
TEN = np.full(10, 0.1), np.arange(10.0)
TIES = np.array([0.3, 0.3, 0.2, 0.1, 0.1]), np.array([-np.inf, 0.0, 0.0, 1.0, 2.0])
CASES = pytest.mark.parametrize(("probs", "values"), [TEN, TIES])


def chosen_of(values: np.ndarray, temperature: float) -> np.ndarray:
    """Selection probabilities among n values; temperature 0 shares the best evenly."""
    if np.isneginf(values).all():
        return np.full(len(values), 1 / len(values))
    if temperature == 0:
        weights = (values == values.max()).astype(float)
    else:
        weights = np.exp((values - values.max()) / temperature)
    return weights / weights.sum()


def listed(probs, values, temperature: float) -> tuple[np.ndarray, dict[str, float]]:
    """The law over outcomes, with its KL and win rate, by listing every n-tuple."""
    law = np.zeros(len(probs))
    for rows in map(list, itertools.product(range(len(probs)), repeat=N)):
        np.add.at(law, rows, probs[rows].prod() * chosen_of(values[rows], temperature))
    # Outcomes of one value are interchangeable here: ties change neither KL nor win rate.
    below = (probs * (values < values[:, None])).sum(1)
    equal = (probs * (values == values[:, None])).sum(1)
    kl = np.sum(law[law > 0] * np.log(law[law > 0] / probs[law > 0]))
    return law, {"kl": float(kl), "win_rate": float(np.sum(law * (below + equal / 2)))}


def drawn(probs, values, num_runs: int = RUNS, num_draws: int = NUM_DRAWS) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.choice(values, (num_runs, num_draws, N), p=probs).astype(np.float32)


@CASES
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.3])
def test_estimates_are_unbiased_and_below_their_bounds(probs, values, temperature):
    samples = drawn(probs, values)
    found = soft_distance(samples, temperature) if temperature else best_distance(samples)
    _, exact = listed(probs, values, temperature)
    for name in ("kl", "win_rate"):
        assert_unbiased(found[name], exact[name], resolution=0.05, family=FAMILY)
        assert exact[name] < found[f"{name}_bound"]
        # Errors err on the safe side where the estimate is nearly constant, never far below.
        spread = found[name].std() / np.sqrt(np.mean(found[f"{name}_error"] ** 2))
        assert 0.7 < spread < 1.15


def test_ten_distinct_values():
    assert listed(*TEN, 0.0)[1]["kl"] == pytest.approx(0.628825, abs=1e-6)


def test_without_ties_the_bounds_are_met():
    values = np.random.default_rng(0).normal(size=(20, 256, N)).astype(np.float32)
    found = best_distance(values)
    for name in ("kl", "win_rate"):
        np.testing.assert_allclose(found[name], found[f"{name}_bound"], atol=2e-3)


def test_a_selection_that_does_not_select_has_no_distance():
    equal = np.zeros((3, 8, N), np.float32)
    for found in (best_distance(equal), soft_distance(equal, 1.0), _single(equal)):
        np.testing.assert_allclose(found["kl"], 0, atol=1e-6)
        np.testing.assert_allclose(found["win_rate"], 0.5, atol=1e-6)


def _single(values):
    return best_distance(values[..., :1])


def test_soft_tends_to_best():
    samples = drawn(*TEN, num_runs=5)
    soft, best = soft_distance(samples, 1e-3), best_distance(samples)
    # With ties inside a group, they still are the law of best-of-n.
    np.testing.assert_allclose(soft["win_rate"], best["win_rate"], atol=0.1)
    values = np.random.default_rng(1).permutation(32 * N).reshape(1, 32, N).astype(np.float32)
    apart = soft_distance(values, 1e-3)
    np.testing.assert_allclose(apart["win_rate"], best_distance(values)["win_rate"], atol=0.1)


def test_impossible_everywhere_is_no_distance_and_no_nan():
    dead = np.full((2, 8, N), -np.inf, np.float32)
    for found in (best_distance(dead), soft_distance(dead, 1.0)):
        np.testing.assert_allclose(found["kl"], 0, atol=1e-6)
        assert not np.isnan(found["kl_error"]).any()


def test_one_draw_has_no_error():
    found = soft_distance(drawn(*TEN, num_runs=2, num_draws=1), 1.0)
    assert np.isnan(found["kl_error"]).all() and not np.isnan(found["kl"]).any()


def test_many_draws_are_cut_for_the_pairs(monkeypatch):
    samples = drawn(*TEN, num_runs=2)
    monkeypatch.setattr(selection_distance, "MAX_PAIRS", 32 * 32 * N)
    found = soft_distance(samples, 1.0)
    np.testing.assert_array_equal(found["kl"], soft_distance(samples[:, :32], 1.0)["kl"])


# ---- planted bugs -------------------------------------------------------------------------------


def test_ties_taken_for_an_order_are_caught():
    """Ranks in place of values: every tie is broken, and the bounds seem to be met."""
    samples = drawn(*TIES)
    noise = np.random.default_rng(1).uniform(0, 0.01, samples.shape)
    broken = best_distance(np.where(np.isneginf(samples), -1, samples) + noise)
    for name in ("kl", "win_rate"):
        with pytest.raises(AssertionError, match="means are wrong"):
            assert_unbiased(broken[name], listed(*TIES, 0.0)[1][name], family=FAMILY)


def test_an_estimate_that_is_not_corrected_is_caught():
    samples, blocks = drawn(*TEN, num_runs=3000, num_draws=8), np.zeros(8, int)
    plain = [selection_distance._best(rows, blocks)[0] for rows in samples]
    exact = listed(*TEN, 0.0)[1]
    with pytest.raises(AssertionError, match="2 of 2 means are wrong"):
        assert_unbiased(plain, [exact["kl"], exact["win_rate"]], family=FAMILY)
