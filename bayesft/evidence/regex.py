"""A regular expression that the text must match, as a table of states on the device."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from bayesft.base import Horizon, PrefixEvidence, Prior, Prompt
from bayesft.errors import EvidenceError
from bayesft.evidence import automaton

type State = tuple[Int[Array, ""], Int[Array, ""]]
"""State of the automaton, and the number of tokens so far."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TextPattern(PrefixEvidence):
    """log φ(y) = 0 where the text of y is in a regular language, -inf where it is not."""

    after: Int[Array, "S V"]
    """The state after each token; 0 is dead."""
    distance: Int[Array, " S"]
    """Tokens to the nearest match, EOS not counted, in ascending order; -1 for the dead state."""
    start: int = dataclasses.field(metadata={"static": True})
    pattern: str = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    num_tokens: int | None = dataclasses.field(default=None, metadata={"static": True})
    """How many tokens may come before EOS, known once a target has bound it."""

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, 0.0

    def init(self, x: Prompt) -> State:
        return jnp.full((), self.start, jnp.int32), jnp.zeros((), jnp.int32)

    def step(self, state: State, token: Int[Array, ""]) -> tuple[State, Float[Array, ""]]:
        before, length = state
        after = self.after[before, token].astype(jnp.int32)
        return (after, length + 1), self._increment(after, length)

    def increments(self, state: State, vocab_size: int) -> Float[Array, " V"]:
        before, length = state
        return self._increment(self.after[before], length)

    def _increment(self, after: Int[Array, "*V"], length: Int[Array, ""]) -> Float[Array, "*V"]:
        possible = after > 0
        if self.num_tokens is not None:
            left = jnp.maximum(self.num_tokens - length - 1, 0)
            possible &= after < jnp.searchsorted(self.distance, left, side="right")
        return jnp.where(possible, 0.0, -jnp.inf)

    def cut(self, state: State) -> Float[Array, ""]:
        return jnp.where(self.distance[state[0]] == 0, 0.0, -jnp.inf)

    def bind(self, prior: Prior, horizon: Horizon, longest_prompt: int) -> TextPattern:
        check_vocabulary(self.name, self.after.shape[1], prior)
        num_tokens = horizon.max_new_tokens - (horizon.eos_policy != "truncate")
        return dataclasses.replace(self, num_tokens=num_tokens)

    def require_satisfiable(self, horizon: Horizon) -> None:
        if isinstance(self.distance, Tracer):
            return
        end = horizon.eos_policy != "truncate"
        needed = int(self.distance[self.start]) + end
        if needed > horizon.max_new_tokens:
            raise EvidenceError(
                f"The shortest match of {self.pattern} has {needed} tokens"
                f"{' with its EOS' if end else ''}; max_new_tokens is {horizon.max_new_tokens}.",
                cause="the horizon is too short for the pattern, so no completion is possible.",
                remedy=f"use max_new_tokens ≥ {needed}, or a pattern with shorter matches.",
            )


def regex(pattern: str, prior: Prior, name: str = "regex") -> TextPattern:
    """Evidence that the whole text of a completion matches a regular expression:

        log φ(y) = 0 where fullmatch(pattern, text of y), else -inf

    in the syntax of Rust's `regex` (Unicode; no look-around, back-references or \\b). The text is
    what `prior` decodes, EOS and other special tokens left out; one that is not valid UTF-8 does
    not match. An increment is -inf as soon as no continuation up to the horizon matches; EOS, and
    the cut by the horizon, are possible only behind a match. The posterior is the prior
    *conditioned* on a match: a sampler that masks and renormalises draws from another distribution,
    unless it weighs.

    The pattern is compiled once into an automaton over tokens, a table [S, V] on the device (two
    bytes an entry), so a step is a look-up (Willard & Louf 2023, arXiv:2307.09702, lifted from
    bytes, so that tokens may hold parts of characters). A bounded repetition behind one that it can
    be confused with, as in `.*a.{20}`, takes exponentially many states, and compiling it does not
    end.

    Raises EvidenceError for a pattern that does not compile, that no tokens can match or that needs
    too large a table, and without the extra `grammar`; a target raises it where the shortest match
    exceeds the horizon. Raises PromptError for a prior whose tokens have no text.
    """
    if not isinstance(pattern, str):
        raise EvidenceError(
            f"A pattern of type {type(pattern).__name__} is no regular expression.",
            cause="a compiled pattern, or bytes.",
            remedy="pass the pattern as a string.",
        )
    return text_pattern(automaton.from_regex(pattern), prior, f"the pattern {pattern!r}", name)


def text_pattern(
    texts: automaton.ByteAutomaton, prior: Prior, pattern: str, name: str
) -> TextPattern:
    """Evidence that the text of a completion is accepted; `pattern` is what errors call it."""
    table, distance, start = automaton.over_tokens(texts, prior.token_bytes(), prior.eos, pattern)
    return TextPattern(jnp.asarray(table), jnp.asarray(distance), start, pattern, name)


def check_vocabulary(name: str, vocab_size: int, prior: Prior) -> None:
    """Refuse a target's prior that is not the one whose tokens the evidence has read."""
    if vocab_size != prior.vocab_size:
        raise EvidenceError(
            f"{name} was made for {vocab_size} tokens; the target's prior has {prior.vocab_size}.",
            cause="evidence on text depends on the tokenizer, and this one is of another model.",
            remedy="pass the target's own prior when the evidence is made.",
        )
