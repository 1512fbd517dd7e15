"""The generators of f-divergences: closed forms, those of `tfp.vi`, and the limit at u = 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.table import EXACT

from bayesft.errors import ObjectiveError
from bayesft.objectives import f_divergence, generators

LOG_U = jnp.linspace(-6.0, 6.0, 49)


def kl(a, b):
    return np.sum(a * np.log(a / b))


def mean(p, q):
    return (p + q) / 2


# Each generator with its divergence in closed form, its name and settings in `tfp.vi`, and f(0).
TABLE = {
    "kl_reverse": (generators.kl_reverse, lambda p, q: kl(q, p), {}, np.inf),
    "kl_forward": (generators.kl_forward, kl, {}, 0.0),
    "jeffreys": (generators.jeffreys, lambda p, q: (kl(p, q) + kl(q, p)) / 2, {}, np.inf),
    "jensen_shannon": (
        generators.jensen_shannon,
        lambda p, q: kl(p, mean(p, q)) + kl(q, mean(p, q)),
        {"self_normalized": True},
        np.log(2.0),
    ),
    "arithmetic_geometric": (
        generators.arithmetic_geometric,
        lambda p, q: kl(mean(p, q), p) + kl(mean(p, q), q),
        {"self_normalized": True},
        np.inf,
    ),
    "total_variation": (
        generators.total_variation,
        lambda p, q: np.abs(p - q).sum() / 2,
        {},
        0.5,
    ),
    "pearson": (generators.pearson, lambda p, q: np.sum((p - q) ** 2 / q), {}, 1.0),
    "chi_square": (generators.chi_square, lambda p, q: np.sum(p**2 / q) - 1, {}, -1.0),
    "squared_hellinger": (
        generators.squared_hellinger,
        lambda p, q: np.sum((np.sqrt(p) - np.sqrt(q)) ** 2),
        {},
        1.0,
    ),
    "triangular": (generators.triangular, lambda p, q: np.sum((p - q) ** 2 / (p + q)), {}, 1.0),
    "log1p_abs": (
        generators.log1p_abs,
        lambda p, q: np.sum(q * np.maximum(p / q, q / p)) - 1,
        {},
        np.inf,
    ),
    "modified_gan": (
        generators.modified_gan,
        lambda p, q: kl(q, p) - kl(q, mean(p, q)),
        {},
        np.inf,
    ),
    "amari_alpha": (
        generators.amari_alpha(0.3),
        lambda p, q: (np.sum(p**0.3 * q**0.7) - 1) / (0.3 * -0.7),
        {"alpha": 0.3},
        1 / 0.21,
    ),
    "t_power": (generators.t_power(1.5), lambda p, q: np.sum(p**1.5 / q**0.5) - 1, {"t": 1.5}, -1),
}
CONCAVE_POWER = generators.t_power(0.25), lambda p, q: 1 - np.sum(p**0.25 * q**0.75)
WITH_SELF_NORMALIZED = ("kl_reverse", "kl_forward", "jensen_shannon", "arithmetic_geometric")
WITH_SELF_NORMALIZED += ("modified_gan", "amari_alpha", "t_power")


def distributions():
    p = np.exp(EXACT.log_probs)
    q = np.exp(np.cos(np.arange(len(p))) + EXACT.log_probs)
    return p, q / q.sum()


def divergence(f, p, q):
    return np.sum(q * np.asarray(f(jnp.asarray(np.log(p / q), jnp.float32)), np.float64))


def test_divergences_are_those_of_the_closed_forms():
    p, q = distributions()
    forms = [(f, form) for f, form, _, _ in TABLE.values()] + [CONCAVE_POWER]
    for f, form in forms:
        exact, reversed_exact = form(p, q), form(q, p)
        np.testing.assert_allclose(divergence(f, p, q), exact, rtol=1e-4)
        np.testing.assert_allclose(divergence(generators.dual(f), p, q), reversed_exact, rtol=1e-4)
        both = (exact + reversed_exact) / 2
        np.testing.assert_allclose(divergence(generators.symmetrized(f), p, q), both, rtol=1e-4)
        centred = divergence(generators.self_normalized(f), p, q)
        np.testing.assert_allclose(centred, exact, rtol=1e-3, atol=1e-6)
        assert exact > 0
    p_is_q = [divergence(f, p, p) for f, _ in forms]
    np.testing.assert_allclose(p_is_q, 0.0, atol=1e-6)


def test_a_generator_for_its_dual_is_caught():
    p, q = distributions()
    swapped = divergence(generators.dual(generators.kl_forward), p, q)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(swapped, kl(p, q), rtol=1e-4)


@pytest.mark.parametrize("name", TABLE)
def test_they_agree_with_tensorflow_probability(name):
    vi = pytest.importorskip("tensorflow_probability.substrates.jax").vi
    ours, _, settings, _ = TABLE[name]

    def compare(f, **given):
        theirs = getattr(vi, name)(LOG_U, **settings, **given)
        theirs -= getattr(vi, name)(jnp.float32(0.0), **settings, **given)  # f(1) = 0 is ours
        np.testing.assert_allclose(f(LOG_U), theirs, rtol=2e-5, atol=2e-4)

    compare(ours)
    if name in WITH_SELF_NORMALIZED:
        settings = {k: v for k, v in settings.items() if k != "self_normalized"}
        compare(generators.self_normalized(ours), self_normalized=True)
    dual = vi.dual_csiszar_function(LOG_U, ours)
    np.testing.assert_allclose(generators.dual(ours)(LOG_U), dual, rtol=1e-5)
    both = vi.symmetrized_csiszar_function(LOG_U, ours)
    np.testing.assert_allclose(generators.symmetrized(ours)(LOG_U), both, rtol=1e-5)


def test_limits_of_the_power_families():
    for alpha, f in ((0.0, generators.kl_reverse), (1.0, generators.kl_forward)):
        assert generators.amari_alpha(alpha) is f
        near = generators.self_normalized(generators.amari_alpha(alpha + 1e-3))
        np.testing.assert_allclose(near(LOG_U), generators.self_normalized(f)(LOG_U), rtol=0.02)
    for t in (0.0, 1.0):
        with pytest.raises(ObjectiveError, match="affine"):
            generators.t_power(t)


def test_where_u_is_0_there_is_a_limit_and_no_nan():
    for name, (f, _, _, limit) in TABLE.items():
        value, slope = jax.value_and_grad(f)(jnp.float32(-jnp.inf))
        np.testing.assert_allclose(value, limit, rtol=1e-6, err_msg=name)
        assert f_divergence(f).finite_at_zero == np.isfinite(limit)
        if np.isfinite(limit):
            assert slope == 0.0, name


def test_the_table_is_complete():
    makers = {"dual", "symmetrized", "self_normalized"}
    functions = {
        name
        for name, value in vars(generators).items()
        if callable(value) and getattr(value, "__module__", "") == generators.__name__
    }
    public = {name for name in functions if not name.startswith("_")} - {"LogRatio", "Generator"}
    assert public == set(TABLE) | makers


def test_equal_settings_are_equal_objectives():
    """Static under jit, they do not trace again."""
    for make in (generators.amari_alpha, generators.t_power):
        assert f_divergence(make(0.5)) == f_divergence(make(0.5))
    assert hash(f_divergence(generators.pearson)) == hash(f_divergence(generators.pearson))


def test_what_is_no_generator_is_refused():
    with pytest.raises(ObjectiveError, match="returns"):
        f_divergence(lambda log_u: jnp.stack([log_u, log_u]))
    with pytest.raises(ObjectiveError, match="returns"):
        f_divergence(lambda log_u: (log_u, log_u))
    with pytest.raises(ObjectiveError, match="log_z=nan"):
        f_divergence(generators.pearson, log_z=float("nan"))
    with pytest.raises(ObjectiveError, match="not convex"):
        f_divergence(lambda log_u: log_u)
    with pytest.raises(ObjectiveError, match="not convex"):
        f_divergence(lambda log_u: log_u * jnp.nan)
