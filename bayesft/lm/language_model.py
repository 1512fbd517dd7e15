"""Language models as priors: one engine for a model and for the guides that start from it."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from bayesft.base import Guide, Horizon, Prompt, PyTree
from bayesft.errors import ModelError, PromptError
from bayesft.lm import engine
from bayesft.lm.card import Card
from bayesft.lm.contexts import AfterPrompt, Alone
from bayesft.lm.decoder import PRODUCTS, Decoder, RematPolicy, require_policy, structure
from bayesft.lm.engine import DecodeState
from bayesft.lm.log_probs import log_probs_of
from bayesft.lm.saving import save_model
from bayesft.lm.text_prior import TextPrior
from bayesft.sharding import gathered

ALONG = 8
"""A prompt goes along with completions at least so many times its size. It is then computed for
each of them, about an eighth more to compute at most, in a program of half the size."""


class DecoderPrior(TextPrior):
    """A prior whose next-token logits come from a decoder; subclasses say where its arrays are."""

    reads_soft = True
    card: Card  # pyright: ignore[reportIncompatibleVariableOverride]

    @abc.abstractmethod
    def decoder(self) -> Decoder:
        """The decoder with its arrays in place."""

    @property
    def max_length(self) -> int:
        return self.card.architecture.max_positions

    @property
    def config(self) -> Mapping[str, Any]:
        """`config.json` as it was loaded."""
        return self.card.config

    def logits(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Teacher-forced logits of the token after each position, in float32.

        Padding on the right does not change what stands before it. Raises PromptError for what is
        no array of ids of the vocabulary, has no row or no column, or is longer than the context.
        """
        ids = _as_ids(tokens)
        if ids is None or not self._reads(ids):
            what = "that are no array of integers" if ids is None else f"of shape {ids.shape}"
            raise PromptError(
                f"Tokens {what} have no logits under {self.name}: it takes ids [B, T] below "
                f"{self.vocab_size}, with 1 ≤ B and 1 ≤ T ≤ {self.max_length}.",
                cause="ids of another tokenizer, a row longer than the context, or rows that are "
                "empty or of several lengths.",
                remedy="encode with this model's tokenizer, cut rows to its context, and pad them "
                "to one length.",
            )
        return _logits(self, ids)

    def _reads(self, ids: Int[Array, "..."]) -> bool:
        """Whether they are rows of the vocabulary that fit into the context."""
        rows = ids.ndim == 2 and ids.size > 0 and ids.shape[1] <= self.max_length
        if isinstance(ids, Tracer) or not rows:  # inside jit only shapes are known
            return rows
        return bool(((ids >= 0) & (ids < self.vocab_size)).all())

    def start(
        self, xs: Prompt, num_particles: int, max_new_tokens: int
    ) -> tuple[DecodeState, Float[Array, "P N V"]]:
        state, logits, _ = self.start_hidden(xs, num_particles, max_new_tokens)
        return state, logits

    def advance(
        self, state: DecodeState, tokens: Int[Array, "P N"]
    ) -> tuple[DecodeState, Float[Array, "P N V"]]:
        state, logits, _ = self.advance_hidden(state, tokens)
        return state, logits

    @property
    def hidden_size(self) -> int:
        """D, the width of the hidden states."""
        return self.card.architecture.width

    def start_hidden(
        self, xs: Prompt, num_particles: int, max_new_tokens: int
    ) -> tuple[DecodeState, Float[Array, "P N V"], Float[Array, "P N D"]]:
        """As `start`, with the normed hidden states that the logits are read from."""
        self._require_room(xs, max_new_tokens)
        decoder = self.decoder()
        state, last = engine.start(decoder, xs, num_particles, max_new_tokens)
        logits, hidden = (
            engine.per_particle(rows, num_particles) for rows in (decoder.logits(last), last)
        )
        return state, logits, hidden

    def advance_hidden(
        self, state: DecodeState, tokens: Int[Array, "P N"]
    ) -> tuple[DecodeState, Float[Array, "P N V"], Float[Array, "P N D"]]:
        """As `advance`, with the normed hidden states that the logits are read from."""
        decoder = self.decoder()
        state, hidden = engine.advance(decoder, state, tokens)
        return state, decoder.logits(hidden), hidden

    def reorder(self, state: DecodeState, ancestors: Int[Array, "P N"]) -> DecodeState:
        return engine.reorder(state, ancestors)

    def token_log_probs(
        self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon
    ) -> Float[Array, " T"]:
        """Teacher-forced log-probs [T] of one completion in nats, 0 on padding."""
        decoder, hidden = self.decoder(), self.hidden_states(tokens, x)
        log_probs = log_probs_of(tokens, hidden, decoder.output_rows, decoder.logit_cap)
        return horizon.finish(log_probs, tokens, self.eos, self.vocab_size)

    def token_logits(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, "T V"]:
        return self.decoder().logits(self.hidden_states(tokens, x))

    def hidden_states(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, "T D"]:
        """Teacher-forced: row t is the normed hidden state that token t is drawn from.

        A prompt is a pass of its own that depends on x alone: under a `vmap` over completions it
        runs once per prompt. One much shorter than its completion goes along with it instead.
        """
        self._require_room(x, tokens.shape[0])
        decoder = self.decoder()
        size = x.tokens.shape[0]
        if x.soft is None and 0 < size * ALONG <= tokens.shape[0]:
            index = jnp.arange(size + tokens.shape[0] - 1, dtype=jnp.int32)
            # A prompt has a token, so that one of size 1 has no padding.
            padding = 0 if size == 1 else size - x.length
            positions = jnp.maximum(index - padding, 0)
            both = jnp.concatenate([jnp.roll(x.tokens, padding), tokens[:-1]])
            hidden, _ = decoder.hidden(both[None, None], positions[None, None], Alone(padding))
            return hidden[0, 0, size - 1 :]
        hidden, prompt = engine.prefill(decoder, jax.tree.map(lambda a: a[None], x))
        if tokens.shape[0] == 1:
            return hidden
        positions = prompt.length + jnp.arange(tokens.shape[0] - 1, dtype=jnp.int32)
        after, _ = decoder.hidden(
            tokens[None, None, :-1], positions[None, None], AfterPrompt(prompt)
        )
        return jnp.concatenate([hidden, after[0, 0]])

    def _require_room(self, x: Prompt, num_tokens: int) -> None:
        """Raise PromptError where a soft prompt may not fit; prompts of tokens, a target checks.

        Their own lengths are not known inside jit, where soft prompts are made: padding counts.
        """
        if x.soft is None:
            return
        num_soft, size = x.soft.shape[-2], x.tokens.shape[-1]
        if num_soft + size + num_tokens > self.max_length:
            raise PromptError(
                f"A soft prompt of {num_soft} embeddings, {size} tokens with their padding and "
                f"{num_tokens} new ones need {num_soft + size + num_tokens} positions; {self.name} "
                f"has {self.max_length}.",
                cause="a soft prompt in front of a prompt that fills the context.",
                remedy="use fewer embeddings or new tokens, or cut the padding: "
                "x.tokens[:target.prompts.longest].",
            )


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["card"])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LanguageModel(DecoderPrior):
    """A decoder with its weights; a pytree whose leaves are the arrays."""

    weights: PyTree
    card: Card

    def decoder(self) -> Decoder:
        graph, _, _ = structure(self.card.architecture)
        return nnx.merge(graph, self.weights)

    def trainable(self) -> FullGuide:
        """A guide that starts as this model, all of its parameters trainable.

        Parameters are float32 or wider, computation stays in the dtype that the model was loaded
        in: bfloat16 would round away updates below 1/256 of a weight.
        """
        self._require_floats("trained whole", "bft.lm.lora(lm) trains adapters on frozen weights")
        wide = jax.tree.map(
            lambda array: array.astype(jnp.promote_types(array.dtype, jnp.float32)), self.weights
        )
        return FullGuide(wide, self.card, jax.tree.leaves(self.weights)[0].dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder that bayesft and transformers load; raises ModelError where it would
        replace files of something else."""
        self._require_floats("saved", "save the model that was quantized, or the adapter alone")
        save_model(path, self.weights, self.card)

    def _require_floats(self, done: str, remedy: str) -> None:
        if any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(self.weights)):
            raise ModelError(
                f"{self.name} has int8 weights and cannot be {done}.",
                cause="it comes from bft.lm.quantize, which rounds weights to 255 values.",
                remedy=remedy,
            )

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.card.architecture.num_layers} layers)"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["card", "dtype", "remat"],
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FullGuide(DecoderPrior, Guide):
    """A language model all of whose parameters are trained; a tied head stays tied."""

    params: PyTree
    card: Card
    dtype: jnp.dtype
    """What parameters are cast to where they are used (arXiv:1710.03740)."""
    remat: RematPolicy | None = PRODUCTS

    def decoder(self) -> Decoder:
        graph, _, _ = structure(self.card.architecture, remat=self.remat)
        return nnx.merge(graph, self.language_model().weights)

    def prepared(self) -> LanguageModel:
        return gathered(self.language_model())

    def with_params(self, params: PyTree) -> FullGuide:
        return dataclasses.replace(self, params=params)

    def with_remat(self, policy: RematPolicy | None) -> FullGuide:
        """The same guide, whose blocks store for the backward pass what a policy says.

        By default products with weights are stored and the rest runs again (`PRODUCTS` in
        `bayesft.lm.decoder`). `jax.checkpoint_policies.nothing_saveable` stores the input of each
        block alone, and the backward pass runs the block again: less memory, about a third more
        time. None stores everything. Values and gradients are the same. Raises GuideError for what
        is no policy.
        """
        return dataclasses.replace(self, remat=require_policy(policy))

    def language_model(self) -> LanguageModel:
        """The guide as a fixed model in the dtype that it computes in."""
        weights = jax.tree.map(lambda array: array.astype(self.dtype), self.params)
        return LanguageModel(weights, self.card)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder that bayesft and transformers load (see `LanguageModel.save`).

        Parameters are written as they are trained, in float32.
        """
        save_model(path, self.params, self.card)

    def __repr__(self) -> str:
        return f"FullGuide({self.name!r})"


def _as_ids(tokens: Any) -> Array | None:
    """The tokens as int32; None where they are no integers. Those beyond int32 stay too large."""
    try:
        found = tokens if isinstance(tokens, jax.Array) else np.asarray(tokens)
    except ValueError:  # rows of several lengths
        return None
    if not jnp.issubdtype(found.dtype, jnp.integer):
        return None
    given, wide = jnp.iinfo(found.dtype), jnp.iinfo(jnp.int32)
    # Clipped first: a conversion would wrap around.
    return jnp.asarray(found.clip(max(given.min, -1), min(given.max, wide.max)), jnp.int32)


@jax.jit
def _logits(prior: DecoderPrior, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    decoder = prior.decoder()
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, None]
    hidden, _ = decoder.hidden(tokens[:, None], positions, Alone())
    return decoder.logits(hidden[:, 0])
