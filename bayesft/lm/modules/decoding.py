"""One token at a time from a module: by recomputing, or by the user's own steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import PyTree
from bayesft.sharding import copy_rows, join, split, split_prompts, split_rows, splits

type LogitsFn = Callable[[Any, Array], Array]
"""(module, tokens [B, T]) -> logits [B, T, V]."""
type InitFn = Callable[[Any, Array, Array, int], tuple[PyTree, Array]]
"""(module, tokens [B, S], lengths [B], max_new_tokens) -> (cache, logits [B, V])."""
type StepFn = Callable[[Any, PyTree, Array, Array], tuple[PyTree, Array]]
"""(module, cache, tokens [B], positions [B]) -> (cache, logits [B, V])."""


class Decoding(Protocol):
    """How the logits of the next token come about, for P prompts × N particles."""

    def start(
        self, module: Any, tokens: Array, length: Array, num_particles: int, max_new_tokens: int
    ) -> tuple[PyTree, Float[Array, "P N V"]]: ...

    def advance(
        self, module: Any, state: PyTree, tokens: Int[Array, "P N"]
    ) -> tuple[PyTree, Float[Array, "P N V"]]: ...

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Written:
    """What is written so far, and where the next token stands."""

    tokens: Int[Array, "P N W"]
    position: Int[Array, " P"]


@dataclasses.dataclass(frozen=True)
class Recompute:
    """A forward pass over the whole buffer for every token: T times the cost of scoring."""

    logits_fn: LogitsFn
    max_length: int | None

    def width(self, prompt: int, max_new_tokens: int) -> int:
        """Positions of a buffer: the last token is never read."""
        needed = prompt + max_new_tokens - 1
        # Prompts are padded to a bucket, which may reach beyond the context; their tokens do not.
        return needed if self.max_length is None else min(needed, self.max_length)

    def start(
        self, module: Any, tokens: Array, length: Array, num_particles: int, max_new_tokens: int
    ) -> tuple[Written, Float[Array, "P N V"]]:
        width = self.width(tokens.shape[1], max_new_tokens)
        rows = split_prompts(tokens[:, :width], num_particles)
        logits = _at(self.logits_fn(module, rows), length - 1)
        rows = jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))
        written = Written(join(_per_particle(rows, num_particles)), length)
        return written, _per_particle(logits, num_particles)

    def advance(
        self, module: Any, state: Written, tokens: Int[Array, "P N"]
    ) -> tuple[Written, Float[Array, "P N V"]]:
        num_prompts, num_particles, width = state.tokens.shape
        put = jax.vmap(lambda rows, at, new: rows.at[:, at].set(new, mode="drop"))
        # Joined ahead of the split, or the partitioner would split what the tokens come from, too.
        written = join(put(state.tokens, state.position, tokens))
        logits = self.logits_fn(module, split_rows(written.reshape(-1, width)))
        logits = _at(logits, jnp.repeat(state.position, num_particles))
        return (
            Written(written, state.position + 1),
            logits.reshape(num_prompts, num_particles, -1),
        )

    def reorder(self, state: Written, ancestors: Int[Array, "P N"]) -> Written:
        moved = jnp.take_along_axis(state.tokens, ancestors[..., None], axis=1)
        return Written(moved, state.position)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carried:
    """The user's cache, whose arrays lead with P · N rows, and where the next token stands."""

    cache: PyTree
    position: Int[Array, " P"]


@dataclasses.dataclass(frozen=True)
class Incremental:
    """The user's `init` and `step`; arrays of the cache lead with its rows, scalars are shared."""

    init: InitFn
    step: StepFn
    max_length: int | None

    def start(
        self, module: Any, tokens: Array, length: Array, num_particles: int, max_new_tokens: int
    ) -> tuple[Carried, Float[Array, "P N V"]]:
        # Prompts are padded to few sizes, which may be longer than the module's context.
        tokens = tokens[:, : self.max_length]
        rows, lengths = split_prompts((tokens, length), num_particles)
        cache, logits = self.init(module, rows, lengths, max_new_tokens)
        repeat = functools.partial(jnp.repeat, repeats=num_particles, axis=0)
        cache = _of_rows(lambda rows: split_rows(jax.tree.map(repeat, rows)), cache)
        return Carried(cache, length), _per_particle(logits.astype(jnp.float32), num_particles)

    def advance(
        self, module: Any, state: Carried, tokens: Int[Array, "P N"]
    ) -> tuple[Carried, Float[Array, "P N V"]]:
        positions = jnp.repeat(state.position, tokens.shape[1])
        rows = split(join(tokens)).reshape(-1)  # joined first: see Recompute
        cache, logits = self.step(module, state.cache, rows, positions)
        cache = _of_rows(split_rows, cache)
        logits = logits.astype(jnp.float32).reshape(*tokens.shape, -1)
        return Carried(cache, state.position + 1), logits

    def reorder(self, state: Carried, ancestors: Int[Array, "P N"]) -> Carried:
        num_prompts, num_particles = ancestors.shape
        first = jnp.arange(num_prompts, dtype=ancestors.dtype) * num_particles
        sources = (ancestors + first[:, None]).reshape(-1)

        def move(rows: PyTree) -> PyTree:
            if splits(sources.size):
                return copy_rows(rows, sources)
            return jax.tree.map(lambda leaf: leaf[sources], rows)

        return Carried(_of_rows(move, state.cache), state.position)


def _at(logits: Float[Array, "R W V"], position: Int[Array, " R"]) -> Float[Array, "R V"]:
    found = jnp.take_along_axis(logits, position[:, None, None], axis=1, mode="clip")
    return found[:, 0].astype(jnp.float32)


def _per_particle(rows: Array, num_particles: int) -> Array:
    return jnp.broadcast_to(rows[:, None], (rows.shape[0], num_particles, *rows.shape[1:]))


def _of_rows(fn: Callable[[PyTree], PyTree], cache: PyTree) -> PyTree:
    """The cache with `fn` of its arrays, all at once; scalars stay."""
    rows = fn(jax.tree.map(lambda leaf: leaf if jnp.ndim(leaf) else None, cache))
    is_none = lambda leaf: leaf is None
    return jax.tree.map(lambda new, old: old if new is None else new, rows, cache, is_leaf=is_none)
