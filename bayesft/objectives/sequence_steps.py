"""Sequences of tokens as growing paths: a guide proposes, the target's prefixes weigh."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Potential, Prompt, PyTree, is_eos
from bayesft.errors import GuideError, TargetError
from bayesft.priors.sequence import SequenceDistribution
from bayesft.program import Steps
from bayesft.samplers.prefixes import Prefixes
from bayesft.target import Target


class _Prefix(NamedTuple):
    """One sequence so far: its models and their next logits, evidence, and tokens."""

    guide: tuple[PyTree, Float[Array, "1 1 V"]]
    prior: tuple[PyTree, Float[Array, "1 1 V"]]
    evidence: tuple[PyTree, ...]
    tokens: Int[Array, " T"]
    done: Bool[Array, ""]


def sequence_steps(q: SequenceDistribution, target: Target, x: Prompt) -> Steps:
    """γ_t(y_1:t) = π0(y_1:t | x)·φ_t(y_1:t, x), proposed by q token by token.

    φ_t has the increments of prefix evidence so far, and evidence in JAX on whole sequences where
    the sequence is one, ended or cut; an ended sequence stays as it is. The path is its tokens [T].
    Both models run in step with their particles, so gradients take the memory of T decoding states.

    Raises GuideError for a q that is not drawn token by token, TargetError for evidence in Python,
    which needs the host.
    """
    if not isinstance(q, SequenceDistribution):
        raise GuideError(
            f"{type(q).__name__} does not propose token by token.",
            cause="a guide whose draws are whole values, such as a numpyro distribution.",
            remedy="use a guide of sequences (bft.trainable, bft.lm.lora), give the guide a method "
            "steps(target, x) that returns bft.distributions.Steps, or minimise iwae.",
        )
    if target.host_terms:
        raise TargetError(
            f"The evidence {target.host_terms[0].evidence.name} is in Python, and particles are "
            "weighed inside a loop.",
            cause="the host is called once for all lanes, before a gradient step.",
            remedy="write it in JAX (bft.evidence.prefix_potential, potential), or use iwae.",
        )
    horizon, eos, num_tokens = q.horizon, target.prior.eos, q.horizon.max_new_tokens
    xs = jax.tree.map(lambda a: a[None], x)
    only_eos = jnp.where(jnp.arange(target.prior.vocab_size) == eos[0], 0.0, -jnp.inf)

    def logits_of(model: tuple[PyTree, Array], t: Array, done: Array) -> Float[Array, " V"]:
        logits = horizon.constrain(model[1][0, 0].astype(jnp.float32), t, eos)
        return jnp.where(done, only_eos, logits)

    def propose(prefix: _Prefix, t: Int[Array, ""]) -> Any:
        return dist.Categorical(logits=logits_of(prefix.guide, t, prefix.done))

    def extend(
        prefix: _Prefix, token: Int[Array, ""], t: Int[Array, ""]
    ) -> tuple[_Prefix, Float[Array, ""]]:
        log_prior = jax.nn.log_softmax(logits_of(prefix.prior, t, prefix.done))[token]
        row = token[None, None]
        evidence, increment = Prefixes(target, prefix.evidence, t).step(row)
        tokens = prefix.tokens.at[t].set(token)
        done = prefix.done | is_eos(token, eos)
        whole = _log_potential(target, tokens, x, t + 1)
        increment = increment[0, 0] + jnp.where(done | (t == num_tokens - 1), whole, 0.0)
        after = _Prefix(
            q.prior.advance(prefix.guide[0], row),
            target.prior.advance(prefix.prior[0], row),
            evidence,
            tokens,
            done,
        )
        return after, log_prior + jnp.where(prefix.done, 0.0, increment)

    initial = _Prefix(
        q.prior.start(xs, 1, num_tokens),
        target.prior.start(xs, 1, num_tokens),
        Prefixes.start(target, xs, 1),
        jnp.full(num_tokens, eos[0], jnp.int32),
        jnp.zeros((), bool),
    )
    return Steps(num_tokens, initial, propose, extend)


def _log_potential(
    target: Target, tokens: Int[Array, " T"], x: Prompt, length: Int[Array, ""]
) -> Float[Array, ""]:
    """The evidence on whole sequences, in nats."""
    total = jnp.zeros(())
    for term in target.terms:
        if isinstance(term.evidence, Potential):
            total += term.scaled(term.evidence.log_potential(tokens, x, length))
    return total
