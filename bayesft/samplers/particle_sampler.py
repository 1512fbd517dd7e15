"""The sampler behind `importance` and `smc`: segments of token steps with host calls between."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Claim, Key, Prior, Sampler
from bayesft.draws import Draws, Status, effective_sample_size, log_mean_exp
from bayesft.errors import SamplerError, SupportWarning
from bayesft.priors.sequence import BoundGuide
from bayesft.samplers import sequential
from bayesft.samplers.ended import estimate_log_ended, log_ended
from bayesft.samplers.particles import Particles
from bayesft.samplers.proposers import FromPrior, Proposal, Proposer, proposer
from bayesft.samplers.sequential import Randomness, ResamplingRule, Schedule
from bayesft.samplers.tilted import TiltedProposal
from bayesft.samplers.validation import require_log_densities, require_twists
from bayesft.samplers.whole import on_host, whole_terms
from bayesft.sharding import require_split
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SMCState:
    """Particles between two segments: what the next one needs."""

    target: Target
    particles: Particles
    schedule: Schedule
    stop: int
    """Number of tokens at which the last segment ended."""
    finished: bool
    """Whether every sequence has ended or has weight 0, and all evidence is in the weights."""


class SegmentInfo(NamedTuple):
    """What is known at the end of a segment."""

    ess: Float[Array, " P"]
    num_resamples: Int[Array, " P"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParticleSampler(Sampler):
    """Particles that propose token by token, resampled by `rule` or never.

    See `importance`, `smc` and `twisted`, which make one.

    `init(target, key)` gives particles with one token, `step(key, state)` one segment of `every`
    tokens (all of them for None) with the evidence on whole sequences brought up to date, and
    `finish(key, state)` the draws; `run` does all three. The same key may serve all of them.
    """

    num_particles: int = dataclasses.field(metadata={"static": True})
    proposal: Prior | BoundGuide | Proposal | None = None
    rule: ResamplingRule | None = None
    every: int | None = dataclasses.field(default=None, metadata={"static": True})
    delimiter: str | tuple[int, ...] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    looks_ahead: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def claim(self) -> Claim:
        return Claim("proper weights", "E[mean weight · weighted mean of f] = Z·E_p*[f]")

    def init(self, target: Target, key: Key) -> SMCState:
        proposing, random = self.parts(target, key)
        schedule = self._schedule(target)
        arguments = target, proposing, schedule, target.xs, random
        particles = sequential.start(*arguments, staged=True)
        return SMCState(target, particles, schedule, stop=0, finished=False)

    def step(self, key: Key, state: SMCState) -> tuple[SMCState, SegmentInfo]:
        return self._segment(key, state, in_place=False)

    def finish(self, key: Key, state: SMCState, history: Sequence[SegmentInfo] = ()) -> Draws:
        """The draws of a finished state; `history` only goes into their `info`.

        Raises SamplerError for a state that is not finished, EvidenceError where evidence was NaN
        or +inf.
        """
        if not state.finished:
            raise SamplerError(
                f"The particles have not been stepped to their end (stopped at {state.stop}).",
                cause="finish was called before state.finished.",
                remedy="call step until state.finished, or call run.",
            )
        target, particles = state.target, state.particles
        paths = particles.paths
        totals = _totals(particles.log_weights, particles.log_z, paths.log_evidence)
        self._require_numbers(target, particles, totals)
        return Draws(
            tokens=paths.tokens,
            lengths=paths.lengths,
            log_weights=totals.log_weights,
            log_prior=paths.log_prior,
            log_evidence=totals.log_evidence,
            log_z=totals.log_z,
            status=np.where(np.asarray(totals.dead), Status.ALL_DEAD, Status.OK),
            claim=self.claim,
            prompts=target.prompts.prompts,
            decode=target.prior.decode,
            log_ended=log_ended(target, lambda: self._log_ended(key, state)),
            info=self._info(particles, history),
        )

    def run(self, target: Target, key: Key) -> Draws:
        state, history = self.init(target, key), []
        while not state.finished:
            state, info = self._segment(key, state, in_place=True)
            history.append(info)
        return self.finish(key, state, history)

    def _segment(
        self, key: Key, state: SMCState, *, in_place: bool
    ) -> tuple[SMCState, SegmentInfo]:
        advance, weigh = sequential.advance, sequential.weigh
        if in_place:
            advance, weigh = sequential.advance_in_place, sequential.weigh_in_place
        target, num_tokens = state.target, state.target.horizon.max_new_tokens
        stop = min(state.stop + (self.every or num_tokens), num_tokens)
        proposing, random = self.parts(target, key)
        schedule = state.schedule
        onward = partial(advance, target, proposing, schedule, random)
        particles = sequential.in_stages(onward, state.particles, stop, in_place=in_place)
        stop = int(particles.t)
        if whole_terms(target):
            values = on_host(target, schedule, particles)
            particles = weigh(target, schedule, target.xs, particles, values)
        info = _segment_info(particles.log_weights, particles.num_resamples)
        finished = stop == num_tokens or not particles.active.any()
        return SMCState(target, particles, schedule, stop, bool(finished)), info

    def _require_numbers(self, target: Target, particles: Particles, totals: _Totals) -> None:
        paths = particles.paths
        require_log_densities(target, paths.log_prior, totals.log_evidence, paths.log_prior)
        if isinstance(self.proposal, TiltedProposal) and self.proposal.twist is not None:
            require_twists(self.proposal.twist, totals.log_weights)
        require_log_densities(target, paths.log_prior, totals.log_evidence, totals.log_weights)

    def _schedule(self, target: Target) -> Schedule:
        delimiters = None
        if self.delimiter is not None and whole_terms(target):
            delimiters = _delimiters(target.prior, self.delimiter)
        return Schedule(self.rule, delimiters, self.looks_ahead)

    def parts(self, target: Target, key: Key) -> tuple[Proposer, Randomness]:
        """What the loop in `sequential` runs on."""
        num_tokens = target.horizon.max_new_tokens
        require_split(len(target.prompts), self.num_particles, "particles")
        random = sequential.randomness(target.xs.id, key, self.num_particles, num_tokens)
        return proposer(target, self.proposal), random

    def _info(self, particles: Particles, segments: Sequence[SegmentInfo]) -> dict[str, Any]:
        info: dict[str, Any] = {"missing_support": _missing_support(particles)}
        if particles.history is None:
            return info
        return info | {
            "num_resamples": particles.num_resamples,
            "ess": np.stack([np.asarray(s.ess) for s in segments]) if segments else None,
            "ancestors": particles.history.ancestors,
            "history": particles.history,
        }

    def _log_ended(self, key: Key, state: SMCState) -> Float[Array, " P"]:
        """Estimated from the draws themselves where they are plain samples of the prior."""
        target = state.target
        plain = type(proposer(target, self.proposal)) is FromPrior
        of_prior = plain and state.schedule.rule is None
        if of_prior and len(whole_terms(target)) == len(target.terms):  # none has stopped short
            return jnp.log(state.particles.paths.done.mean(-1))
        return estimate_log_ended(target, key, self.num_particles)


def _missing_support(particles: Particles) -> Float[np.ndarray, " P"]:
    """Share of the prior's mass that the proposal cannot draw, as far as the particles saw."""
    missing = -np.expm1(np.asarray(particles.log_covered))
    if (worst := missing.max()) > 0:
        warnings.warn(
            f"The proposal gives probability 0 to next tokens that hold {worst:.2g} of the prior's "
            "mass on the paths seen (prompt "
            f"{int(missing.argmax())}): draws and log Z leave that part of the target out.",
            SupportWarning,
            stacklevel=2,
        )
    return missing


def _delimiters(prior: Prior, delimiter: str | tuple[int, ...]) -> Bool[Array, " V"]:
    """Which tokens are delimiters, or write one."""
    if isinstance(delimiter, str):
        text = delimiter.encode()
        marks = [token is not None and text in token for token in prior.token_bytes()]
    else:
        marks = np.isin(np.arange(prior.vocab_size), delimiter)
    if not any(marks):
        raise SamplerError(
            f"No token writes the delimiter {delimiter!r}.",
            cause="a delimiter that takes several tokens, or an id outside the vocabulary.",
            remedy="choose a text that lies within one token, such as a full stop.",
        )
    return jnp.asarray(marks)


class _Totals(NamedTuple):
    log_weights: Float[Array, "P N"]
    log_evidence: Float[Array, "P N"]
    log_z: Float[Array, " P"]
    dead: Bool[Array, " P"]


# These take arrays, not the particles, whose structure would be traced anew for every target.
@jax.jit
def _totals(log_weights: Array, log_z: Array, log_evidence: Array) -> _Totals:
    dead = log_weights == -jnp.inf
    return _Totals(
        log_weights=log_weights + log_z[:, None],
        # Evidence is not asked any more once a draw is impossible.
        log_evidence=jnp.where(dead, -jnp.inf, log_evidence),
        log_z=log_z + log_mean_exp(log_weights),
        dead=dead.all(-1),
    )


@jax.jit
def _segment_info(log_weights: Array, num_resamples: Array) -> SegmentInfo:
    """Copies, because the next segment may overwrite the particles."""
    return SegmentInfo(effective_sample_size(log_weights), jnp.copy(num_resamples))
