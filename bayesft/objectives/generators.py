"""Generators of f-divergences: convex functions f of u = p/q, written as functions of log u.

D_f(p, q) = E_q[f(p/q)] ≥ f(1) = 0. Each takes log u, elementwise, and at log u = -inf returns its
limit at u = 0: +inf where the divergence is infinite as soon as q can produce what p cannot. Adding
c·(u − 1) to f changes no divergence between distributions; `self_normalized` does so where f has a
slope at 1. Sources: Csiszár 1967; the names are those of `tensorflow_probability`'s `tfp.vi`,
except for `dual` and `symmetrized`, `dual_csiszar_function` and `symmetrized_csiszar_function`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.errors import ObjectiveError

type LogRatio = Float[Array, "*shape"]
type Generator = Callable[[LogRatio], LogRatio]

LOG_2 = math.log(2.0)


def kl_reverse(log_u: LogRatio) -> LogRatio:
    """f(u) = −log u: KL(q ‖ p)."""
    return -log_u


def kl_forward(log_u: LogRatio) -> LogRatio:
    """f(u) = u·log u: KL(p ‖ q)."""
    return _times_u(lambda safe: safe, log_u)


def jeffreys(log_u: LogRatio) -> LogRatio:
    """f(u) = ½(u − 1)·log u: (KL(p ‖ q) + KL(q ‖ p)) / 2."""
    return 0.5 * jnp.expm1(log_u) * log_u


def jensen_shannon(log_u: LogRatio) -> LogRatio:
    """f(u) = u·log u − (1 + u)·log((1 + u)/2): KL(p ‖ m) + KL(q ‖ m), m = (p + q)/2."""
    # u·log(u/(1 + u)) = −u·softplus(−log u) does not cancel where u is large.
    tail = _times_u(lambda safe: jax.nn.softplus(-safe), log_u)
    return (1.0 + jnp.exp(log_u)) * LOG_2 - jax.nn.softplus(log_u) - tail


def arithmetic_geometric(log_u: LogRatio) -> LogRatio:
    """f(u) = (1 + u)·log((1 + u)/(2√u)): KL(m ‖ p) + KL(m ‖ q), m = (p + q)/2."""
    return (1.0 + jnp.exp(log_u)) * (jax.nn.softplus(log_u) - 0.5 * log_u - LOG_2)


def total_variation(log_u: LogRatio) -> LogRatio:
    """f(u) = ½|u − 1|: ½ Σ |p − q|."""
    return 0.5 * jnp.abs(jnp.expm1(log_u))


def pearson(log_u: LogRatio) -> LogRatio:
    """f(u) = (u − 1)²: Σ (p − q)² / q."""
    return jnp.expm1(log_u) ** 2


def chi_square(log_u: LogRatio) -> LogRatio:
    """f(u) = u² − 1: the same divergence as `pearson`, Σ p²/q − 1."""
    return jnp.expm1(2.0 * log_u)


def squared_hellinger(log_u: LogRatio) -> LogRatio:
    """f(u) = (√u − 1)²: Σ (√p − √q)²."""
    return pearson(0.5 * log_u)


def triangular(log_u: LogRatio) -> LogRatio:
    """f(u) = (u − 1)²/(1 + u): Σ (p − q)²/(p + q)."""
    return jnp.expm1(log_u) * jnp.tanh(0.5 * log_u)


def log1p_abs(log_u: LogRatio) -> LogRatio:
    """f(u) = u^sign(u − 1) − 1: e^|log u| − 1."""
    return jnp.expm1(jnp.abs(log_u))


def modified_gan(log_u: LogRatio) -> LogRatio:
    """f(u) = log(1 + u) − log u − log 2: the generator's loss of a GAN."""
    return jax.nn.softplus(-log_u) - LOG_2


@functools.cache
def amari_alpha(alpha: float) -> Generator:
    """f(u) = (u^α − 1)/(α(α − 1)); `kl_reverse` at α = 0 and `kl_forward` at α = 1.

    (Cichocki and Amari 2010.)
    """
    if alpha in (0.0, 1.0):
        return kl_forward if alpha else kl_reverse
    return lambda log_u: jnp.expm1(alpha * log_u) / (alpha * (alpha - 1.0))


@functools.cache
def t_power(t: float) -> Generator:
    """f(u) = u^t − 1, or 1 − u^t for 0 < t < 1. ObjectiveError for t = 0 and 1: f is affine."""
    if t in (0.0, 1.0):
        raise ObjectiveError(
            f"t_power({t}) is affine: its divergence is 0 for every guide.",
            cause="u^t − 1 is 0 at t = 0 and u − 1 at t = 1.",
            remedy="use amari_alpha, whose limits there are the two KL divergences.",
        )
    sign = -1.0 if 0 < t < 1 else 1.0
    return lambda log_u: sign * jnp.expm1(t * log_u)


@functools.cache
def dual(f: Generator) -> Generator:
    """f*(u) = u·f(1/u): D_f*(p, q) = D_f(q, p). At u = 0 it is NaN or +inf, not its limit."""
    return lambda log_u: jnp.exp(log_u) * f(-log_u)


@functools.cache
def symmetrized(f: Generator) -> Generator:
    """½(f + f*): (D_f(p, q) + D_f(q, p)) / 2."""
    return lambda log_u: 0.5 * (f(log_u) + dual(f)(log_u))


@functools.cache
def self_normalized(f: Generator) -> Generator:
    """f(u) − f(1) − f'(1)·(u − 1): the same divergence, with f ≥ 0 and no slope at u = 1.

    The divergence of measures that are not normalised is then positive as well, and where u = 1, at
    q = p* with the right log Z, the gradient is 0 in every sample.
    """

    def centred(log_u: LogRatio) -> LogRatio:
        value, slope = jax.value_and_grad(f)(jnp.zeros(()))
        return f(log_u) - value - slope * jnp.expm1(log_u)

    return centred


def _times_u(g: Generator, log_u: LogRatio) -> LogRatio:
    """u·g(log u), and 0 with gradient 0 at u = 0, where g may be infinite."""
    positive = log_u > -jnp.inf
    safe = jnp.where(positive, log_u, 0.0)
    return jnp.where(positive, jnp.exp(safe) * g(safe), 0.0)
