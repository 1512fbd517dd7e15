"""Acceptance, TVD and KL of quasi-rejection: exact numbers, errors, limits and the chooser."""

import numpy as np
import pytest
from samplers.claims import FAMILY
from samplers.language import TOKEN_BY_TOKEN, guide, replicated
from scipy import stats

from bayesft.errors import SamplerError
from bayesft.samplers import choose_log_beta, quasi_rejection_diagnostics
from bayesft.testing import assert_at_most, assert_coverage, assert_unbiased, enumerate_target

COUNTS = np.arange(150)
LOG_P, LOG_Q = stats.poisson(11).logpmf(COUNTS), stats.poisson(10).logpmf(COUNTS)
LOG_RATIOS = LOG_P - LOG_Q
LOG_BETAS = np.log([0.5, 1.0, 2.0])


def drawn(num_runs: int, n: int, seed: int = 0) -> np.ndarray:
    """Log-ratios of n samples of Poisson(10), for R runs."""
    return LOG_RATIOS[np.random.default_rng(seed).poisson(10, (num_runs, n))]


def test_poisson_numbers_of_the_paper():
    found = quasi_rejection_diagnostics(LOG_RATIOS, np.log([1, 2]), log_probs=LOG_Q)
    np.testing.assert_allclose(found.acceptance, [0.8768, 0.4982], atol=5e-5)
    np.testing.assert_allclose(found.tvd, [0.07492, 0.003531], rtol=1e-4)
    assert not found.tvd_error.any() and not found.kl_error.any()
    assert (found.tvd_limit == found.tvd).all() and (found.tvd <= found.tvd_bound).all()


def test_the_scale_of_the_target_shifts_beta_and_nothing_else():
    """An unnormalised target e^c·p at e^c·β: Z cancels, and the acceptance is what is observed."""
    found = quasi_rejection_diagnostics(LOG_RATIOS, LOG_BETAS, log_probs=LOG_Q)
    for c in (-3000.0, 7.0, 3000.0):
        shifted = quasi_rejection_diagnostics(LOG_RATIOS + c, LOG_BETAS + c, log_probs=LOG_Q)
        for name in ("acceptance", "tvd", "tvd_bound", "kl"):
            np.testing.assert_allclose(getattr(shifted, name), getattr(found, name), atol=1e-10)
    with_z = quasi_rejection_diagnostics(LOG_RATIOS + 1, LOG_BETAS, log_probs=LOG_Q)
    assert (with_z.acceptance > found.acceptance).all()


@pytest.mark.parametrize("eos", ["truncate", "condition"])
def test_the_law_of_the_language(eos):
    """Against TVD and KL of the listed law, where some outcomes are impossible."""
    exact = enumerate_target(replicated(TOKEN_BY_TOKEN, 1, eos))
    log_q = exact.log_probs_of(guide())
    log_gamma = exact.log_prior + exact.log_evidence
    found = quasi_rejection_diagnostics(log_gamma - log_q, LOG_BETAS, log_probs=log_q)
    p = np.exp(exact.log_probs)
    for i, log_beta in enumerate(LOG_BETAS):
        law = np.exp(np.minimum(log_gamma, log_beta + log_q))
        assert found.acceptance[i] == pytest.approx(law.sum() / np.exp(log_beta), rel=1e-5)
        assert found.tvd_bound[i] == pytest.approx(1 - law.sum() / np.exp(exact.log_z), rel=1e-5)
        law /= law.sum()
        support = p > 0
        kl = np.sum(p[support] * np.log(p[support] / law[support]))
        assert found.tvd[i] == pytest.approx(np.abs(p - law).sum() / 2, rel=1e-5)
        assert found.kl[i] == pytest.approx(kl, rel=1e-4)


def test_estimates_fall_as_beta_grows():
    log_betas = np.linspace(-4, 4, 60)
    found = quasi_rejection_diagnostics(drawn(20, 50), log_betas)
    for name in ("acceptance", "tvd", "tvd_bound", "kl"):
        assert (np.diff(getattr(found, name)) <= 1e-12).all()
    assert (found.tvd <= found.tvd_bound + 1e-12).all()
    # Where no sample exceeds β, none of it is seen.
    assert not found.tvd[:, -1].any() and not found.tvd_error[:, -1].any()


def test_estimates_are_consistent_and_the_bound_errs_low():
    exact = quasi_rejection_diagnostics(LOG_RATIOS, LOG_BETAS, log_probs=LOG_Q)
    few = quasi_rejection_diagnostics(drawn(20_000, 10), LOG_BETAS)
    assert_unbiased(few.acceptance, exact.acceptance, resolution=0.05, family=FAMILY)
    assert_at_most(few.tvd_bound, exact.tvd_bound, family=FAMILY)
    with pytest.raises(AssertionError, match="means are wrong"):  # low, and noticeably so
        assert_unbiased(few.tvd_bound, exact.tvd_bound, family=FAMILY)
    many = quasi_rejection_diagnostics(drawn(300, 20_000), LOG_BETAS)
    for name in ("acceptance", "tvd", "tvd_bound", "kl"):
        assert_unbiased(getattr(many, name), getattr(exact, name), resolution=0.002, family=FAMILY)


@pytest.mark.parametrize("name", ["acceptance", "tvd", "tvd_bound", "kl"])
def test_standard_errors_are_those_of_the_estimates(name):
    found = quasi_rejection_diagnostics(drawn(4000, 400), LOG_BETAS)
    values, errors = getattr(found, name), getattr(found, f"{name}_error")
    # The mean of squared deviations from the mean, against the mean of squared errors.
    spread = (values - values.mean(0)) ** 2 / (errors**2).mean(0)
    np.testing.assert_allclose(spread.mean(0), 1, atol=6 * spread.std(0).max() / 4000**0.5)


def test_limits_hold_at_their_level():
    """Poisson counts above 25 are dropped, so that the ratio has a bound."""
    log_q = LOG_Q[:26] - np.logaddexp.reduce(LOG_Q[:26])
    ratios = LOG_RATIOS[:26]
    exact = quasi_rejection_diagnostics(ratios, LOG_BETAS, log_probs=log_q)
    rng = np.random.default_rng(0)
    samples = ratios[rng.choice(26, (1000, 2000), p=np.exp(log_q))]
    found = quasi_rejection_diagnostics(
        samples, LOG_BETAS, log_bound=float(ratios.max()), level=0.8
    )
    assert found.tvd_limit is not None and found.kl_limit is not None
    for i in range(len(LOG_BETAS)):
        assert_coverage(found.tvd_limit[:, i] >= exact.tvd[i], 0.8, family=FAMILY)
        assert_coverage(found.kl_limit[:, i] >= exact.kl[i], 0.8, family=FAMILY)
    assert (found.tvd_limit > found.tvd).all()
    more = quasi_rejection_diagnostics(
        samples.reshape(-1), LOG_BETAS, log_bound=float(ratios.max())
    )
    assert (more.tvd_limit < 0.01 + exact.tvd_bound).all()  # and they close in


def test_a_bound_below_beta_makes_the_law_exact():
    found = quasi_rejection_diagnostics(drawn(1, 50)[0], [2.0], log_bound=2.0)
    assert found.tvd_limit == found.kl_limit == 0
    huge = quasi_rejection_diagnostics(drawn(1, 50)[0] - 2000, [-2000.0], log_bound=0.0)
    assert huge.tvd_limit == 1 and huge.kl_limit == pytest.approx(2000)


def test_the_chosen_beta_is_the_smallest_that_meets_the_target():
    assert choose_log_beta(LOG_RATIOS, 0.003531, log_probs=LOG_Q) == pytest.approx(
        np.log(2), abs=1e-4
    )
    ratios = drawn(5, 1000)
    chosen = choose_log_beta(ratios, 0.02)
    assert chosen.shape == (5,)
    for row, log_beta in zip(ratios, chosen, strict=True):
        at = quasi_rejection_diagnostics(row, log_beta + np.asarray([-1e-6, 1e-12])).tvd
        assert at[0] > 0.02 >= at[1]
    # Every β meets a distance that the proposal itself meets.
    assert (choose_log_beta(ratios, 0.9) == ratios.min(-1)).all()


def test_mass_that_the_proposal_lacks_is_not_seen():
    """As documented: a target of two atoms and a proposal of one look as if they agreed."""
    found = quasi_rejection_diagnostics(np.log([0.5, 0.5, 0.5]), [0.0])
    assert found.tvd == 0 and found.acceptance == 0.5


def test_what_is_no_ratio_is_an_error():
    with pytest.raises(SamplerError, match="NaN"):
        quasi_rejection_diagnostics([0.0, np.nan], 0.0)
    with pytest.raises(SamplerError, match="inf"):
        choose_log_beta([0.0, np.inf], 0.1)
    with pytest.raises(SamplerError, match=r"Every ratio is 0 in row \[1\]"):
        quasi_rejection_diagnostics([[0.0, 1.0], [-np.inf, -np.inf]], 0.0)
    with pytest.raises(SamplerError, match="shape"):
        quasi_rejection_diagnostics([0.0], 0.0)
    with pytest.raises(SamplerError, match="sum to"):
        quasi_rejection_diagnostics(LOG_RATIOS, 0.0, log_probs=LOG_Q - 1)
    with pytest.raises(SamplerError, match="exceeds log_bound"):
        quasi_rejection_diagnostics([0.0, 1.0], 0.0, log_bound=0.5)


def test_settings_are_checked():
    for log_beta in (-np.inf, np.inf, np.nan):
        with pytest.raises(SamplerError, match="positive and finite"):
            quasi_rejection_diagnostics([0.0, 1.0], log_beta)
    for tvd in (0.0, 1.0, float("nan")):
        with pytest.raises(SamplerError, match="no distance"):
            choose_log_beta([0.0, 1.0], tvd)
    with pytest.raises(SamplerError, match="level=95"):
        quasi_rejection_diagnostics([0.0, 1.0], 0.0, level=95)


# ---- planted bugs -------------------------------------------------------------------------------


def test_a_law_left_unnormalised_is_caught():
    """½ E|w/Z − s·β| forgets that p_β has its own normaliser."""
    w = np.exp(LOG_RATIOS)
    planted = np.sum(np.exp(LOG_Q) * np.abs(w - np.minimum(w, 1))) / 2
    exact = quasi_rejection_diagnostics(LOG_RATIOS, 0.0, log_probs=LOG_Q).tvd
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(planted, exact, rtol=1e-4)


def test_outcomes_taken_for_samples_are_caught():
    planted = quasi_rejection_diagnostics(LOG_RATIOS[:40], np.log([1, 2])).tvd
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(planted, [0.07492, 0.003531], rtol=1e-4)
