"""What is known of a model beside its arrays: static under jit, compared by content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bayesft.base import whole_number
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
    bos = None if tokenizer is None else tokenizer.bos
    if bos is None and (given := config.get("bos_token_id")) is not None:
        bos = require_token("bos_token_id", given, architecture.vocab_size, "correct config.json")
    return Card(name, source, config, generation_config, tokenizer, architecture, eos, bos)


def require_token(name: str, value: Any, vocab_size: int, remedy: str) -> int:
    """The value as an id of a vocabulary; raises ModelError for anything else."""
    token = whole_number(value)
    if token is None or not 0 <= token < vocab_size:
        raise ModelError(
            f"{name} {value!r} is no token of a vocabulary of {vocab_size}.",
            cause="the id of another vocabulary, or something that is no integer",
            remedy=remedy,
        )
    return token


def _eos(
    config: Mapping[str, Any], generation_config: Mapping[str, Any], vocab_size: int
) -> tuple[int, ...]:
    """The tokens that end a sequence: those of generation_config.json, else of config.json."""
    files = {"generation_config.json": generation_config, "config.json": config}
    for file, settings in files.items():
        value = settings.get("eos_token_id")
        if value is None or value == []:
            continue
        tokens = value if isinstance(value, list) else [value]
        remedy = f"correct {file}"
        return distinct([require_token("eos_token_id", t, vocab_size, remedy) for t in tokens])
    raise ModelError(
        "The model names no end-of-sequence token.",
        cause="neither generation_config.json nor config.json has an eos_token_id",
        remedy='add "eos_token_id" to config.json',
    )
