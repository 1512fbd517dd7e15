"""Given completions: the target of maximum likelihood, and a prior where a vocabulary is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Horizon, Observation, Prior, Prompt, checked_count
from bayesft.errors import PromptError, TargetError
from bayesft.priors import corpus
from bayesft.priors.stepped import SteppedPrior
from bayesft.prompts import PromptSet


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstrations:
    """Completions and their prompts as they were given; equal only to itself, so static in jit."""

    completions: list[Any]
    prompts: list[Any] | None
    max_new_tokens: int | None

    def __repr__(self) -> str:
        return f"<{len(self.completions)} completions>"


@dataclasses.dataclass(frozen=True)
class Empirical:
    """The law of given completions; `fit` binds it to the tokenizer of the guide it trains."""

    data: Demonstrations = dataclasses.field(metadata={"static": True})

    def bind(self, prior: Prior) -> BoundEmpirical:
        """The completions as token ids of a prior, one row each, ended by EOS or cut."""
        data = self.data
        prompts = PromptSet(prior, data.prompts or [""] * len(data.completions))
        rows = [
            corpus.end(
                prior.encode_completion(row) if isinstance(row, str) else row,
                index,
                prior.vocab_size,
                prior.eos,
            )
            for index, row in enumerate(data.completions)
        ]
        num_tokens = min(max(map(len, rows)), data.max_new_tokens or max(map(len, rows)))
        needed = max(
            length + min(len(row), num_tokens)
            for length, row in zip(prompts.xs.length.tolist(), rows, strict=True)
        )
        if prior.max_length is not None and needed > prior.max_length:
            raise PromptError(
                f"The longest prompt and completion together need {needed} positions; the model "
                f"has {prior.max_length}.",
                cause="texts longer than the model's context.",
                remedy="pass max_new_tokens= to cut completions, or split the texts.",
            )
        return BoundEmpirical(prompts, corpus.pad(rows, num_tokens, prior.eos[0]))


@jax.tree_util.register_pytree_node_class
class BoundEmpirical:
    """Completions under one tokenizer: what `fit` trains on. Inside jit only its horizon is left.

    `xs` leads with [M], one row per completion, which is in its `observed`; a completion that was
    cut has no EOS and is, as under eos="truncate", an outcome of its own.
    """

    def __init__(self, prompts: PromptSet, tokens: Int[np.ndarray, "M T"]):
        num_rows, num_tokens = tokens.shape
        self.prompts = prompts
        self.horizon = Horizon(num_tokens)
        observed = Observation(jnp.asarray(tokens), jnp.ones(num_rows), jnp.zeros(num_rows))
        self.xs = dataclasses.replace(prompts.xs, observed=observed)

    def tree_flatten(self):
        return (), self.horizon

    @classmethod
    def tree_unflatten(cls, horizon: Horizon, children: tuple):
        bound = object.__new__(cls)
        bound.horizon = horizon
        return bound


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EmpiricalPrior(SteppedPrior, Empirical):
    """π(y | x) = Σ_m w_m·1[x_m = x, y_m = y] / Σ_m w_m·1[x_m = x], w = exp(log_weights).

    Prompts match by their tokens; without prompts every row counts, whatever the prompt.
    """

    log_weights: Float[Array, " M"]
    tokens: Int[Array, "M L"]
    prompt_tokens: Int[Array, "M S"] | None
    prompt_lengths: Int[Array, " M"] | None
    vocab_size: int = dataclasses.field(metadata={"static": True})
    eos: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    vocabulary: tuple[str, ...] | None = dataclasses.field(metadata={"static": True})

    def init(self, x: Prompt):
        state = self._matches(x), jnp.int32(0)
        return state, self._logits(*state)

    def step(self, state: tuple[Bool[Array, " M"], Int[Array, ""]], token: Int[Array, ""]):
        alive, t = state
        state = alive & (self._column(t) == token), t + 1
        return state, self._logits(*state)

    def encode(self, prompt: Any) -> list[int]:
        ids = self.encode_completion(prompt)
        if self.prompt_tokens is not None and self.prompt_lengths is not None:
            lengths = np.asarray(self.prompt_lengths)
            same = np.asarray(self.prompt_tokens)[lengths == len(ids), : len(ids)] == ids
            if not same.all(-1).any():
                raise PromptError(
                    f"No completion was given for the prompt {prompt!r}.",
                    cause="an empirical distribution knows nothing about other prompts.",
                    remedy="use one of its prompts, or leave prompts out of bft.empirical.",
                )
        return ids

    def encode_completion(self, text: Any) -> list[int]:
        return super().encode(text)

    def enumerate(self, max_new_tokens: int) -> Int[np.ndarray, "M T"]:
        """The completions given for any prompt, cut at the limit: no other has mass."""
        rows = np.asarray(self.tokens)[:, :max_new_tokens]
        padding = ((0, 0), (0, max_new_tokens - rows.shape[1]))
        return np.unique(np.pad(rows, padding, constant_values=self.eos[0]), axis=0)

    def _matches(self, x: Prompt) -> Bool[Array, " M"]:
        if self.prompt_tokens is None or self.prompt_lengths is None:
            return jnp.ones(self.log_weights.shape, bool)
        width = min(self.prompt_tokens.shape[1], x.tokens.shape[-1])
        differ = self.prompt_tokens[:, :width] != x.tokens[None, :width]
        live = jnp.arange(width)[None] < self.prompt_lengths[:, None]
        # Equal lengths fit into both paddings, so the common width holds all that counts.
        return (self.prompt_lengths == x.length) & ~(differ & live).any(-1)

    def _column(self, t: Int[Array, ""]) -> Int[Array, " M"]:
        return self.tokens[:, jnp.minimum(t, self.tokens.shape[1] - 1)]

    def _logits(self, alive: Bool[Array, " M"], t: Int[Array, ""]) -> Float[Array, " V"]:
        """Log-mass of the rows that go on with each token; EOS where no row is left."""
        column = self._column(t)
        masked = jnp.where(alive, jax.lax.stop_gradient(self.log_weights), -jnp.inf)
        peak = jax.ops.segment_max(masked, column, self.vocab_size)
        peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
        share = jnp.where(alive, jnp.exp(jnp.where(alive, self.log_weights - peak[column], 0)), 0)
        mass = jax.ops.segment_sum(share, column, self.vocab_size)
        # log 0 has no gradient, so it is never taken.
        logits = jnp.where(mass > 0, peak + jnp.log(jnp.where(mass > 0, mass, 1.0)), -jnp.inf)
        stop = jnp.where(jnp.arange(self.vocab_size) == self.eos[0], 0.0, -jnp.inf)
        return jnp.where(alive.any(), logits, stop)


def empirical(
    completions: Sequence[str] | Sequence[Sequence[int]],
    prompts: Sequence[Any] | None = None,
    *,
    max_new_tokens: int | None = None,
    vocabulary: Sequence[str] | None = None,
    vocab_size: int | None = None,
    eos: int | Sequence[int] | None = None,
) -> Empirical:
    """The distribution that gives equal weight to M completions: the target of `mle`.

    `prompts[m]` (text, chat messages, token ids, or a dict with "prompt") is what `completions[m]`
    continues; without prompts they continue the empty one. `fit` tokenizes both with its guide and
    adds EOS to a completion that lacks it; `max_new_tokens` cuts longer ones, without EOS.

    With a vocabulary of its own (`vocabulary` or `vocab_size`, and `eos`; see `ngram`) the result
    is also a prior: enumerable, its M log-weights trainable, its prompts matched by content.

    Raises TargetError for lists that are empty, mixed or of different lengths, for what is neither
    text nor token ids, and for a `max_new_tokens` below 1; PromptError, when bound, for a
    completion with EOS before its end or too long for the guide.
    """
    rows = corpus.require_sequences(completions, "completions")
    contexts = None if prompts is None else corpus.require_list(prompts, "prompts")
    if max_new_tokens is not None:
        max_new_tokens = checked_count("max_new_tokens", max_new_tokens, TargetError)
    if contexts is not None and len(contexts) != len(rows):
        raise TargetError(
            f"{len(rows)} completions and {len(contexts)} prompts make no data.",
            cause="one prompt for many completions.",
            remedy="give one prompt per completion (repeat it).",
        )
    data = Demonstrations(rows, contexts, max_new_tokens)
    if vocabulary is None and vocab_size is None and eos is None:
        return Empirical(data)
    return _with_vocabulary(data, corpus.declare(vocabulary, vocab_size, eos))


def _with_vocabulary(data: Demonstrations, vocabulary: corpus.Vocabulary) -> EmpiricalPrior:
    rows = corpus.tokenize(data.completions, vocabulary)
    prior = EmpiricalPrior(
        data,
        log_weights=jnp.zeros(len(rows)),
        tokens=jnp.asarray(corpus.pad(rows, max(map(len, rows)), vocabulary.eos[0])),
        prompt_tokens=None,
        prompt_lengths=None,
        vocab_size=vocabulary.size,
        eos=vocabulary.eos,
        vocabulary=vocabulary.names,
    )
    if data.prompts is None:
        return prior
    xs = PromptSet(prior, data.prompts).xs
    return dataclasses.replace(prior, prompt_tokens=xs.tokens, prompt_lengths=xs.length)
