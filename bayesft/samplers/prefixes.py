"""Prefix evidence of growing paths: the increment of a token that was drawn, or of every token.

At the horizon's last position a token that does not end the sequence also brings the evidence's
`cut`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import PrefixEvidence, Prompt, PyTree, is_eos
from bayesft.target import Target


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """States of the target's prefix evidence ahead of the token at position t."""

    target: Target
    states: tuple[PyTree, ...]
    """One per prefix evidence, leaves [P, N, ...]."""
    t: Int[Array, ""]
    needed: Bool[Array, "P N"] | None = None
    """Particles whose next token matters; None: all."""

    @classmethod
    def start(cls, target: Target, xs: Prompt, num_particles: int) -> tuple[PyTree, ...]:
        """The states ahead of the first token."""

        def spread(a: Array) -> Array:
            return jnp.broadcast_to(a[:, None], (a.shape[0], num_particles, *a.shape[1:]))

        return tuple(
            jax.tree.map(spread, jax.vmap(evidence.init)(xs))
            for _, evidence in _prefix_terms(target)
        )

    @property
    def last(self) -> Bool[Array, ""]:
        return self.t == self.target.horizon.max_new_tokens - 1

    def step(self, token: Int[Array, "P N"]) -> tuple[tuple[PyTree, ...], Float[Array, "P N"]]:
        """States after a token, and the sum of the scaled increments that it brings."""
        total, after = jnp.zeros(token.shape), []
        is_cut = self.last & ~is_eos(token, self.target.prior.eos)
        for (i, evidence), state in zip(_prefix_terms(self.target), self.states, strict=True):
            state, increment = _batched(token.shape, evidence.step, state, token)
            if _may_cut(evidence):
                cut = _batched(token.shape, evidence.cut, state)
                increment += jnp.where(is_cut, cut, 0.0).astype(increment.dtype)
            total += self.target.terms[i].scaled(increment).astype(total.dtype)
            after.append(state)
        return tuple(after), total

    def every_token(self, shape: tuple[int, ...]) -> Float[Array, "P N V"]:
        """The sum of the scaled increments that a token would bring, -inf where `eos` forbids."""
        vocab_size = self.target.prior.vocab_size
        total = jnp.zeros((*shape, vocab_size))
        is_cut = self.last & ~is_eos(jnp.arange(vocab_size), self.target.prior.eos)
        for (i, evidence), state in zip(_prefix_terms(self.target), self.states, strict=True):
            increments = self._increments(evidence, state, shape)
            total += self.target.terms[i].scaled(increments).astype(total.dtype)
        if self.target.horizon.eos_policy != "condition":
            return total
        return jnp.where(is_cut[None, None], -jnp.inf, total)

    def _increments(
        self, evidence: PrefixEvidence, state: PyTree, shape: tuple[int, ...]
    ) -> Float[Array, "P N V"]:
        vocab_size = self.target.prior.vocab_size

        def anywhere(state: PyTree) -> Array:
            return _batched(shape, lambda s: evidence.increments(s, vocab_size), state)

        if not _may_cut(evidence):
            return anywhere(state)

        def with_cut(state: PyTree, token: Array) -> Array:
            after, increment = evidence.step(state, token)
            ends = is_eos(token, self.target.prior.eos)
            return increment + jnp.where(ends, 0.0, evidence.cut(after))

        def at_the_end(state: PyTree) -> Array:
            tokens = jnp.arange(vocab_size, dtype=jnp.int32)
            return _batched(shape, lambda s: jax.vmap(partial(with_cut, s))(tokens), state)

        return jax.lax.cond(self.last, at_the_end, anywhere, state)


def _prefix_terms(target: Target) -> list[tuple[int, PrefixEvidence]]:
    """Index and evidence of the terms that add an increment at every token."""
    terms = enumerate(target.terms)
    return [(i, t.evidence) for i, t in terms if isinstance(t.evidence, PrefixEvidence)]


def _may_cut(evidence: PrefixEvidence) -> bool:
    return type(evidence).cut is not PrefixEvidence.cut


def _batched(shape: tuple[int, ...], fn: Callable[..., Any], *arguments: PyTree) -> Any:
    """`fn` over prompts and particles; their number is given because a state may have no arrays."""
    over = jax.vmap(jax.vmap(lambda _, *arguments: fn(*arguments)))
    return over(jnp.zeros(shape), *arguments)
