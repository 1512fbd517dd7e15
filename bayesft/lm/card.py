"""What is known of a model beside its arrays: static under jit, compared by content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bayesft.errors import ModelError
from bayesft.lm.architecture import Architecture
from bayesft.lm.families import read_architecture
from bayesft.lm.tokenizer import Tokenizer
from bayesft.priors.corpus import distinct


@dataclasses.dataclass(frozen=True, eq=False)
class Card:
    """Configuration and tokenizer; two loads of one folder are equal, so they share traces."""

    name: str
    source: str
    """The folder or name under which adapters refer to the model."""
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None
    tokenizer: Tokenizer | None
    architecture: Architecture
    eos: tuple[int, ...]
    bos: int | None

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab_size

    @functools.cached_property
    def digest(self) -> str:
        """Hash of everything that the card says."""
        texts = [self.name, self.source, json.dumps([self.config, self.generation_config])]
        if self.tokenizer is not None:
            texts += [text for item in sorted(self.tokenizer.files.items()) for text in item]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Card) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)


def make_card(
    name: str,
    source: str,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None,
    tokenizer: Tokenizer | None,
) -> Card:
    """Reads a configuration; raises ModelError where the architecture is not supported."""
    architecture = read_architecture(config)
    eos = _eos(config, generation_config or {}, architecture.vocab_size)
    if tokenizer is not None and tokenizer.eos in eos:
        # The first is what is put behind a text: of a chat model, what ends a turn.
        eos = distinct((tokenizer.eos, *eos))
    bos = config.get("bos_token_id")
    if tokenizer is not None and tokenizer.bos is not None:
        bos = tokenizer.bos
    return Card(name, source, config, generation_config, tokenizer, architecture, eos, bos)


def _eos(
    config: Mapping[str, Any], generation_config: Mapping[str, Any], vocab_size: int
) -> tuple[int, ...]:
    """The tokens that end a sequence: those of generation_config.json, else of config.json."""
    value = generation_config.get("eos_token_id")
    value = config.get("eos_token_id") if value is None else value
    tokens: tuple[Any, ...] = tuple(value) if isinstance(value, list) else (value,)
    if value is None or not tokens:
        raise ModelError(
            "The model names no end-of-sequence token.",
            cause="neither generation_config.json nor config.json has eos_token_id",
            remedy='add "eos_token_id" to config.json',
        )
    for token in tokens:
        if not isinstance(token, int) or not 0 <= token < vocab_size:
            raise ModelError(
                f"eos_token_id {token!r} is no token of a vocabulary of {vocab_size}.",
                remedy="correct eos_token_id in generation_config.json or config.json",
            )
    return distinct(tokens)
