"""The prompts of a target: arrays of token ids, and on the host their text and columns."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bayesft.base import Prior, Prompt, Rows, whole_number
from bayesft.errors import PromptError


class PromptSet:
    """Prompts of a target: their arrays `xs` [P, ...], and on the host their text and columns."""

    def __init__(self, prior: Prior, prompts: Sequence[Any] | None):
        given = [""] if prompts is None else prompts
        if isinstance(given, str | bytes | Mapping) or not np.iterable(given):
            raise PromptError(
                f"prompts is a single {type(prompts).__name__}, not a list.",
                cause="one prompt was given without brackets.",
                remedy="write prompts=[...].",
            )
        self.prompts, self.columns = _split_columns(list(given))
        if not self.prompts:
            raise PromptError(
                "The prompt list is empty.",
                cause="a filter removed every prompt, or the wrong variable was passed.",
                remedy="give at least one prompt, or leave prompts out for the empty prompt.",
            )
        tokens = [prior.encode(prompt) for prompt in self.prompts]
        self.longest = max(map(len, tokens))
        padded = np.full((len(tokens), _bucket(self.longest)), prior.eos[0], np.int32)
        for row, ids in zip(padded, tokens, strict=True):
            row[: len(ids)] = ids
        ids = _content_ids(tokens)
        self._row = {prompt_id: row for row, prompt_id in enumerate(ids)}
        self.xs = Prompt(
            jnp.asarray(padded),
            jnp.asarray([len(ids) for ids in tokens], jnp.int32),
            jnp.asarray(ids, jnp.int32),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Sequence[int]) -> PromptSet:
        """Some of the prompts, with the ids and padded length that they have here."""
        size = len(self)
        given = [whole_number(row) for row in rows] if np.iterable(rows) else []
        if not given or any(row is None or not -size <= row < size for row in given):
            raise PromptError(
                "The rows chosen are none of the prompts'.",
                cause="an empty list, or something that is no list of numbers of prompts.",
                remedy=f"choose from 0 … {size - 1}, as in target.select([0]).",
            )
        rows = [row % size for row in given if row is not None]
        chosen = object.__new__(PromptSet)
        chosen.prompts = [self.prompts[row] for row in rows]
        chosen.columns = {k: [column[row] for row in rows] for k, column in self.columns.items()}
        chosen.longest = self.longest
        index = jnp.asarray(rows, jnp.int32)
        chosen.xs = jax.tree.map(lambda a: a[index], self.xs)
        chosen._row = {int(i): row for row, i in enumerate(np.asarray(chosen.xs.id))}
        return chosen

    def rows(
        self,
        prior: Prior,
        ids: Int[np.ndarray, " R"],
        tokens: Int[np.ndarray, "R T"],
        lengths: Int[np.ndarray, " R"],
    ) -> Rows:
        """What Python evidence sees of these completions."""
        at = [self._row[int(prompt_id)] for prompt_id in ids]
        completion_ids = [
            row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)
        ]
        return Rows(
            prompts=[self.prompts[i] for i in at],
            completions=[prior.decode(row) for row in completion_ids],
            completion_ids=completion_ids,
            columns={name: [values[i] for i in at] for name, values in self.columns.items()},
        )


def _split_columns(prompts: list[Any]) -> tuple[list[Any], dict[str, list[Any]]]:
    if not any(isinstance(prompt, Mapping) for prompt in prompts):
        return prompts, {}
    names = {*map(str, prompts[0])} if isinstance(prompts[0], Mapping) else set()
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, Mapping) or "prompt" not in prompt or set(prompt) != names:
            raise PromptError(
                f"Prompt {i} is not a dict with the keys {sorted(names | {'prompt'})}.",
                cause="prompts mix dicts and text, or other keys, or keys that are no text.",
                remedy="give every prompt as a dict with 'prompt' and the same columns.",
            )
    columns = {name: [p[name] for p in prompts] for name in sorted(names - {"prompt"})}
    return [p["prompt"] for p in prompts], columns


def _bucket(longest: int) -> int:
    """Prompt lengths round up to powers of two, so that new prompts rarely mean new shapes."""
    return 0 if longest == 0 else 1 << (longest - 1).bit_length()


def _content_ids(tokens: list[list[int]]) -> list[int]:
    """An id per prompt from its content and its count among equal ones, free of collisions."""
    seen: dict[tuple[int, ...], int] = {}
    ids: dict[int, None] = {}
    for row in tokens:
        count = seen[tuple(row)] = seen.get(tuple(row), -1) + 1
        candidate = zlib.crc32(repr((row, count)).encode()) & 0x7FFFFFFF
        while candidate in ids:
            candidate = (candidate + 1) & 0x7FFFFFFF
        ids[candidate] = None
    return list(ids)
