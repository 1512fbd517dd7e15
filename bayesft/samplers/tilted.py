"""Proposals that look one token ahead: locally optimal ones, and those that follow a twist."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import (
    Prior,
    Prompt,
    PyTree,
    ShowsHidden,
    SteppedTwist,
    Twist,
    TwistHead,
    is_eos,
)
from bayesft.errors import SamplerError
from bayesft.priors.sequence import BoundGuide, inverse_cdf
from bayesft.priors.validation import require_context
from bayesft.samplers.proposers import (
    Choice,
    Proposal,
    Proposer,
    constrained,
    fitting_guide,
    log_prob_of,
    missing_mass,
    require_proposal,
)
from bayesft.samplers.whole import whole_terms
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tilted(Proposer):
    """q(v) ∝ base(v)·φ(v | prefix)·ψ(prefix, v), normalised; base is the guide, or else the prior.

    States and logits are triples: of the prior, the guide and the twist, None for what is absent.
    """

    prior: Prior
    guide: Prior | None = None
    twist: Twist | None = None

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        size = num_particles, max_new_tokens
        guide = (None, None) if self.guide is None else self.guide.start(xs, *size)
        if isinstance(self.twist, TwistHead) and isinstance(self.prior, ShowsHidden):
            state, logits, hidden = self.prior.start_hidden(xs, *size)
            return _triples((state, logits), guide, (None, self.twist.read(hidden)))
        twist = (
            self.twist.start(xs, *size) if isinstance(self.twist, SteppedTwist) else (None, None)
        )
        return _triples(self.prior.start(xs, *size), guide, twist)

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        guide = (None, None) if self.guide is None else self.guide.advance(state[1], tokens)
        if isinstance(self.twist, TwistHead) and isinstance(self.prior, ShowsHidden):
            after, logits, hidden = self.prior.advance_hidden(state[0], tokens)
            return _triples((after, logits), guide, (None, self.twist.read(hidden)))
        twist = (None, None)
        if isinstance(self.twist, SteppedTwist):
            twist = self.twist.advance(state[2], tokens)
        return _triples(self.prior.advance(state[0], tokens), guide, twist)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        prior, guide, twist = state
        if self.guide is not None:
            guide = self.guide.reorder(guide, ancestors)
        if isinstance(self.twist, SteppedTwist):
            twist = self.twist.reorder(twist, ancestors)
        return self.prior.reorder(prior, ancestors), guide, twist

    def choose(self, random, logits, prefixes):
        prior = constrained(logits[0], prefixes)
        base = prior if self.guide is None else constrained(logits[1], prefixes)
        log_twists = None if logits[2] is None else logits[2].astype(base.dtype)
        if log_twists is not None and not whole_terms(prefixes.target):
            # All evidence is in the weight of what is finished, and ψ ≡ 1 there.
            ends = is_eos(jnp.arange(base.shape[-1]), prefixes.target.prior.eos) | prefixes.last
            log_twists = jnp.where(ends[None, None], 0.0, log_twists)
        tilted = base + prefixes.every_token(base.shape[:2])
        if log_twists is not None:
            tilted += log_twists
        # Where nothing is possible any more, any token will do: its weight is 0.
        impossible = (tilted == -jnp.inf).all(-1)
        tilted = jnp.where(impossible[..., None], base, tilted)
        token, log_proposal = inverse_cdf(random.uniforms, tilted)
        log_prior = log_prob_of(token, prior)
        log_ratio = jnp.where(impossible, -jnp.inf, log_prior - log_proposal)
        log_twist = None if log_twists is None else _at(token, log_twists)
        missing = None if self.guide is None else missing_mass(prior, base, prefixes)
        return Choice(token, log_prior, log_ratio, log_twist, missing)


def _triples(prior: tuple, guide: tuple, twist: tuple) -> tuple[PyTree, PyTree]:
    """States and logits of three (state, logits)."""
    return (prior[0], guide[0], twist[0]), (prior[1], guide[1], twist[1])


def _at(token: Int[Array, "P N"], values: Float[Array, "P N V"]) -> Float[Array, "P N"]:
    return jnp.take_along_axis(values, token[..., None], -1)[..., 0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TiltedProposal(Proposal):
    """See `locally_optimal` and `twisted`."""

    guide: Prior | BoundGuide | None = None
    twist: Twist | None = None

    def proposer(self, target: Target) -> Tilted:
        prior = target.prior
        if isinstance(self.twist, TwistHead) and not isinstance(prior, ShowsHidden):
            raise SamplerError(
                f"The twist reads hidden states, and a {type(prior).__name__} shows none.",
                cause="a twist head on a prior that is not a language model.",
                remedy="use a twist with a state of its own, such as bft.twists.model.",
            )
        if self.twist is not None:
            _require_vocabulary(self.twist, target)
            require_context("The twist", self.twist, target, SamplerError)
        return Tilted(prior, fitting_guide(target, self.guide), self.twist)


def _require_vocabulary(twist: Twist, target: Target) -> None:
    vocab_size = target.prior.vocab_size
    try:
        if isinstance(twist, TwistHead):
            size = target.prior.hidden_size  # pyright: ignore[reportAttributeAccessIssue]
            hidden = jax.ShapeDtypeStruct((size,), jnp.float32)
            found = jax.eval_shape(twist.read, hidden).shape[-1]
        elif isinstance(twist, SteppedTwist):
            size = target.horizon.max_new_tokens
            start = jax.eval_shape(lambda xs: twist.start(xs, 1, size), target.xs)
            found = start[1].shape[-1]
        else:
            return
    except TypeError:  # sizes that cannot be multiplied
        found = None
    if found != vocab_size:
        raise SamplerError(
            f"The twist has log ψ of {found} tokens, the prior has {vocab_size}.",
            cause="a twist for another model: its vocabulary or hidden size differs.",
            remedy="make it from target.prior.",
        )


def locally_optimal(guide: Prior | BoundGuide | None = None) -> TiltedProposal:
    """The proposal q(v) ∝ π0(v | prefix)·φ_t(v)/φ_{t-1}, which weighs all next tokens the same:

        w_t = w_{t-1} · Σ_v π0(v | prefix)·φ_t(prefix, v)/φ_{t-1}(prefix)

    whatever is drawn (Doucet, Godsill and Andrieu 2000). φ is the target's prefix evidence; with a
    `guide`, q(v) ∝ guide(v | prefix)·φ_t(v)/φ_{t-1} instead. Evidence on whole sequences enters as
    in `smc`. A token costs the increments of all V tokens. Goes where samplers take a `proposal`.

    Raises SamplerError for a guide that cannot propose.
    """
    if isinstance(guide, Proposal):
        raise SamplerError(
            "A locally optimal proposal starts from a prior or a guide, not from a proposal.",
            cause="one proposal was put into another.",
            remedy="pass a guide, or nothing for the prior.",
        )
    require_proposal(guide)
    return TiltedProposal(guide)
