"""Counts are right, columns are to scale."""

import itertools

import numpy as np
import pytest

from bayesft.report.histogram import bin_masses, column_heights, sparkline

EDGES = np.array([-1.0, 0.0, 0.5, 1.0])


def test_masses_count_each_value_once():
    values = np.array([-1.0, -0.5, 0.0, 0.49, 0.5, 1.0])
    assert bin_masses(values, EDGES).tolist() == pytest.approx([2 / 6, 2 / 6, 2 / 6])


def test_values_outside_count_at_the_ends():
    assert bin_masses(np.array([-7.0, 7.0]), EDGES).tolist() == [0.5, 0, 0.5]


def test_masses_are_shares_of_the_weight():
    weights = np.array([3.0, 0.0, 1.0])
    assert bin_masses(np.array([-0.5, 0.2, 0.9]), EDGES, weights).tolist() == [0.75, 0, 0.25]


@pytest.mark.parametrize("values", [[], [0.1, 0.2]])
def test_no_weight_is_no_mass(values):
    masses = bin_masses(np.array(values), EDGES, np.zeros(len(values)))
    assert masses.tolist() == [0, 0, 0]


def test_masses_agree_with_a_count_by_hand():
    rng = np.random.default_rng(0)
    values, weights = rng.uniform(-1, 1, 500), rng.exponential(size=500)
    edges = np.linspace(-1, 1, 25)
    expected = [
        weights[(values >= low) & (values < high)].sum() for low, high in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(bin_masses(values, edges, weights), expected / weights.sum())


def test_heights_are_eighths_and_keep_what_is_rare():
    assert column_heights(np.array([0.5, 0.25, 0.001, 0.0]), 0.5, 8) == [64, 32, 1, 0]
    assert column_heights(np.array([0.0, 0.0]), 0.0, 8) == [0, 0]


def test_sparkline_shows_means_of_chunks():
    assert sparkline(np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([1.0, 1.0, 3.0, 3.0]), 2) == "▁█"
    assert sparkline(np.ones(3), 8) == "▁▁▁"
    assert sparkline(np.array([]), 8) == ""
    assert sparkline(np.array([np.nan, 1.0, np.inf, 2.0, -np.inf]), 8) == "▁█"
