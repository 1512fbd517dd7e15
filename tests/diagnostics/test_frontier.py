"""The frontier against enumeration: the curve, what lies below it, and planted bugs."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import HAS_AB, IN_JAX, IN_PYTHON, LANGUAGE, NOTHING, guide, replicated

from bayesft.base import Claim
from bayesft.diagnostics import frontier
from bayesft.diagnostics.curve import Frontier
from bayesft.diagnostics.tilting import tilt
from bayesft.draws import Draws
from bayesft.errors import DiagnosticError
from bayesft.priors import markov
from bayesft.samplers import best_of_n, importance, rejection, smc
from bayesft.testing import assert_coverage, enumerate_target

TILTING = sys.modules["bayesft.diagnostics.tilting"]
TILTS = (0.0, 0.5, 1.0, 2.0)
SURE = 1 - 1e-6 / 40
"""Level at which the intervals of this file all hold, but for once in a million."""


@functools.cache
def exact_of(eos="truncate"):
    return enumerate_target(replicated(IN_JAX, 1, eos))


def curve(exact, tilt):
    """Reward, KL from the prior and log Z of the prior tilted by φ^λ, by enumeration."""
    weight = np.exp(exact.log_prior + tilt * exact.log_evidence)
    z = weight.sum()
    reward = weight @ exact.log_evidence / z
    return reward, tilt * reward - np.log(z), np.log(z)


def listed(exact, num_prompts=1):
    """Every outcome once, weighted such that its draws are the target without any error."""
    size = len(exact.tokens)

    def spread(a):
        return jnp.broadcast_to(jnp.asarray(a), (num_prompts, *np.shape(a)))

    return Draws(
        tokens=spread(exact.tokens),
        lengths=spread(exact.lengths),
        log_weights=spread(np.log(size) + exact.log_prior + exact.log_evidence),
        log_prior=spread(exact.log_prior),
        log_evidence=spread(exact.log_evidence),
        log_z=None,
        status=np.zeros(num_prompts, int),
        claim=Claim("proper weights"),
        prompts=[""] * num_prompts,
        decode=LANGUAGE.decode,
    )


def require_curve(found: Frontier, exact):
    """Without sampling error, the curve is the enumerated one up to float32."""
    for at, each in enumerate(found.tilts):
        got = [e.value[0, at] for e in (found.reward, found.kl, found.log_z)]
        np.testing.assert_allclose(got, curve(exact, each), atol=1e-5)


def of_listed(exact):
    target = replicated(IN_JAX, 1)
    return frontier(target, jax.random.key(0), reference=listed(exact), tilts=TILTS, num_samples=32)


# ---- the curve -----------------------------------------------------------------------------------


def test_the_curve_is_that_of_enumeration():
    require_curve(of_listed(exact_of()), exact_of())


def test_without_log_z_the_curve_is_caught(monkeypatch):
    monkeypatch.setattr(TILTING, "_kl", lambda tilts, reward, log_z: tilts * reward)
    with pytest.raises(AssertionError):
        require_curve(of_listed(exact_of()), exact_of())


def curve_at_0(exact):
    """The limit λ → 0: the prior given that φ > 0."""
    p = np.where(exact.log_prior > -np.inf, np.exp(exact.log_prior), 0.0)
    return p @ exact.log_evidence / p.sum(), -np.log(p.sum()), np.log(p.sum())


@pytest.mark.parametrize("eos", ["truncate", "condition", "force"])
def test_intervals_from_prior_draws_hold(eos):
    target, exact = replicated(IN_JAX, 1, eos), exact_of(eos)
    found = frontier(target, jax.random.key(1), tilts=TILTS, num_samples=1 << 14, level=SURE)
    for at, each in enumerate(TILTS[:3]):
        truths = curve(exact, each) if each else curve_at_0(exact)
        for estimate, truth in zip((found.reward, found.kl, found.log_z), truths, strict=True):
            limits = estimate.interval(SURE).widened(1e-5)
            assert limits.lower[0, at] <= truth <= limits.upper[0, at]
            assert limits.upper[0, at] - limits.lower[0, at] < 0.2  # it would notice such an error
    assert found.trusted[0, :3].all()


def test_intervals_cover_at_their_level():
    exact, tilts = exact_of(), np.array([0.5, 1.0])
    law = np.exp(exact.log_prior) / np.exp(exact.log_prior).sum()
    chosen = np.random.default_rng(0).choice(len(law), p=law, size=(400, 2048))
    log_evidence = exact.log_evidence[chosen]
    found = tilt(log_evidence, log_evidence, tilts)
    for at, each in enumerate(tilts):
        estimates = (found.reward, found.kl, found.log_z)
        for estimate, truth in zip(estimates, curve(exact, each), strict=True):
            assert_coverage(estimate.interval(0.9).contains(truth)[:, at], 0.9, family=10)


def test_intervals_of_guides_cover_at_their_level():
    target, exact = replicated(IN_JAX, 400), exact_of()
    found = frontier(
        target, jax.random.key(2), guides={"guide": guide()}, best_of=(), num_samples=128
    )
    q = np.exp(exact.log_probs_of(guide()))
    truths = {"reward": q @ exact.log_evidence, "kl": q @ (np.log(q) - exact.log_prior)}
    for name, truth in truths.items():
        limits = getattr(found.points[0], name).interval(0.9)
        assert_coverage(limits.contains(truth), 0.9, family=10)


# ---- what lies beside it -------------------------------------------------------------------------


def best_of_exactly(exact, n):
    """Reward and KL of best-of-n by its law, level by level."""
    p, r = np.exp(exact.log_prior), exact.log_evidence
    below = np.array([p[r < x - 1e-6].sum() for x in r])
    level = np.array([p[np.abs(r - x) < 1e-6].sum() for x in r])
    law = p * ((below + level) ** n - below**n) / level
    return law @ r, law @ (np.log(law) - np.log(p))


def test_best_of_n_has_the_kl_of_its_law_not_of_its_bound():
    target, sizes = replicated(IN_JAX, 1), (1, 4, 16)
    found = frontier(
        target, jax.random.key(3), best_of=sizes, tilts=TILTS, num_samples=1 << 14, level=SURE
    )
    for n, point in zip(sizes, found.points, strict=True):
        truth = best_of_exactly(exact_of(), n)
        for estimate, value in zip((point.reward, point.kl), truth, strict=True):
            assert estimate.interval(SURE).widened(1e-5).contains(value)[0]
        assert point.kl_bound == pytest.approx(np.log(n) - (n - 1) / n)
        if n > 1:  # ties: the bound is none of its points
            assert point.kl.interval(SURE).upper[0] < point.kl_bound


def test_every_point_lies_on_or_below_the_curve():
    """With errors of the points alone: the curve is exact."""
    exact, target = exact_of(), replicated(IN_JAX, 1)
    scaled = guide().with_params(jax.tree.map(lambda a: 3 * a, guide().params))
    found = frontier(
        target,
        jax.random.key(4),
        guides={"near": guide(), "far": scaled, "prior": LANGUAGE},
        draws={"posterior": listed(exact), "smc": smc(512).run(target, jax.random.key(5))},
        reference=listed(exact),
        num_samples=4096,
        level=SURE,
    )
    found = dataclasses.replace(found, trusted=np.ones_like(found.trusted))
    for point in found.points:
        gap = found.ceiling(point.kl.interval(SURE).upper) - point.reward.interval(SURE).lower
        assert gap[0] >= -1e-5
    ceiling = found.ceiling(np.array([curve(exact, 1.0)[1]]))
    assert ceiling[0] == pytest.approx(curve(exact, 1.0)[0], abs=1e-5)  # λ = 1 is on the grid
    posterior = next(p for p in found.points if p.name == "posterior")
    np.testing.assert_allclose(posterior.kl.value[0], curve(exact, 1.0)[1], atol=1e-5)


def test_a_point_above_the_curve_is_caught():
    exact = exact_of()
    found = of_listed(exact)
    found = dataclasses.replace(found, trusted=np.ones_like(found.trusted))
    reward, kl, _ = curve(exact, 1.0)
    assert found.ceiling(np.array([kl - 0.05]))[0] < reward  # a KL that leaves something out


def test_the_kl_of_draws_follows_from_their_claim():
    target, key = replicated(IN_JAX, 1), jax.random.key(6)
    given = {
        "importance": importance(2048).run(target, key),
        "exact": rejection(2048).run(target, key),
        "best": best_of_n(4, 64).run(target, key),
    }
    found = frontier(target, key, draws=given, best_of=(), num_samples=4096, level=SURE)
    truth = curve(exact_of(), 1.0)
    for point in found.points[:2]:
        assert point.reward.interval(SURE).contains(truth[0])[0]
        assert point.kl.interval(SURE).contains(truth[1])[0]
    assert found.points[2].kl is None
    assert "not available" in str(found)


def test_exact_draws_can_be_the_reference():
    target, key = replicated(IN_JAX, 1), jax.random.key(7)
    exact_draws = rejection(1 << 13).run(target, key)
    found = frontier(target, key, reference=exact_draws, tilts=TILTS, level=SURE)
    for at in (1, 2, 3):
        reward = curve(exact_of(), TILTS[at])[0]
        assert found.reward.interval(SURE).lower[0, at] <= reward
        assert reward <= found.reward.interval(SURE).upper[0, at]


# ---- what cannot be trusted, and says so ---------------------------------------------------------


def test_a_tilt_without_draws_behind_it_is_marked():
    target = replicated(20.0 * IN_JAX, 1)
    found = frontier(target, jax.random.key(0), num_samples=64)
    assert found.trusted[0, 0]
    assert not found.trusted[0, -1]
    assert "not to be trusted: fewer than 50 effective draws" in str(found)


def test_hard_evidence():
    target = replicated(IN_JAX + HAS_AB, 1)
    found = frontier(target, jax.random.key(0), guides={"guide": guide()}, num_samples=2048)
    exact = enumerate_target(target)
    allowed = exact.log_evidence > -np.inf
    mass = np.exp(exact.log_prior[allowed]).sum()
    assert found.kl.interval(SURE).lower[0, 0] < -np.log(mass) < found.kl.interval(SURE).upper[0, 0]
    assert [p.reward.value[0] for p in found.points[:3]] == [-np.inf] * 3
    assert "−∞" in str(found)
    assert "nan" not in str(found)


def test_nothing_possible():
    found = frontier(replicated(NOTHING, 1), jax.random.key(0), best_of=(1, 4), num_samples=8)
    assert not found.trusted.any()
    assert np.isnan(found.reward.value).all()
    assert "nan" not in str(found)


# ---- how it is called ----------------------------------------------------------------------------


def test_a_prompt_in_a_batch_equals_the_prompt_alone():
    def of(num_prompts):
        given = {"guide": guide()}
        target = replicated(IN_PYTHON, num_prompts)
        return frontier(target, jax.random.key(0), guides=given, tilts=TILTS, num_samples=64)

    batch, alone = of(3), of(1)
    np.testing.assert_allclose(batch.kl.value[:1], alone.kl.value, atol=1e-5)
    for one, other in zip(batch.points, alone.points, strict=True):
        np.testing.assert_allclose(one.reward.value[:1], other.reward.value, atol=1e-5)


def test_the_table_is_readable():
    found = frontier(replicated(IN_JAX, 1), jax.random.key(0), guides={"my guide": guide()})
    lines = str(found).splitlines()
    assert lines[0].strip() == "level 0.9, 1024 samples of each"
    assert any(line.split()[:3] == ["λ", "=", "1"] for line in lines)
    row = next(line for line in lines if "my guide" in line)
    assert row.count("±") == 2
    assert any("best of 4" in line and "≤ 0.636" in line for line in lines)
    many = frontier(replicated(IN_JAX, 6), jax.random.key(0), num_samples=64)
    assert "… and 2 more prompts" in str(many)


def test_what_does_not_fit_is_refused():
    target, key = replicated(IN_JAX, 1), jax.random.key(0)
    for wrong in ({"level": 90}, {"tilts": [1, 0]}, {"tilts": [-1, 0]}, {"tilts": []}):
        with pytest.raises(DiagnosticError, match="out of range"):
            frontier(target, key, **wrong)
    with pytest.raises(DiagnosticError, match="best of 64"):
        frontier(target, key, best_of=(64,), num_samples=32)
    with pytest.raises(DiagnosticError, match=r"\(V, EOS\)"):
        frontier(target, key, guides={"g": markov(np.zeros(2), np.zeros((2, 2)), eos=1)})
    with pytest.raises(DiagnosticError, match="draws of another target"):
        frontier(target, key, draws={"d": listed(exact_of(), 2)})
    with pytest.raises(DiagnosticError, match="whose claim is"):
        frontier(target, key, reference=best_of_n(2, 4).run(target, key))
