"""From prior to posterior by powers of the evidence: an SMC sampler over whole sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Claim, Key, Prompt, Sampler
from bayesft.draws import Draws, Status, effective_sample_size, log_mean_exp
from bayesft.errors import SamplerError
from bayesft.samplers.chains.kernel import Chains, Kernel
from bayesft.samplers.chains.moves import Faults, move, move_with_host, step_keys
from bayesft.samplers.chains.suffix_resampling import suffix_resampling
from bayesft.samplers.ended import log_ended
from bayesft.samplers.mcmc import require_kernels
from bayesft.samplers.plain import propose
from bayesft.samplers.resampling import stay_in_place, systematic
from bayesft.samplers.validation import require_count
from bayesft.target import Target

TEMPERATURES = tuple((k / 8) ** 2 for k in range(9))
"""Finer near the prior, where the weights change most."""


def tempered(
    num_particles: int,
    temperatures: Sequence[float] = TEMPERATURES,
    kernel: Kernel | Sequence[Kernel] | None = None,
    num_moves: int = 1,
    ess_threshold: float = 0.5,
) -> Tempered:
    """Properly weighted draws from whole sequences that pass from the prior to the posterior.

    Particles are samples of the prior. At λ_k of 0 = λ_0 < … < λ_K = 1 their weights grow by
    φ^(λ_k − λ_{k−1}), a prompt whose ESS is below `ess_threshold` · N is resampled, and each
    particle is moved `num_moves` times by a kernel that leaves π0·φ^(λ_k) invariant;

        Ẑ = Π of the mean weights at the resamplings and at the end

    (Del Moral, Doucet and Jasra 2006; with `ess_threshold` 0 annealed importance sampling, Neal
    2001). `temperatures` is that ladder of λ, fixed ahead, and `kernel` one or several kernels, by
    default `suffix_resampling()`. Evidence of -inf makes a particle weigh 0 from λ_1 on; Python
    evidence is kept with the particle and called once per move for all of them.

    `info` has `ess` [K, P] after each reweighting, `num_resamples` [P], and `acceptance` [P], the
    share of moves that led to another sequence. Raises SamplerError for settings out of range and
    for a ladder that does not increase from 0 to 1.
    """
    ladder = np.asarray(temperatures, np.float64)
    increasing = ladder.ndim == 1 and ladder.size > 1 and bool((np.diff(ladder) > 0).all())
    if not increasing or ladder[0] != 0 or ladder[-1] != 1:
        raise SamplerError(
            f"temperatures={temperatures!r} do not increase from 0 to 1.",
            cause="a ladder in reverse, with a value twice, or without its ends.",
            remedy="give the exponents of the evidence, for example (0, 0.1, 0.4, 1).",
        )
    if not isinstance(ess_threshold, int | float) or not 0 <= ess_threshold <= 1:
        raise SamplerError(
            f"ess_threshold={ess_threshold!r} is not between 0 and 1.",
            cause="a number of particles instead of a share of them.",
            remedy="use 0.5, 0 (never resample) or 1 (always).",
        )
    return Tempered(
        require_count("num_particles", num_particles),
        tuple(ladder.tolist()),
        require_kernels(suffix_resampling() if kernel is None else kernel),
        require_count("num_moves", num_moves),
        float(ess_threshold),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Cloud:
    """Weighted whole sequences at one temperature."""

    chains: Chains
    """N particles of each prompt, in the place of C chains."""
    log_weights: Float[Array, "P N"]
    """Since the last resampling."""
    log_z: Float[Array, " P"]
    num_resamples: Int[Array, " P"]
    num_moved: Int[Array, " P"]
    faults: Faults


class _Settings(NamedTuple):
    target: Target
    kernels: tuple[Kernel, ...]
    threshold: float


@dataclasses.dataclass(frozen=True)
class Tempered(Sampler):
    """See `tempered`."""

    num_particles: int
    temperatures: tuple[float, ...]
    kernels: tuple[Kernel, ...]
    num_moves: int
    ess_threshold: float

    @property
    def claim(self) -> Claim:
        return Claim("proper weights", "E[mean weight · weighted mean of f] = Z·E_p*[f]")

    def run(self, target: Target, key: Key) -> Draws:
        kernels = tuple(kernel.bind(target) for kernel in self.kernels)
        settings = _Settings(target, kernels, self.ess_threshold)
        samples = propose(target, jax.random.fold_in(key, 0), 0, self.num_particles)
        chains = Chains(*map(jnp.asarray, vars(samples).values()))
        share = np.mean(~np.isneginf(samples.log_prior), axis=1)
        keys = _prompt_keys(target.xs.id, jax.random.fold_in(key, 1))
        ladder = jnp.asarray(self.temperatures)
        run = self._with_host if target.host_terms else self._in_jax
        cloud, ess = run(settings, keys, ladder, _start(chains))
        cloud.faults.require_none(target)
        return self._draws(target, cloud, ess, share)

    def _in_jax(self, settings: _Settings, keys: Key, ladder: Array, cloud: _Cloud):
        return _climb(settings, settings.target.xs, keys, ladder, self.num_moves, cloud)

    def _with_host(self, settings: _Settings, keys: Key, ladder: Array, cloud: _Cloud):
        history = []
        for k in range(1, len(ladder)):
            cloud, ess = _reweigh(settings, keys, k, ladder, cloud)
            history.append(ess)
            alive = cloud.log_weights > -jnp.inf
            for number in range(self.num_moves * len(settings.kernels)):
                kernel = settings.kernels[number % len(settings.kernels)]
                own = _move_keys(keys, k, number, self.num_particles)
                moved = move_with_host(
                    kernel, settings.target, own, cloud.chains, cloud.faults, ladder[k], alive
                )
                cloud = _moved(cloud, moved)
        return cloud, jnp.stack(history)

    def _draws(self, target: Target, cloud: _Cloud, ess: Array, share: np.ndarray) -> Draws:
        chains, log_weights = cloud.chains, cloud.log_weights
        dead = np.isneginf(np.asarray(log_weights)).all(-1)
        num_moves = (len(self.temperatures) - 1) * self.num_moves * len(self.kernels)
        with np.errstate(divide="ignore"):
            log_share = np.log(share)
        return Draws(
            tokens=chains.tokens,
            lengths=chains.lengths,
            log_weights=log_weights + cloud.log_z[:, None],
            log_prior=chains.log_prior,
            log_evidence=chains.log_evidence,
            log_z=cloud.log_z + log_mean_exp(log_weights),
            status=np.where(dead, Status.ALL_DEAD, Status.OK),
            claim=self.claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended(target, lambda: jnp.asarray(log_share, jnp.float32)),
            info={
                "ess": np.asarray(ess),
                "num_resamples": np.asarray(cloud.num_resamples),
                "acceptance": np.asarray(cloud.num_moved) / (num_moves * self.num_particles),
            },
        )


@jax.jit
def _prompt_keys(ids: Int[Array, " P"], key: Key) -> Key:
    return jax.vmap(lambda prompt_id: jax.random.fold_in(key, prompt_id))(ids)


def _move_keys(keys: Key, k: Array | int, number: Array | int, num_particles: int) -> Key:
    """Keys [P, N] of one move at λ_k; number 0 of a level is its resampling."""
    level = jax.vmap(lambda key: jax.random.fold_in(key, k))(keys)
    return step_keys(level, number + 1, num_particles)


@jax.jit
def _start(chains: Chains) -> _Cloud:
    zeros = jnp.zeros(chains.log_prior.shape)
    counts = jnp.zeros(zeros.shape[0], jnp.int32)
    return _Cloud(chains, zeros, zeros[:, 0], counts, counts, Faults.none(chains))


@jax.jit
def _climb(
    settings: _Settings,
    xs: Prompt,
    keys: Key,
    ladder: Float[Array, " K+1"],
    num_moves: int,
    cloud: _Cloud,
) -> tuple[_Cloud, Float[Array, "K P"]]:
    """All levels in one loop; the ESS at each."""
    num_particles, count = cloud.log_weights.shape[1], len(settings.kernels)

    def level(cloud: _Cloud, k: Array) -> tuple[_Cloud, Array]:
        cloud, ess = _reweigh(settings, keys, k, ladder, cloud)
        alive = cloud.log_weights > -jnp.inf

        def turn(i: Array, cloud: _Cloud) -> _Cloud:
            for j, kernel in enumerate(settings.kernels):
                own = _move_keys(keys, k, i * count + j, num_particles)
                target, scale = settings.target, ladder[k]
                cloud = _moved(
                    cloud, move(kernel, target, xs, own, cloud.chains, cloud.faults, scale, alive)
                )
            return cloud

        return jax.lax.fori_loop(0, num_moves, turn, cloud), ess

    return jax.lax.scan(level, cloud, jnp.arange(1, ladder.shape[0], dtype=jnp.int32))


@jax.jit
def _reweigh(
    settings: _Settings, keys: Key, k: Array | int, ladder: Float[Array, " K+1"], cloud: _Cloud
) -> tuple[_Cloud, Float[Array, " P"]]:
    """The particles weighted for λ_k, and resampled where their ESS is low."""
    log_evidence = cloud.chains.log_evidence
    log_weights = _weighted(cloud.log_weights, log_evidence, ladder[k - 1], ladder[k])
    ess = effective_sample_size(log_weights)
    alive = (log_weights > -jnp.inf).any(-1)
    low = alive & (ess < settings.threshold * log_weights.shape[1])
    known = jnp.where(low[:, None], log_weights, 0.0)
    own = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, k), 0))(keys)
    ancestors = jax.vmap(stay_in_place)(jax.vmap(systematic)(own, known))

    def take(a: Array) -> Array:
        chosen = jax.vmap(lambda row, i: row[i])(a, ancestors)
        return jnp.where(low.reshape(-1, *(1,) * (a.ndim - 1)), chosen, a)

    return dataclasses.replace(
        cloud,
        chains=jax.tree.map(take, cloud.chains),
        log_weights=jnp.where(low[:, None], 0.0, log_weights),
        log_z=cloud.log_z + jnp.where(low, log_mean_exp(log_weights), 0.0),
        num_resamples=cloud.num_resamples + low,
    ), ess


def _weighted(
    log_weights: Float[Array, "P N"],
    log_evidence: Float[Array, "P N"],
    before: Float[Array, ""],
    after: Float[Array, ""],
) -> Float[Array, "P N"]:
    """Log-weights with φ^(after − before) in them; what weighs 0 does so for good."""
    possible = (log_weights > -jnp.inf) & (log_evidence > -jnp.inf)
    return jnp.where(possible, log_weights + (after - before) * log_evidence, -jnp.inf)


def _moved(cloud: _Cloud, moved: Any) -> _Cloud:
    return dataclasses.replace(
        cloud,
        chains=moved.chains,
        faults=moved.faults,
        num_moved=cloud.num_moved + moved.moved.sum(-1, dtype=jnp.int32),
    )
