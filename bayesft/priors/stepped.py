"""Priors written for one sequence, lifted to batches of prompts and particles."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Enumerable, Guide, Horizon, Prior, Prompt, PyTree, whole_number
from bayesft.errors import NotEnumerableError, PromptError

MAX_OUTCOMES = 1_000_000


class SteppedPrior(Prior):
    """A prior given by `init` and `step` on one sequence; samplers see it lifted by `vmap`.

    `vocabulary` names the tokens: text is encoded token by token (longest match) and decoded by
    concatenation. Without one, token ids stand for themselves, joined by spaces.
    """

    @abc.abstractmethod
    def init(self, x: Prompt) -> tuple[PyTree, Float[Array, " V"]]:
        """State after the prompt and the logits of the first new token."""

    @abc.abstractmethod
    def step(self, state: PyTree, token: Int[Array, ""]) -> tuple[PyTree, Float[Array, " V"]]:
        """State after one more token and the logits of the next."""

    vocabulary: tuple[str, ...] | None
    """The text of each token, or None."""

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        return jax.tree.map(
            lambda a: jnp.broadcast_to(a[:, None], (a.shape[0], num_particles, *a.shape[1:])),
            jax.vmap(self.init)(xs),
        )

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        return jax.vmap(jax.vmap(self.step))(state, tokens)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return jax.tree.map(lambda a: jax.vmap(lambda row, i: row[i])(a, ancestors), state)

    def token_log_probs(self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon):
        def score(carry, token):
            state, logits = carry
            return self.step(state, token), jax.nn.log_softmax(logits)[token]

        _, log_probs = jax.lax.scan(score, self.init(x), tokens)
        return horizon.finish(log_probs, tokens, self.eos, self.vocab_size)

    def encode(self, prompt: Any) -> list[int]:
        if not isinstance(prompt, str):
            return _check_ids(prompt, self.vocab_size)
        if self.vocabulary is None:
            return _check_ids(prompt.split(), self.vocab_size)
        return encode_greedily(prompt, self.vocabulary)

    def decode(self, tokens: Sequence[int]) -> str:
        kept = [int(token) for token in tokens if int(token) not in self.eos]
        if self.vocabulary is None:
            return " ".join(map(str, kept))
        return "".join(self.vocabulary[token] for token in kept)

    def token_bytes(self) -> Sequence[bytes | None]:
        if self.vocabulary is None:
            return super().token_bytes()
        return [
            None if token in self.eos or not text else text.encode()
            for token, text in enumerate(self.vocabulary)
        ]

    def enumerate(self, max_new_tokens: int) -> Int[np.ndarray, "M T"]:
        num_open = self.vocab_size - len(self.eos)
        count = sum(num_open**t * len(self.eos) for t in range(max_new_tokens))
        if (count := count + num_open**max_new_tokens) > MAX_OUTCOMES:
            raise NotEnumerableError(
                f"{count} sequences of at most {max_new_tokens} tokens are too many to list "
                f"(the limit is {MAX_OUTCOMES}).",
                cause="the vocabulary or max_new_tokens is too large for exact enumeration.",
                remedy="use a smaller max_new_tokens, or a sampler instead of enumeration.",
            )
        others = [token for token in range(self.vocab_size) if token not in self.eos]
        rows = []
        for length in range(max_new_tokens):
            padding = (self.eos[0],) * (max_new_tokens - length - 1)
            for stem in itertools.product(others, repeat=length):
                rows.extend((*stem, end, *padding) for end in self.eos)
        rows.extend(itertools.product(others, repeat=max_new_tokens))
        return np.asarray(rows, np.int32).reshape(-1, max_new_tokens)

    def trainable(self) -> Guide:
        from bayesft.priors.trainable import ParametricGuide

        return ParametricGuide.of(self)


def encode_greedily(text: str, vocabulary: Sequence[str]) -> list[int]:
    """Token ids of a text by longest match from the left."""
    longest = sorted((v for v in enumerate(vocabulary) if v[1]), key=lambda v: -len(v[1]))
    ids, at = [], 0
    while at < len(text):
        match = next((v for v in longest if text.startswith(v[1], at)), None)
        if match is None:
            raise PromptError(
                f"The text {text!r} cannot be written in the prior's vocabulary at position {at} "
                f"({text[at]!r}).",
                cause="a character that the prior was not declared or fitted with.",
                remedy="use only text made of the prior's tokens.",
            )
        ids.append(match[0])
        at += len(match[1])
    return ids


def _check_ids(prompt: Any, vocab_size: int) -> list[int]:
    try:
        ids = [int(t) if isinstance(t, str) else whole_number(t) for t in prompt]
    except (TypeError, ValueError):
        ids = [None]
    found = [token for token in ids if token is not None and 0 <= token < vocab_size]
    if len(found) < len(ids):
        raise PromptError(
            f"The prompt {prompt!r} is not a list of token ids below {vocab_size}.",
            cause="this prior has no tokenizer for text of this form.",
            remedy="give token ids, or a prior with a vocabulary.",
        )
    return found


def enumerate_sequences(prior: Prior, horizon: Horizon) -> Int[np.ndarray, "M T"]:
    """The outcomes of a prior up to a horizon; under `force` only those that end."""
    if not isinstance(prior, Enumerable):
        raise NotEnumerableError(
            f"{type(prior).__name__} cannot list its sequences.",
            cause="exact enumeration was asked of a prior that is not `Enumerable`.",
            remedy="use a sampler, or a small prior such as bft.priors.markov.",
        )
    rows = prior.enumerate(horizon.max_new_tokens)
    if horizon.eos_policy != "force":
        return rows
    rows = rows.copy()
    ended_before = np.isin(rows[:, :-1], prior.eos).any(-1)
    rows[~ended_before, -1] = prior.eos[0]
    return np.unique(rows, axis=0)
