"""Certificates against enumeration: coverage, what is not certified, and planted bugs."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Claim
from bayesft.diagnostics import Interval, certify, posterior
from bayesft.diagnostics.bounds import log_z_upper
from bayesft.diagnostics.evaluated import Evaluated
from bayesft.errors import GuideError, SamplerError
from bayesft.evidence import constraint, potential, reward
from bayesft.priors import empirical, markov, trainable
from bayesft.samplers import importance
from bayesft.target import Target
from bayesft.testing import assert_coverage, enumerate_target

MODULE = sys.modules["bayesft.diagnostics.certify"]  # the name in the room is the function
NUM_RUNS = 400  # as many independent runs as prompts: each prompt has keys of its own
LEVEL = 0.9
SMALL = {"num_particles": 8, "num_repeats": 16}
NARROW = {"num_particles": 4, "num_repeats": 64}  # a wide gap between bounds with narrow limits


@functools.cache
def language():
    rows = np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    return markov(np.log([0.5, 0.3, 0.2]), rows, eos=2, vocabulary=("a", "b", ""))


@functools.cache
def guide(scale=0.5):
    start = trainable(language())
    shift = np.random.default_rng(0)
    return start.with_params(
        {name: p + scale * shift.normal(size=p.shape) for name, p in start.params.items()}
    )


def count_a(tokens, length):
    return 1.0 * ((tokens == 0) & (jnp.arange(tokens.shape[0]) < length)).sum()


COUNT = potential(count_a, bounds=(0, 4))


def many(evidence=COUNT, eos="truncate"):
    return Target(language(), evidence, prompts=[""] * NUM_RUNS, max_new_tokens=4, eos=eos)


def truths(target, guide):
    """Exact log Z, KL of the guide restricted to what is possible, and KL(p* ‖ q)."""
    exact = enumerate_target(target)
    log_q = exact.log_probs_of(guide)
    allowed = exact.log_probs > -np.inf
    mass = np.exp(log_q[allowed]).sum()
    share = np.exp(log_q[allowed]) / mass
    restricted = (share * (np.log(share) - exact.log_probs[allowed])).sum()
    return {
        "log_z": exact.log_z,
        "restricted_kl": restricted,
        "forward_kl": exact.forward_kl(guide),
    }


def require_coverage(certificate, truth):
    for name, value in truth.items():
        covered = getattr(certificate, name).contains(value)
        assert_coverage(covered, LEVEL, family=len(truth))


@pytest.fixture(scope="module", params=["truncate", "condition", "force"])
def run(request):
    target = many(eos=request.param)
    return target, certify(target, guide(), jax.random.key(0), level=LEVEL, **SMALL)


# ---- the claim -----------------------------------------------------------------------------------


def test_intervals_cover_at_their_level(run):
    target, certificate = run
    require_coverage(certificate, truths(target, guide()))
    assert certificate.certified.all()
    if target.horizon.eos_policy == "condition":
        assert (certificate.reverse_kl.upper == np.inf).all()  # cut sequences are impossible
    else:
        for end in ("lower", "upper"):
            reverse, restricted = certificate.reverse_kl, certificate.restricted_kl
            assert (getattr(reverse, end) == getattr(restricted, end)).all()


def test_intervals_are_informative(run):
    _, certificate = run
    for name, width in (("log_z", 1.0), ("restricted_kl", 2.0), ("forward_kl", 3.0)):
        interval = getattr(certificate, name)
        assert (interval.lower <= interval.upper).all()
        assert np.median(interval.upper - interval.lower) < width


@pytest.mark.parametrize("evidence", ["hard", "soft"])
def test_coverage_with_exact_draws_by_rejection(monkeypatch, evidence):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    no_ab = constraint(
        lambda completions: ["ab" not in text for text in completions],
        **({} if evidence == "hard" else {"log_penalty": -2.0}),
    )
    target = many(COUNT + no_ab)
    certificate = certify(target, guide(), jax.random.key(1), level=LEVEL, **SMALL)
    assert certificate.posterior_draws.claim.detail.startswith("independent draws")
    require_coverage(certificate, truths(target, guide()))
    assert (certificate.violation_rate > 0).any() == (evidence == "hard")


def test_a_perfect_guide_has_distance_0():
    target = Target(language(), COUNT, max_new_tokens=4)
    exact = enumerate_target(target)
    rows = [row[:n].tolist() for row, n in zip(exact.tokens, exact.lengths, strict=True)]
    perfect = trainable(empirical(rows, vocab_size=3, eos=2))
    perfect = perfect.with_params({".log_weights": jnp.asarray(exact.log_probs, jnp.float32)})
    certificate = certify(target, perfect, jax.random.key(0))
    assert certificate.log_z.contains(exact.log_z).all()
    assert certificate.reverse_kl.upper[0] < 0.1
    assert certificate.forward_kl.upper[0] < 0.2
    assert certificate.ess[0] > 0.999


def test_more_particles_tighten_the_bounds():
    target = Target(language(), COUNT, max_new_tokens=4)
    widths = [
        (lambda z: z.upper[0] - z.lower[0])(
            certify(target, guide(), jax.random.key(0), num_particles=n, num_repeats=64).log_z
        )
        for n in (4, 64)
    ]
    assert widths[1] < 0.5 * widths[0]


def test_a_prompt_in_a_batch_equals_the_prompt_alone():
    def certified(prompts):
        target = Target(language(), COUNT, prompts=prompts, max_new_tokens=4)
        return certify(target, guide(), jax.random.key(3), **SMALL)

    batch, alone = certified(["a", "bb", ""]), certified(["bb"])
    for name in ("log_z", "reverse_kl", "forward_kl"):
        one, other = getattr(batch, name), getattr(alone, name)
        np.testing.assert_allclose(one.lower[1], other.lower[0], atol=1e-5)
        np.testing.assert_allclose(one.upper[1], other.upper[0], atol=1e-5)
    again = certified(["a", "bb", ""])
    assert (again.log_z.lower == batch.log_z.lower).all()


# ---- planted bugs: coverage catches them ---------------------------------------------------------


def require_caught(target, **options):
    certificate = certify(target, guide(1.5), jax.random.key(1), **{**NARROW, **options})
    with pytest.raises(AssertionError, match="intervals cover"):
        require_coverage(certificate, truths(target, guide(1.5)))


def test_without_a_bug_the_same_case_is_covered():
    target = many(2.0 * COUNT)
    certificate = certify(target, guide(1.5), jax.random.key(1), **NARROW)
    require_coverage(certificate, truths(target, guide(1.5)))


def test_slots_that_are_not_posterior_draws_are_caught():
    prior = many(0.0 * COUNT)
    draws = certify(prior, guide(1.5), jax.random.key(0), **NARROW).posterior_draws
    of_count = 2.0 * jax.vmap(jax.vmap(count_a))(draws.tokens, draws.lengths)
    require_caught(
        many(2.0 * COUNT), posterior_draws=dataclasses.replace(draws, log_evidence=of_count)
    )


def test_a_slot_that_is_left_out_is_caught(monkeypatch):
    def without(explored, drawn, posterior, filled, uniform, error):
        dead = dataclasses.replace(posterior, log_density=np.full(filled.shape, -np.inf))
        return log_z_upper(explored, drawn, dead, filled, uniform, error)

    monkeypatch.setattr(MODULE, "log_z_upper", without)
    require_caught(many(2.0 * COUNT))


def test_a_mixture_that_does_not_sum_to_1_is_caught(monkeypatch):
    def unnormalised(self):
        return np.logaddexp(self.log_explorer, self.log_prior)

    monkeypatch.setattr(Evaluated, "log_mixture", property(unnormalised))
    require_caught(many(2.0 * COUNT), num_particles=64, num_repeats=16)


def test_a_wrong_sign_is_caught(monkeypatch):
    monkeypatch.setattr(Interval, "__neg__", lambda self: self)
    require_caught(many(2.0 * COUNT))


# ---- what is not certified, and says so ----------------------------------------------------------


def test_unbounded_evidence_is_not_certified(monkeypatch):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    target = Target(language(), potential(count_a), max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0))
    assert not certificate.certified.any()
    assert "not certified: the evidence declares no upper bound" in str(certificate)
    assert str(certificate).count("not certified") == 2  # instead of KL(p*‖q), and in the note
    exact = enumerate_target(target)
    assert certificate.log_z.lower[0] < exact.log_z
    assert certificate.reverse_kl.lower[0] < exact.reverse_kl(guide())
    again = certify(target, guide(), jax.random.key(1), posterior_draws=certificate.posterior_draws)
    assert not again.certified.any()


def test_weighted_draws_may_be_given_but_do_not_certify():
    target = Target(language(), COUNT, max_new_tokens=4)
    draws = importance(256).run(target, jax.random.key(0))
    certificate = certify(target, guide(), jax.random.key(1), posterior_draws=draws)
    assert not certificate.certified.any()
    assert "are not exact (proper weights" in str(certificate)


def test_rare_acceptance_falls_back_prompt_by_prompt(monkeypatch):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    monkeypatch.setattr(posterior, "PROPOSALS_PER_DRAW", 4)
    evidence = potential(
        lambda tokens, length: jnp.where(tokens[0] == 0, 0.0, -8.0), bounds=(-8, 0)
    )
    prior = markov(
        np.log([1.0, 0.0, 0.0] @ np.eye(3) + 1e-12),
        np.log([[0.999, 0.0005, 0.0005], [0.0005, 0.999, 0.0005], [1, 1, 1]]),
        eos=2,
        vocabulary=("a", "b", ""),
    )
    target = Target(prior, evidence, prompts=["a", "b"], max_new_tokens=4)
    certificate = certify(target, prior, jax.random.key(0), num_repeats=16)
    assert certificate.certified.tolist() == [True, False]
    assert "of 64 proposals, so posterior draws are SMC's" in certificate.notes[1][0]
    reused = certify(
        target,
        prior,
        jax.random.key(1),
        num_repeats=16,
        posterior_draws=certificate.posterior_draws,
    )
    assert reused.certified.tolist() == [True, False]


@pytest.mark.parametrize("listed", [True, False])
def test_nothing_possible(monkeypatch, listed):
    if not listed:
        monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    never = constraint(lambda completions: [False] * len(completions), name="never")
    target = Target(language(), never, max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0), num_repeats=4)
    assert certificate.log_z.lower[0] == -np.inf
    assert certificate.violation_rate[0] == 1.0
    assert certificate.ess[0] == 0.0
    assert not certificate.certified.any()
    assert "no sequence of positive density was found" in str(certificate)
    assert "nan" not in str(certificate)


def test_a_constraint_that_the_guide_violates():
    hard = constraint(lambda completions: ["ab" not in text for text in completions])
    target = Target(language(), hard, max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0))
    truth = truths(target, guide())
    assert certificate.reverse_kl.lower[0] == np.inf
    assert certificate.restricted_kl.contains(truth["restricted_kl"])[0]
    assert "of 2048 guide draws are impossible under the target, so KL(q‖p*) = ∞" in str(
        certificate
    )


def test_a_constraint_that_no_draw_violates():
    hard = constraint(lambda completions: [len(text) < 9 for text in completions])
    certificate = certify(Target(language(), hard, max_new_tokens=4), guide(), jax.random.key(0))
    assert certificate.reverse_kl.upper[0] == np.inf
    assert np.isfinite(certificate.restricted_kl.upper[0])
    assert "none of 2048 guide draws violates a hard constraint (rate below 0." in str(certificate)


def test_a_guide_that_misses_outcomes():
    with np.errstate(divide="ignore"):
        narrow = markov(np.log([1.0, 0.0, 0.0]), np.log([[0.5, 0, 0.5]] * 3), eos=2)
    target = Target(language(), COUNT, max_new_tokens=4)
    certificate = certify(target, narrow, jax.random.key(0))
    exact = enumerate_target(target)
    assert certificate.forward_kl.lower[0] == np.inf
    assert certificate.log_z.contains(exact.log_z)[0]  # the prior's half covers the rest
    assert certificate.reverse_kl.contains(exact.reverse_kl(narrow))[0]


def test_evidence_that_changes_between_calls_is_a_contradiction():
    calls = []

    def drifting(completions):
        calls.append(1)
        return [-2.0 * len(calls) + 0.01 * len(text) for text in completions]

    target = Target(language(), reward(drifting, beta=1.0), max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0), proposal=language())
    assert len(calls) == 4
    assert not certificate.certified.any()
    assert "contradict each other" in str(certificate)


# ---- how it is called ----------------------------------------------------------------------------


def test_python_evidence_is_called_once_per_batch():
    sizes = []

    def count(completions):
        sizes.append(len(completions))
        return [text.count("a") for text in completions]

    target = Target(
        language(), reward(count, 1.0, bounds=(0, 4)), prompts=["a", "b"], max_new_tokens=4
    )
    certify(target, guide(), jax.random.key(0), num_particles=8, num_repeats=4)
    assert sorted(sizes) == [2 * 4 * 4, 2 * 4 * 4, 2 * 31]


def test_draws_are_shared_between_certificates(monkeypatch):
    target = many()
    before = certify(target, guide(2.0), jax.random.key(0), **SMALL)
    monkeypatch.setattr(MODULE, "draw_posterior", None)
    after = certify(
        target, guide(), jax.random.key(1), posterior_draws=before.posterior_draws, **SMALL
    )
    assert after.certified.all()
    require_coverage(after, truths(target, guide()))
    few = jax.tree.map(lambda a: a, before.posterior_draws)
    few = dataclasses.replace(
        few,
        **{
            name: getattr(few, name)[:, :4]
            for name in ("tokens", "lengths", "log_weights", "log_prior", "log_evidence")
        },
    )
    shorter = certify(target, guide(), jax.random.key(1), posterior_draws=few, **SMALL)
    require_coverage(shorter, truths(target, guide()))


def test_a_better_proposal_tightens_the_certificate_of_a_bad_guide():
    target = many()
    bad = guide(3.0)
    alone = certify(target, bad, jax.random.key(0), **SMALL)
    helped = certify(target, bad, jax.random.key(0), proposal=guide(), **SMALL)
    require_coverage(helped, truths(target, bad))
    width = [np.median(c.log_z.upper - c.log_z.lower) for c in (alone, helped)]
    assert width[1] < width[0]


def test_the_prior_itself_can_be_certified():
    target = Target(language(), COUNT, max_new_tokens=4)
    certificate = certify(target, language(), jax.random.key(0))
    require = {"reverse_kl": enumerate_target(target).reverse_kl(language())}
    assert certificate.reverse_kl.contains(require["reverse_kl"])[0]


@pytest.mark.parametrize("level", [0.0, 1.0, 90])
def test_levels_are_probabilities(level):
    with pytest.raises(SamplerError, match="level="):
        certify(many(), guide(), jax.random.key(0), level=level)


def test_what_does_not_fit_is_refused():
    target = Target(language(), COUNT, max_new_tokens=4)
    key = jax.random.key(0)
    with pytest.raises(GuideError, match="needs a target and a guide"):
        certify(guide(), target, key)
    with pytest.raises(GuideError, match=r"\(V, EOS\) = \(2, \(1,\)\)"):
        certify(target, markov(np.zeros(2), np.zeros((2, 2)), eos=1), key)
    with pytest.raises(SamplerError, match="num_particles"):
        certify(target, guide(), key, num_particles=0)
    other = Target(language(), COUNT, max_new_tokens=3)
    draws = certify(other, guide(), key, **SMALL).posterior_draws
    with pytest.raises(SamplerError, match="draws of another target"):
        certify(target, guide(), key, posterior_draws=draws)
    hard = constraint(lambda completions: ["a" not in text for text in completions])
    strict = Target(language(), hard, max_new_tokens=3)
    impossible = dataclasses.replace(
        draws, claim=Claim("exact draws"), log_evidence=jnp.full(draws.log_evidence.shape, -jnp.inf)
    )
    with pytest.raises(SamplerError, match="has density 0"):
        certify(strict, guide(), key, posterior_draws=impossible)


def test_the_table_is_readable():
    target = Target(language(), COUNT, prompts=["a", "bb"], max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0))
    lines = str(certificate).splitlines()
    assert lines[0].strip() == "level 0.9, 64 groups of 64 particles"
    assert lines[1].split()[:5] == ["prompt", "log", "Z", "KL(q‖p*)", "KL(p*‖q)"]
    assert lines[4].split()[0] == "bb"
    assert f"[{certificate.log_z.lower[1]:.3f}, {certificate.log_z.upper[1]:.3f}]" in lines[4]
    assert "… and 380 more prompts" in str(certify(many(), guide(), jax.random.key(0), **SMALL))
