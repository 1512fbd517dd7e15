"""Lineages lead from the particles of an SMC run back to the tokens as they were drawn."""

import jax
import numpy as np
import pytest
from samplers.language import TOKEN_BY_TOKEN, replicated

from bayesft.diagnostics import lineages, trajectories
from bayesft.errors import DiagnosticError
from bayesft.samplers import smc


@pytest.fixture(scope="module")
def run():
    """Draws, and their tokens as they were drawn, from the state after each."""
    target, key = replicated(3.0 * TOKEN_BY_TOKEN, 3), jax.random.key(0)
    sampler = smc(num_particles=6, ess_threshold=1.0, every=1)
    state, drawn = sampler.init(target, key), []
    while not state.finished:
        state, _ = sampler.step(key, state)
        drawn.append(np.asarray(state.particles.paths.tokens)[:, :, len(drawn)])
    draws = sampler.finish(key, state)
    num_left = draws.tokens.shape[2] - len(drawn)  # all had ended before
    drawn += [np.full_like(drawn[0], target.prior.eos[0])] * num_left
    return draws, np.stack(drawn)


def test_trajectories_are_the_draws(run):
    draws, drawn = run
    assert (draws.info["num_resamples"] > 1).all()
    np.testing.assert_array_equal(trajectories(draws.info["ancestors"], drawn), draws.tokens)


def test_tokens_by_slot_are_not_the_draws(run):
    draws, drawn = run
    with pytest.raises(AssertionError):  # a planted bug: no genealogy
        np.testing.assert_array_equal(np.moveaxis(drawn, 0, -1), draws.tokens)
    swapped = np.asarray(draws.info["ancestors"])[::-1]  # another: time runs backwards
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(trajectories(swapped, drawn), draws.tokens)


def test_lineages_by_hand():
    ancestors = np.array([[0, 1, 2], [0, 0, 2], [2, 1, 2]])[:, None]
    np.testing.assert_array_equal(lineages(ancestors)[:, 0], [[2, 0, 2], [2, 1, 2], [0, 1, 2]])
    drawn = np.array([[10, 11, 12], [20, 21, 22], [30, 31, 32]])[:, None]
    expected = [[12, 22, 30], [10, 21, 31], [12, 22, 32]]
    np.testing.assert_array_equal(trajectories(ancestors, drawn)[0], expected)


def test_what_are_no_ancestors_is_refused():
    for wrong in (np.zeros((3, 2), int), np.zeros((3, 1, 2)), np.full((3, 1, 2), 2), None):
        with pytest.raises(DiagnosticError):
            lineages(wrong)  # pyright: ignore
    with pytest.raises(DiagnosticError, match="drawn_tokens"):
        trajectories(np.zeros((3, 1, 2), int), np.zeros((1, 2, 3), int))
