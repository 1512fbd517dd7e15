"""Where the next token comes from: the models that run in step, and the ratio they weigh it by."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Key, Prior, Prompt, PyTree
from bayesft.errors import SamplerError
from bayesft.priors.sequence import BoundGuide, bind, inverse_cdf
from bayesft.priors.validation import require_stand_in
from bayesft.samplers.prefixes import Prefixes
from bayesft.sharding import gathered
from bayesft.target import Target


class TokenRandomness(NamedTuple):
    """Random numbers for the token at one position."""

    uniforms: Float[Array, "P N"]
    keys: Key
    """[P], for proposers that need more than one uniform per particle."""


class Choice(NamedTuple):
    """One more token for every particle."""

    token: Int[Array, "P N"]
    log_prior: Float[Array, "P N"]
    """log π0(token | prefix)."""
    log_ratio: Float[Array, "P N"]
    """log π0(token | prefix) − log q(token | prefix), the model part of the log-weight; -inf where
    nothing can be proposed."""
    log_twist: Float[Array, "P N"] | None = None
    """log ψ of the prefix and the token, where there is a twist."""
    missing: Float[Array, "P N"] | None = None
    """Prior mass of the next tokens that the proposal cannot draw, where that is looked at."""


class Proposer(abc.ABC):
    """One or several models that advance together; a pytree whose leaves are their arrays.

    `logits` is whatever `choose` needs of them, leading with [P, N].
    """

    @abc.abstractmethod
    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int) -> tuple[PyTree, PyTree]:
        """States after the prompts and the logits of the first new token."""

    @abc.abstractmethod
    def advance(self, state: PyTree, tokens: Int[Array, "P N"]) -> tuple[PyTree, PyTree]:
        """States after one more token of each particle and the logits of the next."""

    @abc.abstractmethod
    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        """States in which particle n continues what particle ancestors[n] was."""

    @abc.abstractmethod
    def choose(self, random: TokenRandomness, logits: PyTree, prefixes: Prefixes) -> Choice:
        """The token at position `prefixes.t`."""


class Proposal(abc.ABC):
    """A way to propose that is declared before the target is known; a pytree."""

    @abc.abstractmethod
    def proposer(self, target: Target) -> Proposer:
        """The proposer for a target; raises SamplerError where it does not fit."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromPrior(Proposer):
    """Tokens are drawn from the prior: one model runs, and its part of the weight is exactly 0."""

    prior: Prior

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        return self.prior.start(xs, num_particles, max_new_tokens)

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        return self.prior.advance(state, tokens)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return self.prior.reorder(state, ancestors)

    def choose(self, random, logits, prefixes):
        token, log_prior = inverse_cdf(random.uniforms, constrained(logits, prefixes))
        return Choice(token, log_prior, jnp.zeros_like(log_prior))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromGuide(Proposer):
    """Tokens are drawn from a guide (or another prior) and weighed by the prior beside it."""

    prior: Prior
    guide: Prior

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        prior, prior_logits = self.prior.start(xs, num_particles, max_new_tokens)
        guide, guide_logits = self.guide.start(xs, num_particles, max_new_tokens)
        return (prior, guide), (prior_logits, guide_logits)

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        prior, prior_logits = self.prior.advance(state[0], tokens)
        guide, guide_logits = self.guide.advance(state[1], tokens)
        return (prior, guide), (prior_logits, guide_logits)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return (
            self.prior.reorder(state[0], ancestors),
            self.guide.reorder(state[1], ancestors),
        )

    def choose(self, random, logits, prefixes):
        prior, guide = (constrained(each, prefixes) for each in logits)
        token, log_proposal = inverse_cdf(random.uniforms, guide)
        log_prior = log_prob_of(token, prior)
        missing = missing_mass(prior, guide, prefixes)
        return Choice(token, log_prior, log_prior - log_proposal, missing=missing)


def constrained(logits: Float[Array, "P N V"], prefixes: Prefixes) -> Float[Array, "P N V"]:
    """Logits under the target's EOS policy, wide enough to add up hundreds of log-probs."""
    target = prefixes.target
    return target.horizon.constrain(_wide(logits), prefixes.t, target.prior.eos)


def log_prob_of(token: Int[Array, "P N"], logits: Float[Array, "P N V"]) -> Float[Array, "P N"]:
    """Normalised log-prob of the tokens."""
    chosen = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def missing_mass(
    prior: Float[Array, "P N V"], guide: Float[Array, "P N V"], prefixes: Prefixes
) -> Float[Array, "P N"]:
    """Prior mass of the next tokens that a guide cannot draw although the evidence allows them.

    A guide that gives every token a chance, as models with a softmax do, costs one look.
    """

    def look(prior: Array, guide: Array) -> Array:
        lost = (guide == -jnp.inf) & (prefixes.every_token(guide.shape[:2]) > -jnp.inf)
        return jnp.where(lost, jax.nn.softmax(prior), 0.0).sum(-1)

    def nothing(prior: Array, guide: Array) -> Array:
        return jnp.zeros(prior.shape[:2], prior.dtype)

    return jax.lax.cond((guide == -jnp.inf).any(), look, nothing, prior, guide)


def _wide(logits: Array) -> Array:
    """At least float32: weights add up hundreds of log-probs."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def require_proposal(proposal: Any) -> Prior | BoundGuide | Proposal | None:
    """The proposal, if it can be one; raises SamplerError for anything else."""
    if not isinstance(proposal, Prior | BoundGuide | Proposal | None):
        raise SamplerError(
            f"A {type(proposal).__name__} cannot propose sequences.",
            cause="a whole fit, a target or a function was passed as proposal.",
            remedy="pass a prior or a guide (`fitted.guide`, bft.lm.lora(…)), a proposal such as "
            "bft.samplers.locally_optimal(), or None.",
        )
    return proposal


def prepared(proposer: Proposer) -> Proposer:
    """The same proposer ahead of a loop over tokens: see `Prior.prepared`."""

    def is_prior(part: PyTree) -> bool:
        return isinstance(part, Prior)

    def prepare(part: PyTree) -> PyTree:
        return part.prepared() if is_prior(part) else gathered(part)

    return jax.tree.map(prepare, proposer, is_leaf=is_prior)


def proposer(target: Target, proposal: Prior | BoundGuide | Proposal | None) -> Proposer:
    """The proposer of a sampler's `proposal` argument; None means the prior itself."""
    if isinstance(proposal, Proposal):
        return proposal.proposer(target)
    guide = fitting_guide(target, proposal)
    return FromPrior(target.prior) if guide is None else FromGuide(target.prior, guide)


def fitting_guide(target: Target, proposal: Prior | BoundGuide | None) -> Prior | None:
    """The model that proposes beside the target's prior; None where it is the prior itself.

    A proposal runs up to the target's horizon, under `condition` as under `truncate`. Raises
    SamplerError where it is of another vocabulary, bound to another horizon, or its context is too
    short.
    """
    if isinstance(proposal, BoundGuide):
        if proposal.horizon != bind(proposal.guide, target.horizon).horizon:
            raise SamplerError(
                f"The proposal is bound to {proposal.horizon}, the target has {target.horizon}.",
                cause="the guide was fitted to a target with another horizon or EOS policy.",
                remedy="pass the guide itself (`bound.guide`) to bind it to this target.",
            )
        proposal = proposal.guide
    if proposal is None or proposal is target.prior:
        return None
    require_stand_in("The proposal", proposal, target, SamplerError)
    return proposal
