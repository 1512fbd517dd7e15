"""Priors around another prior, over the same tokens."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from bayesft.base import Prior


class Wrapped(Prior):
    """A prior that says of tokens, text and limits what the one inside says."""

    @property
    @abc.abstractmethod
    def inner(self) -> Any:
        """The prior inside."""

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    @property
    def eos(self) -> tuple[int, ...]:
        return self.inner.eos

    @property
    def max_length(self) -> int | None:
        return self.inner.max_length

    @property
    def reads_soft(self) -> bool:
        return self.inner.reads_soft

    def encode(self, prompt: Any) -> list[int]:
        return self.inner.encode(prompt)

    def encode_completion(self, text: str) -> list[int]:
        return self.inner.encode_completion(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.inner.decode(tokens)

    def token_bytes(self) -> Sequence[bytes | None]:
        return self.inner.token_bytes()


class Listed(Wrapped):
    """One around an `Enumerable` prior: a class of its own, so that `isinstance` tells."""

    def enumerate(self, max_new_tokens: int) -> Int[np.ndarray, "M T"]:
        return self.inner.enumerate(max_new_tokens)
