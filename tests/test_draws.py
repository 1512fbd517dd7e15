"""Draws: weights, means, resampling, text."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Claim
from bayesft.draws import Draws, Status, effective_sample_size, log_mean_exp, normalised_weights
from bayesft.errors import SamplerError
from bayesft.testing import assert_frequencies

NONE = -jnp.inf
WEIGHTS = jnp.array([[0.0, jnp.log(3.0), NONE], [NONE, NONE, NONE]])


def draws(log_weights=WEIGHTS):
    tokens = jnp.arange(18).reshape(2, 3, 3) % 3
    return Draws(
        tokens=tokens,
        lengths=jnp.array([[3, 2, 1], [3, 3, 3]]),
        log_weights=log_weights,
        log_prior=jnp.zeros((2, 3)),
        log_evidence=jnp.arange(6.0).reshape(2, 3),
        log_z=log_mean_exp(log_weights),
        status=np.array([Status.OK, Status.ALL_DEAD]),
        claim=Claim("proper weights"),
        prompts=["p", "q"],
        decode=lambda ids: "".join("abc"[i] for i in ids),
    )


def test_weights_and_ess():
    np.testing.assert_allclose(draws().weights, [[0.25, 0.75, 0], [0, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(draws().ess, [1 / (0.25**2 + 0.75**2), 0], rtol=1e-6)
    np.testing.assert_allclose(draws().log_z, [np.log(4 / 3), -np.inf], rtol=1e-6)


def test_extreme_weights_do_not_overflow():
    extreme = jnp.array([500.0, 501.0, -1e4])
    expected = np.array([1, np.e, 0]) / (1 + np.e)
    np.testing.assert_allclose(normalised_weights(extreme), expected, rtol=1e-5)
    np.testing.assert_allclose(log_mean_exp(extreme), 501 + np.log((1 + np.exp(-1)) / 3), rtol=1e-6)
    assert effective_sample_size(jnp.full(7, -900.0)) == pytest.approx(7)
    assert effective_sample_size(jnp.full(7, NONE)) == 0


def test_means_leave_dead_draws_out():
    values = jnp.array([[1.0, 2.0, jnp.nan], [0.0, 0.0, 0.0]])
    mean = draws().mean(values)
    assert mean[0] == pytest.approx(1.75)
    assert jnp.isnan(mean[1])
    lengths = draws().mean(lambda tokens, length: jnp.stack([length, 2 * length]))
    np.testing.assert_allclose(lengths[0], [2.25, 4.5], rtol=1e-6)


def test_text_has_the_completions_up_to_their_length():
    assert draws().text == [["abc", "ab", "a"], ["abc", "abc", "abc"]]


def test_resampling_is_by_weight():
    live = draws(jnp.broadcast_to(WEIGHTS[0], (2, 3)))
    again = live.resample(jax.random.key(0), 4000)
    assert again.tokens.shape == (2, 4000, 3)
    assert (again.log_weights == 0).all()
    counts = np.bincount(np.asarray(again.lengths[0]), minlength=4)
    assert_frequencies(counts, [0, 0, 0.75, 0.25])
    assert again.text[0][0] in ("abc", "ab")
    assert (again.log_evidence[1] >= 3).all()


def test_resampling_the_dead_is_refused():
    with pytest.raises(SamplerError, match="Prompt 1 has no draw of positive weight"):
        draws().resample(jax.random.key(0), 2)


# ---- to ArviZ ------------------------------------------------------------------------------------


def test_arviz_keeps_the_draws_by_prompt_with_their_weights():
    pytest.importorskip("arviz_base")
    tree = draws().to_arviz(first=lambda tokens, length: tokens[0], twice=jnp.ones((2, 3, 2)))
    posterior = tree.posterior
    assert dict(posterior.sizes) == {
        "chain": 1,
        "draw": 3,
        "prompt": 2,
        "position": 3,
        "twice_dim_0": 2,
    }
    assert posterior.log_evidence.dims == ("chain", "draw", "prompt")
    np.testing.assert_array_equal(posterior.log_evidence[0].T, draws().log_evidence)
    np.testing.assert_array_equal(posterior.length.sel(prompt="p")[0], [3, 2, 1])
    np.testing.assert_array_equal(posterior.tokens[0].transpose("prompt", ...), draws().tokens)
    np.testing.assert_array_equal(posterior["first"][0].T, draws().tokens[:, :, 0])
    np.testing.assert_array_equal(tree.sample_stats.log_weights[0].T, WEIGHTS)
    np.testing.assert_array_equal(tree.constant_data.log_z, draws().log_z)
    assert "ignores sample_stats.log_weights" in posterior.attrs["draws"]
    assert posterior.attrs["claim"] == "proper weights"


def test_arviz_of_equal_weights_without_log_z_and_with_equal_prompts():
    pytest.importorskip("arviz_base")
    equal = dataclasses.replace(draws(jnp.zeros((2, 3))), log_z=None, prompts=["p", "p"])
    tree = equal.to_arviz()
    assert tree.posterior.attrs["draws"] == "equally weighted"
    assert list(tree.constant_data.data_vars) == ["status"]
    assert tree.posterior.prompt.values.tolist() == ["0: p", "1: p"]


def test_without_arviz_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(SamplerError, match=r"bayesft\[arviz\]"):
        draws().to_arviz()
