"""Markov chain Monte Carlo: chains whose invariant distribution is the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bayesft.base import Claim, Key, Prompt, Sampler, checked_count
from bayesft.draws import Draws, Status
from bayesft.errors import SamplerError
from bayesft.samplers.chains.kernel import Chains, Kernel
from bayesft.samplers.chains.mixing import r_hat
from bayesft.samplers.chains.moves import Faults, move, move_with_host, step_keys
from bayesft.samplers.chains.starts import given_draws, possible_samples, require_initial
from bayesft.samplers.ended import estimate_log_ended, log_ended
from bayesft.samplers.validation import require_count
from bayesft.target import Target

MAX_ENDED_SAMPLES = 1024


def mcmc(
    kernel: Kernel | Sequence[Kernel],
    num_chains: int,
    num_steps: int,
    burn_in: int = 0,
    thin: int = 1,
    initial: Draws | None = None,
) -> MCMC:
    """Equally weighted draws from chains of a kernel that leaves p* invariant.

    A step applies the kernel, or each of several in turn, to all P · `num_chains` chains. After
    `burn_in` steps every `thin`-th of the remaining `num_steps` − `burn_in` states is kept: the
    draws are [P, C·S], chain by chain. They are dependent, and of p* only in the limit, so log_z is
    None. Chains start at samples of the prior that the target allows, or at `initial` draws.

    `info` has `chain_shape` (C, S), by which [P, C·S] reshapes to [P, C, S]; `acceptance` [P] and
    `acceptance_by_kernel` [K, P], the share of moves after the burn-in that led to another
    sequence; and `r_hat` [P], the split R̂ of the log-density (None without arviz_stats).

    Evidence in JAX makes the run one jitted loop; Python evidence is called once per kernel and
    step for all chains. Raises SamplerError for settings out of range, for kernels none of which
    changes the length (unless `initial` is given), and where no start is possible.
    """
    num_steps = require_count("num_steps", num_steps)
    thin = require_count("thin", thin)
    burn_in = checked_count("burn_in", burn_in, SamplerError, least=0)
    if burn_in + thin > num_steps:
        raise SamplerError(
            f"burn_in={burn_in} and thin={thin} leave none of num_steps={num_steps} states.",
            cause="num_steps counts all steps, those of the burn-in included.",
            remedy="use num_steps ≥ burn_in + thin.",
        )
    kernels = require_kernels(kernel)
    if initial is None and not any(each.changes_length for each in kernels):
        names = ", ".join(type(each).__name__ for each in kernels)
        raise SamplerError(
            f"No kernel of ({names}) changes the length of a sequence: the chains cannot reach p*.",
            cause="block Gibbs on its own.",
            remedy="compose it: mcmc([block_gibbs(…), suffix_resampling()], …).",
        )
    return MCMC(
        kernels,
        require_count("num_chains", num_chains),
        num_steps,
        burn_in,
        thin,
        require_initial(initial),
    )


def require_kernels(kernel: Any) -> tuple[Kernel, ...]:
    """One kernel or several as a tuple; raises SamplerError for anything else."""
    kernels = tuple(kernel) if isinstance(kernel, Sequence) else (kernel,)
    if not kernels or not all(isinstance(each, Kernel) for each in kernels):
        raise SamplerError(
            f"kernel={kernel!r} is no kernel.",
            cause="a constructor that was not called, or an empty sequence.",
            remedy="pass bft.samplers.suffix_resampling() or a list of kernels.",
        )
    return kernels


class ChainInfo(NamedTuple):
    """What a step did."""

    moved: Bool[Array, "K P C"]
    """Whether each kernel led to another sequence."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MCMCState:
    """Chains between two steps."""

    target: Target
    kernels: tuple[Kernel, ...]
    chains: Chains
    number: int
    """Steps so far."""


class _Trail(NamedTuple):
    """The kept states, leading with [S], and what goes with them."""

    kept: Chains
    num_moved: Int[Array, "K P C"]
    faults: Faults


@dataclasses.dataclass(frozen=True)
class MCMC(Sampler):
    """See `mcmc`. `init(target, key)` gives the start, `step(key, state)` a step of all chains."""

    kernels: tuple[Kernel, ...]
    num_chains: int
    num_steps: int
    burn_in: int
    thin: int
    initial: Draws | None

    @property
    def claim(self) -> Claim:
        return Claim("another law", "a Markov chain with invariant distribution p*")

    @property
    def num_kept(self) -> int:
        return (self.num_steps - self.burn_in) // self.thin

    def init(self, target: Target, key: Key) -> MCMCState:
        kernels = tuple(kernel.bind(target) for kernel in self.kernels)
        key = jax.random.fold_in(key, 0)
        if self.initial is None:
            chains = possible_samples(target, key, self.num_chains)
        else:
            chains = given_draws(target, key, self.num_chains, self.initial)
        return MCMCState(target, kernels, chains, number=0)

    def step(self, key: Key, state: MCMCState) -> tuple[MCMCState, ChainInfo]:
        """The same key may serve all steps: each folds in its number."""
        keys = _prompt_keys(state.target.xs.id, key)
        chains, faults, moved = self._step(state, keys, Faults.none(state.chains))
        faults.require_none(state.target)
        return dataclasses.replace(state, chains=chains, number=state.number + 1), ChainInfo(moved)

    def run(self, target: Target, key: Key) -> Draws:
        state = self.init(target, key)
        trail = self._with_host(state, key) if target.host_terms else self._in_jax(state, key)
        trail.faults.require_none(target)
        return self._draws(target, key, trail)

    def _step(self, state: MCMCState, keys: Key, faults: Faults):
        moves = _host_step if state.target.host_terms else _device_step
        return moves(
            state.kernels, state.target, state.target.xs, keys, state.number, state.chains, faults
        )

    def _in_jax(self, state: MCMCState, key: Key) -> _Trail:
        target, num_steps = state.target, self.burn_in + self.num_kept * self.thin
        keys = _prompt_keys(target.xs.id, key)
        return _walk_chains(
            state.kernels,
            target,
            target.xs,
            keys,
            state.chains,
            num_steps,
            self.burn_in,
            self.thin,
            num_kept=self.num_kept,
        )

    def _with_host(self, state: MCMCState, key: Key) -> _Trail:
        keys, faults = _prompt_keys(state.target.xs.id, key), Faults.none(state.chains)
        kept, num_moved = [], jnp.int32(0)
        for number in range(self.burn_in + self.num_kept * self.thin):
            chains, faults, moved = self._step(state, keys, faults)
            state = dataclasses.replace(state, chains=chains, number=number + 1)
            if number >= self.burn_in:
                num_moved = num_moved + moved.astype(jnp.int32)
                if (number + 1 - self.burn_in) % self.thin == 0:
                    kept.append(jax.tree.map(np.asarray, chains))
        return _Trail(jax.tree.map(lambda *a: jnp.stack(a), *kept), num_moved, faults)

    def _draws(self, target: Target, key: Key, trail: _Trail) -> Draws:
        num_prompts, num_draws = len(target.prompts), self.num_chains * self.num_kept

        def by_chain(a: Array) -> Array:  # [S, P, C, …] -> [P, C·S, …]
            return jnp.moveaxis(a, 0, 2).reshape(num_prompts, num_draws, *a.shape[3:])

        kept = jax.tree.map(by_chain, trail.kept)
        acceptance = np.asarray(trail.num_moved).mean(-1) / (self.num_kept * self.thin)
        log_density = np.asarray(kept.log_prior + kept.log_evidence, np.float64)
        chain_shape = (self.num_chains, self.num_kept)
        num_samples = min(num_draws, MAX_ENDED_SAMPLES)
        return Draws(
            tokens=kept.tokens,
            lengths=kept.lengths,
            log_weights=jnp.zeros((num_prompts, num_draws)),
            log_prior=kept.log_prior,
            log_evidence=kept.log_evidence,
            log_z=None,
            status=np.full(num_prompts, Status.OK),
            claim=self.claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended(target, lambda: estimate_log_ended(target, key, num_samples)),
            info={
                "chain_shape": chain_shape,
                "acceptance": acceptance.mean(0),
                "acceptance_by_kernel": acceptance,
                "r_hat": r_hat(log_density.reshape(num_prompts, *chain_shape)),
            },
        )


@jax.jit
def _prompt_keys(ids: Int[Array, " P"], key: Key) -> Key:
    """Keys [P] of the moves, apart from those of the start."""
    key = jax.random.fold_in(key, 1)
    return jax.vmap(lambda prompt_id: jax.random.fold_in(key, prompt_id))(ids)


def _steps(move_fn, kernels, target, keys, number, chains, faults):
    """Each kernel in turn; move_fn(kernel, keys, chains, faults)."""
    moved = []
    for k, kernel in enumerate(kernels):
        own = step_keys(keys, number * len(kernels) + k, chains.lengths.shape[1])
        chains, has_moved, faults = move_fn(kernel, own, chains, faults)
        moved.append(has_moved)
    return chains, faults, jnp.stack(moved)


def _one_step(kernels, target, xs, keys, number, chains, faults):
    def move_fn(kernel, own, chains, faults):
        return move(kernel, target, xs, own, chains, faults)

    return _steps(move_fn, kernels, target, keys, number, chains, faults)


_device_step = jax.jit(_one_step)


def _host_step(kernels, target, xs, keys, number, chains, faults):
    def move_fn(kernel, own, chains, faults):
        return move_with_host(kernel, target, own, chains, faults)

    return _steps(move_fn, kernels, target, keys, number, chains, faults)


@partial(jax.jit, static_argnames="num_kept")
def _walk_chains(
    kernels: tuple[Kernel, ...],
    target: Target,
    xs: Prompt,
    keys: Key,
    chains: Chains,
    num_steps: int,
    burn_in: int,
    thin: int,
    num_kept: int,
) -> _Trail:
    """All steps in one loop; the place of a kept state is overwritten until its step has come."""

    def body(number: Array, carry):
        chains, kept, num_moved, faults = carry
        chains, faults, moved = _one_step(kernels, target, xs, keys, number, chains, faults)
        since = number - burn_in
        place = jnp.clip(since // thin, 0, num_kept - 1)
        kept = jax.tree.map(
            lambda all_kept, a: jax.lax.dynamic_update_index_in_dim(all_kept, a, place, 0),
            kept,
            chains,
        )
        return chains, kept, num_moved + (moved & (since >= 0)).astype(jnp.int32), faults

    kept = jax.tree.map(lambda a: jnp.zeros((num_kept, *a.shape), a.dtype), chains)
    num_moved = jnp.zeros((len(kernels), *chains.lengths.shape), jnp.int32)
    carry = (chains, kept, num_moved, Faults.none(chains))
    return _Trail(*jax.lax.fori_loop(0, num_steps, body, carry)[1:])
