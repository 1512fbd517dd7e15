"""A user's module as a prior, and as a guide whose parameters are the module's own."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Guide, Horizon, Prompt, PyTree, checked_count
from bayesft.errors import GuideError, ModelError
from bayesft.lm.card import require_token
from bayesft.lm.modules.checks import LENGTH, check_forward, check_steps, vocab_size_of
from bayesft.lm.modules.decoding import Decoding, Incremental, InitFn, LogitsFn, Recompute, StepFn
from bayesft.lm.modules.form import Form, take_apart
from bayesft.lm.text_prior import TextPrior
from bayesft.lm.tokenizer import Tokenizer, read_tokenizer
from bayesft.priors.corpus import distinct
from bayesft.sharding import gathered


@dataclasses.dataclass(frozen=True)
class ModuleCard:
    """What is known of a module beside its arrays: static under jit."""

    name: str
    form: Form
    logits_fn: LogitsFn
    decoding: Decoding
    vocab_size: int
    eos: tuple[int, ...]
    bos: int | None
    max_length: int | None
    tokenizer: Tokenizer | None


class _OfModule(TextPrior):
    """A prior whose logits a user's module gives; subclasses say where its arrays are."""

    card: ModuleCard  # pyright: ignore[reportIncompatibleVariableOverride]

    @abc.abstractmethod
    def module(self) -> Any:
        """The module with its arrays in place: an NNX module, or a bound Linen module."""

    @property
    def max_length(self) -> int | None:
        return self.card.max_length

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        return self.card.decoding.start(
            self.module(), xs.tokens, xs.length, num_particles, max_new_tokens
        )

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        return self.card.decoding.advance(self.module(), state, tokens)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return self.card.decoding.reorder(state, ancestors)

    def token_logits(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, "T V"]:
        """Teacher-forced, in one pass over prompt and tokens."""
        (num_tokens,), size = tokens.shape, x.tokens.shape[0]
        width = Recompute(self.card.logits_fn, self.max_length).width(size, num_tokens)
        place = x.length + jnp.arange(num_tokens, dtype=jnp.int32)
        line = jnp.pad(x.tokens[:width], (0, max(width - size, 0)))
        line = line.at[place].set(tokens, mode="drop")
        logits = self.card.logits_fn(self.module(), line[None])[0]
        return logits.at[place - 1].get(mode="clip").astype(jnp.float32)

    def token_log_probs(
        self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon
    ) -> Float[Array, " T"]:
        # What is outside the vocabulary could be NaN to the module at every later token, too.
        logits = self.token_logits(jnp.clip(tokens, 0, self.vocab_size - 1), x)
        own = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
        return horizon.finish(
            own - jax.nn.logsumexp(logits, axis=1), tokens, self.eos, self.vocab_size
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "rest"], meta_fields=["card"]
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModulePrior(_OfModule):
    """A user's module; a pytree whose leaves are its arrays."""

    params: PyTree
    rest: PyTree
    """What the module holds beside its parameters: statistics, keys, quantised weights."""
    card: ModuleCard

    def module(self) -> Any:
        # Whole while they are used: how a module's products are split is not known here.
        return self.card.form.build(gathered(self.params), self.rest)

    def trainable(self) -> ModuleGuide:
        """A guide that starts as this prior and whose parameters are the module's.

        They are float32 or wider; the module computes in the dtypes that it has.
        """
        leaves = jax.tree.leaves(self.params)
        if not leaves:
            raise GuideError(
                f"{self.name} has no parameters to train.",
                cause="they are nnx.Variable, not nnx.Param, or integers.",
                remedy="declare what is trained as nnx.Param in a floating-point dtype.",
            )
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), self.params
        )
        return ModuleGuide(wide, self.rest, self.card, tuple(leaf.dtype for leaf in leaves))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "rest"],
    meta_fields=["card", "dtypes"],
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModuleGuide(_OfModule, Guide):
    """A user's module whose parameters are trained."""

    params: PyTree
    rest: PyTree
    card: ModuleCard
    dtypes: tuple[jnp.dtype, ...]
    """What each parameter is cast to where it is used."""

    def module(self) -> Any:
        return self.module_prior().module()

    def prepared(self) -> ModulePrior:
        return gathered(self.module_prior())

    def module_prior(self) -> ModulePrior:
        """The guide as a fixed prior in the dtypes that it computes in."""
        leaves, tree = jax.tree.flatten(self.params)
        cast = [leaf.astype(dtype) for leaf, dtype in zip(leaves, self.dtypes, strict=True)]
        return ModulePrior(jax.tree.unflatten(tree, cast), self.rest, self.card)

    def with_params(self, params: PyTree) -> ModuleGuide:
        return dataclasses.replace(self, params=params)


def _call(module: Any, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    return module(tokens)


def from_module(
    module: Any,
    variables: Mapping[str, Any] | None = None,
    *,
    eos: int | Sequence[int],
    bos: int | None = None,
    max_length: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    logits_fn: LogitsFn = _call,
    init: InitFn | None = None,
    step: StepFn | None = None,
) -> ModulePrior:
    """A Flax module that maps tokens [B, T] to logits [B, T, V] as a prior.

    Logits at position t are of token t + 1 given tokens 0 … t; rows begin at position 0 and are
    padded behind. `module` is an NNX module, or a Linen one with `variables`; `logits_fn(module,
    tokens)` calls it where `module(tokens)` does not. `max_length` is its context, if it has one.
    Text needs the path of a `tokenizer.json` or of its folder, and an empty prompt a `bos`.

    Without `init` and `step`, every new token costs a forward pass over prompt and max_new_tokens,
    with logits of all positions: T times the cost of scoring. With them the module decodes
    incrementally, for R rows at once:

        init(module, tokens [R, S], lengths [R], max_new_tokens) -> (cache, logits [R, V])
        step(module, cache, tokens [R], positions [R]) -> (cache, logits [R, V])

    `init` reads the prompts (padded behind their lengths) and gives the logits of the first new
    token. Arrays of the cache lead with the rows, which resampling moves; scalars are shared. In
    both, a Linen module comes bound to its variables (`module.unbind()` gives them back).

    The module is called on a few random rows. Raises ModelError where it looks ahead, where rows or
    padding leak into each other, where it draws random numbers, and where steps disagree with it.
    """
    if (init is None) != (step is None):
        raise ModelError(
            "init and step were not given together.",
            remedy="give both for incremental decoding, or neither to recompute",
        )
    form, params, rest = take_apart(module, variables)
    vocab_size = vocab_size_of(form, params, rest, logits_fn)
    ends = _eos(eos, vocab_size)
    if bos is not None:
        bos = require_token("bos", bos, vocab_size, "give the id of the token that begins a text")
    if max_length is not None:
        max_length = checked_count("max_length", max_length, ModelError)
    parts = form, params, rest, logits_fn
    length = LENGTH if max_length is None else min(LENGTH, max_length)
    check_forward(*parts, length, vocab_size)
    decoding: Decoding = Recompute(logits_fn, max_length)
    if init is not None and step is not None:
        decoding = Incremental(init, step, max_length)
        check_steps(*parts, decoding, length, vocab_size)
    reader = None if tokenizer is None else read_tokenizer(_folder(Path(tokenizer)))
    if bos is None and reader is not None:
        bos = reader.bos
    name = type(module).__name__
    card = ModuleCard(name, form, logits_fn, decoding, vocab_size, ends, bos, max_length, reader)
    return ModulePrior(params, rest, card)


def _eos(eos: Any, vocab_size: int) -> tuple[int, ...]:
    remedy = "give the id, or the ids, of the tokens that end a sequence"
    # As objects: True and 2.5 stay what they are.
    tokens = np.atleast_1d(np.asarray(eos, object)).tolist()
    if not tokens:
        raise ModelError(
            f"eos={eos!r} names no token.", cause="sequences would never end", remedy=remedy
        )
    return distinct([require_token("eos", token, vocab_size, remedy) for token in tokens])


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
