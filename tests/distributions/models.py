"""Tiny models with auxiliary choices, and what their stochastic densities stand for by sums."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import bayesft as bft
from bayesft.distributions import Steps, hierarchical_guide, marginal, normalize, smc
from bayesft.program import StochasticDensity

K = 2
NUM_RUNS = 20_000
PARAMS = {
    "u": jnp.array([0.3, -0.4]),
    "z": jnp.array([[0.1, 0.5, -0.4], [0.9, -1.0, 0.2]]),
    "reverse": jnp.array([[0.3, -0.2], [0.6, 0.1], [-0.5, 0.4]]),
    "density": jnp.array([0.7, -0.6, 0.2]),
    "proposal": jnp.array([-0.2, 0.4, 0.1]),
    "inner": jnp.array([[0.2, -0.5], [-0.7, 0.3]]),
    "inner_reverse": jnp.array([[0.5, 0.1], [-0.3, 0.2]]),
    "first": jnp.array([0.4, -0.2]),
}
LOG_DENSITY = jnp.array([0.2, -0.4, 1.0, 0.3])
"""What the kept z ∈ {0, 1, 2}, or {0, …, 3} for paths, is scored by."""


def forward(params):
    u = bft.draw("u", dist.Categorical(logits=params["u"]))
    bft.draw("z", dist.Categorical(logits=params["z"][u]))


def backward(params, z):
    bft.draw("u", dist.Categorical(logits=params["reverse"][z]))


def marginal_of(params, num_samples=K):
    reverse = lambda z: bft.model(backward)(params, z)
    return marginal(bft.model(forward)(params), "z", reverse, num_samples)


def guide(params):
    model = lambda x: bft.model(forward)(params)
    return hierarchical_guide(model, "z", lambda z, x: bft.model(backward)(params, z))


def normalized_of(params, selection=None):
    proposal = dist.Categorical(logits=params["proposal"])
    return normalize(lambda y: params["density"][y], proposal, K, selection=selection)


def inner_forward(params):
    b = bft.draw("b", dist.Categorical(logits=params["u"]))
    bft.draw("a", dist.Categorical(logits=params["inner"][b]))


def inner_backward(params, a):
    bft.draw("b", dist.Categorical(logits=params["inner_reverse"][a]))


def outer_forward(params):
    inner = bft.model(inner_forward)(params)
    u = bft.draw("u", marginal(inner, "a", lambda a: bft.model(inner_backward)(params, a)))
    bft.draw("z", dist.Categorical(logits=params["z"][u]))


def nested_of(params):
    """A marginal whose model draws its auxiliary from a marginal, one sample each."""
    reverse = lambda z: bft.model(backward)(params, z)
    return marginal(bft.model(outer_forward)(params), "z", reverse, 1)


class Coded(StochasticDensity):
    """Paths of two bits as numbers below 4."""

    def __init__(self, paths):
        self.paths = paths

    def propose(self):
        bits, log_q = bft.draw("path", self.paths, with_log_prob=True)
        return 2 * bits[0] + bits[1], log_q

    def assess(self, value):
        return bft.estimate_log_prob("path", self.paths, jnp.stack([value // 2, value % 2]))


def smc_of(params, selection=None):
    """γ_1 of one bit is "first", γ_2 of both "inner"; proposed by "u" and by "inner_reverse"."""
    densities = jnp.broadcast_to(params["first"], (2, 2)), params["inner"]

    def propose(bit, t):
        return dist.Categorical(logits=jnp.where(t == 0, params["u"], params["inner_reverse"][bit]))

    def extend(before, bit, t):
        later = densities[1][before, bit] - densities[0][0, before]
        return bit, jnp.where(t == 0, densities[0][0, bit], later)

    return Coded(smc(Steps(2, jnp.int32(0), propose, extend), K, selection=selection))


def chain_forward(params):
    """Two bits, the second by the first, and z by the second."""

    def step(bit, t):
        bit = bft.draw("bit", dist.Categorical(logits=chain_logits(params, bit, t)))
        return bit, None

    last, _ = bft.scan(step, jnp.int32(0), jnp.arange(2), name="path")
    bft.draw("z", dist.Categorical(logits=params["z"][last]))


def chain_logits(params, bit, t):
    return jnp.where(t == 0, params["u"], params["inner"][bit])


def chain_backward(params, z):
    """The bits given z by SMC, which looks ahead by "reverse"."""
    t = tables(params)

    def propose(bit, t):
        logits = chain_logits(params, bit, t) + params["reverse"][z]
        return bft.model(lambda: bft.draw("bit", dist.Categorical(logits=logits)))()

    def extend(before, trace, time):
        bit = trace["bit"]
        log_prob = jax.nn.log_softmax(chain_logits(params, before, time))[bit]
        return bit, log_prob + jnp.where(time == 0, 0.0, t["z"][bit, z])

    bft.draw("path", smc(Steps(2, jnp.int32(0), propose, extend), K))


def chain_of(params):
    reverse = lambda z: bft.model(chain_backward)(params, z)
    return marginal(bft.model(chain_forward)(params), "z", reverse, 1)


def chain_log_prob(params):
    t = tables(params)
    last = jax.nn.logsumexp(t["u"][:, None] + t["inner"], 0)
    return jax.nn.logsumexp(last[:, None] + t["z"], 0)


# ---- the same by sums: rows of (log probability, z, log q̂), drawn and given ----------------------


def tables(params):
    return {name: jax.nn.log_softmax(table, -1) for name, table in params.items()}


def product(*sizes):
    return (jnp.asarray(column) for column in np.array([*itertools.product(*map(range, sizes))]).T)


def log_mean_exp(rows):
    return jax.nn.logsumexp(jnp.stack(rows), 0) - jnp.log(len(rows))


def marginal_rows(params, num_samples=K):
    """(log probability, z, log q̂) of every outcome of a draw."""
    t = tables(params)
    z, *us = product(3, *[2] * num_samples)
    joint = [t["u"][u] + t["z"][u, z] for u in us]
    reverse = [t["reverse"][z, u] for u in us]
    log_q = log_mean_exp([p - r for p, r in zip(joint, reverse, strict=True)])
    return joint[0] + sum(reverse[1:]), z, log_q


def marginal_given(params, z):
    """(log probability, log q̂) of every outcome of the estimate at z."""
    t = tables(params)
    us = [*product(*[2] * K)]
    log_q = log_mean_exp([t["u"][u] + t["z"][u, z] - t["reverse"][z, u] for u in us])
    return sum(t["reverse"][z, u] for u in us), log_q


def marginal_log_prob(params):
    t = tables(params)
    return jax.nn.logsumexp(t["u"][:, None] + t["z"], 0)


def normalized_rows(params):
    proposal, density = jax.nn.log_softmax(params["proposal"]), params["density"]
    first, second, index = product(3, 3, K)
    pair = jnp.stack([first, second])
    log_weights = density[pair] - proposal[pair]
    z = jnp.where(index == 0, first, second)
    chosen = jax.nn.log_softmax(log_weights, 0)[index, jnp.arange(len(index))]
    log_q = density[z] - log_mean_exp([*log_weights])
    return proposal[first] + proposal[second] + chosen, z, log_q


def normalized_given(params, z):
    proposal, density = jax.nn.log_softmax(params["proposal"]), params["density"]
    other = jnp.arange(3)
    weights = density - proposal
    return proposal, density[z] - log_mean_exp([jnp.full(3, weights[z]), weights[other]])


def normalized_log_prob(params):
    log_prob, z, _ = normalized_rows(params)
    return jnp.log(jnp.stack([jnp.sum(jnp.exp(log_prob) * (z == value)) for value in range(3)]))


def nested_rows(params):
    t = tables(params)
    b, u, z = product(2, 2, 3)
    joint = t["u"][b] + t["inner"][b, u] + t["z"][u, z]
    return joint, z, joint - t["inner_reverse"][u, b] - t["reverse"][z, u]


def nested_given(params, z):
    t = tables(params)
    b, u = product(2, 2)
    proposed = t["reverse"][z, u] + t["inner_reverse"][u, b]
    return proposed, t["u"][b] + t["inner"][b, u] + t["z"][u, z] - proposed


def nested_log_prob(params):
    t = tables(params)
    u = jax.nn.logsumexp(t["u"][:, None] + t["inner"], 0)
    return jax.nn.logsumexp(u[:, None] + t["z"], 0)


def smc_rows(params):
    """Two first bits, their two heirs, whom these continue, and which of them is kept."""
    one, other, i, j, v, w, index = product(*[2] * 7)
    log_prob, log_weights, before, log_z = smc_particles(params, (one, other), (i, j), (v, w))
    after = jnp.stack([v, w])
    kept = jnp.where(index == 0, 0, 1), jnp.arange(len(one))
    chances = jax.nn.log_softmax(log_weights, 0)[kept]
    z = 2 * before[kept] + after[kept]
    return log_prob.sum(0) + chances, z, params["inner"].ravel()[z] - log_z


def smc_particles(params, firsts, ancestors, lasts):
    """Log-probs of all but the kept index, by slot; last weights, first bits, log Ẑ."""
    t, rows = tables(params), jnp.arange(len(firsts[0]))
    firsts, ancestors, lasts = map(jnp.stack, (firsts, ancestors, lasts))
    weights = params["first"][firsts] - t["u"][firsts]
    before = firsts[ancestors, rows]
    proposed = t["inner_reverse"][before, lasts]
    later = params["inner"][before, lasts] - params["first"][before] - proposed
    chances = jax.nn.log_softmax(weights, 0)[ancestors, rows]
    log_prob = t["u"][firsts] + chances + proposed
    return log_prob, later, before, log_mean_exp([*weights]) + log_mean_exp([*later])


def smc_given(params, z):
    """Slot 0 holds the path; the other's bits and ancestor are drawn."""
    other, ancestor, w = product(2, 2, 2)
    first, last = jnp.full_like(other, z // 2), jnp.full_like(w, z % 2)
    held = jnp.zeros_like(ancestor)
    log_prob, _, _, log_z = smc_particles(params, (first, other), (held, ancestor), (last, w))
    return log_prob[1], params["inner"].ravel()[z] - log_z


def smc_log_prob(params):
    log_prob, z, _ = smc_rows(params)
    return jnp.log(jnp.stack([jnp.sum(jnp.exp(log_prob) * (z == value)) for value in range(4)]))


CASES = {
    "marginal": (marginal_of, marginal_rows, marginal_given, marginal_log_prob),
    "normalize": (normalized_of, normalized_rows, normalized_given, normalized_log_prob),
    "smc": (smc_of, smc_rows, smc_given, smc_log_prob),
    "nested": (nested_of, nested_rows, nested_given, nested_log_prob),
}
