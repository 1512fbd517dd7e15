"""Distributions, priors and guides."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base.sequences import Horizon, Prompt
from bayesft.errors import PromptError
from bayesft.sharding import gathered

type PyTree = Any
type Key = jax.Array


def is_key(value: Any) -> bool:
    """Whether it is a single typed key."""
    is_typed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return is_typed and value.shape == ()


@runtime_checkable
class Distribution(Protocol):
    """Anything that `draw` accepts, numpyro's distributions among them: normalised, in nats."""

    def sample(self, key: Key) -> PyTree: ...

    def log_prob(self, value: PyTree) -> Array: ...


@runtime_checkable
class TokenDistribution(Distribution, Protocol):
    """A distribution over sequences: its log-prob comes as one number per token, 0 on padding."""

    def token_log_probs(self, value: Int[Array, " T"]) -> Float[Array, " T"]: ...

    def sample_and_token_log_probs(
        self, key: Key
    ) -> tuple[Int[Array, " T"], Float[Array, " T"]]: ...


@runtime_checkable
class Proposable(TokenDistribution, Protocol):
    """A distribution over sequences of some prior, which another one may stand in for."""

    def proposed_by(self, proposal: Callable[[Any], Prior]) -> TokenDistribution:
        """The distribution over the sequences of `proposal(prior)` instead."""
        ...


class Prior(abc.ABC):
    """Normalised distribution over token sequences given a prompt, a pytree of arrays.

    Samplers see the batched form below: states and logits lead with [P, N]. `SteppedPrior` (in
    `bayesft.priors`) lifts a prior written for one sequence to it.
    """

    vocab_size: int
    """V."""
    eos: tuple[int, ...]
    """The tokens that end a sequence; the first one is also the padding."""
    reads_soft: bool = False
    """Whether `Prompt.soft` is read; a guide that does not read it refuses such prompts."""

    @property
    def max_length(self) -> int | None:
        """Longest prompt plus completion in tokens, or None where there is no limit."""
        return None

    @abc.abstractmethod
    def start(
        self, xs: Prompt, num_particles: int, max_new_tokens: int
    ) -> tuple[PyTree, Float[Array, "P N V"]]:
        """State after the prompts and the logits of the first new token."""

    @abc.abstractmethod
    def advance(
        self, state: PyTree, tokens: Int[Array, "P N"]
    ) -> tuple[PyTree, Float[Array, "P N V"]]:
        """State after one more token of each particle and the logits of the next."""

    @abc.abstractmethod
    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        """State in which particle n of prompt p continues what particle ancestors[p, n] was."""

    def prepared(self) -> Prior:
        """The same prior ahead of a loop over tokens: what no step changes is computed once."""
        return gathered(self)

    @abc.abstractmethod
    def token_log_probs(
        self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon
    ) -> Float[Array, " T"]:
        """Teacher-forced log-probs of one completion; they sum to its log-prob.

        0 on padding, -inf where an id is outside the vocabulary: `horizon.finish` sees to both.
        """

    def token_logits(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, "T V"]:
        """Teacher-forced: row t holds the logits that token t is drawn from, without a horizon."""

        def step(carry, token):
            state, logits = carry
            return self.advance(state, token[None, None]), logits[0, 0]

        xs = jax.tree.map(lambda a: a[None], x)
        _, logits = jax.lax.scan(step, self.start(xs, 1, tokens.shape[0]), tokens)
        return logits

    @abc.abstractmethod
    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt (text, or chat messages where the prior knows a template)."""

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a text that continues a prompt: no BOS in front, no EOS at the end."""
        return self.encode(text)

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def token_bytes(self) -> Sequence[bytes | None]:
        """What each token writes, in UTF-8 bytes: a completion's text is their concatenation.

        None for special tokens, EOS among them. Raises PromptError for a prior without text.
        """
        raise PromptError(
            f"{type(self).__name__} does not say what its tokens write.",
            cause="evidence on text needs a prior with a tokenizer or a vocabulary.",
            remedy="load the model with its tokenizer, or give the prior a vocabulary.",
        )

    @abc.abstractmethod
    def trainable(self) -> Guide:
        """A guide that starts as this prior, all of its parameters trainable."""


class Guide(Prior):
    """A prior with trainable parameters: `params` holds the arrays that gradients are taken for."""

    params: PyTree
    """Trainable arrays only."""

    @abc.abstractmethod
    def with_params(self, params: PyTree) -> Guide:
        """The same guide with other parameters."""

    def trainable(self) -> Guide:
        return self


@runtime_checkable
class Enumerable(Protocol):
    """A prior whose sequences can be listed."""

    def enumerate(self, max_new_tokens: int) -> Int[np.ndarray, "M T"]:
        """Every sequence that ends by EOS within T tokens or is cut there, padded with EOS."""
        ...
