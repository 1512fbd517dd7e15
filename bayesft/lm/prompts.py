"""What users give as prompts, as token ids; and ids as text."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bayesft.errors import PromptError
from bayesft.lm.tokenizer import Tokenizer


class Vocabulary(Protocol):
    """What text needs to know of a model."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos(self) -> tuple[int, ...]: ...
    @property
    def bos(self) -> int | None: ...


def encode(prompt: str | Sequence[Any], card: Vocabulary) -> list[int]:
    """Token ids of a text, of chat messages, or of ids; raises PromptError for anything else."""
    if isinstance(prompt, str):
        ids = _tokenizer(card).encode(prompt) if prompt else []
    elif not isinstance(prompt, Sequence | np.ndarray):
        raise _unknown(prompt)
    elif len(prompt) and all(isinstance(item, Mapping) for item in prompt):
        ids = _encode_chat(prompt, card)
    elif all(isinstance(i, numbers.Integral) and not isinstance(i, bool) for i in prompt):
        ids = [int(item) for item in prompt]
    else:
        raise _unknown(prompt)
    if not ids:
        if card.bos is None:
            raise PromptError(
                "The prompt is empty.",
                cause=f"{card.name} has no BOS token from which a text could start",
                remedy="give at least one token",
            )
        ids = [card.bos]
    outside = [i for i in ids if not 0 <= i < card.vocab_size]
    if outside:
        raise PromptError(
            f"The prompt has token {outside[0]}, outside the vocabulary of {card.vocab_size}.",
            cause="the tokenizer or the ids belong to another model",
            remedy="use the tokenizer of this model",
        )
    return ids


def encode_completion(text: str, card: Vocabulary) -> list[int]:
    """Token ids that continue a prompt by this text."""
    return _tokenizer(card).encode_continuation(text)


def decode(tokens: Sequence[int], card: Vocabulary) -> str:
    """Text of ids, EOS and other special tokens left out."""
    ids = [int(token) for token in tokens]
    continues = not ids or ids[0] != card.bos
    kept = [token for token in ids if token not in card.eos]
    if card.tokenizer is None:
        return " ".join(map(str, kept))
    return card.tokenizer.decode(kept, continues=continues)


def token_bytes(card: Vocabulary) -> list[bytes | None]:
    """What each id of the model's vocabulary writes; None for EOS and other special tokens."""
    if card.tokenizer is None:
        raise PromptError(
            f"{card.name} was loaded without a tokenizer, so its tokens write nothing.",
            remedy="load a folder with tokenizer.json: evidence on text needs it",
        )
    size = card.vocab_size
    found = [*card.tokenizer.token_bytes()[:size]]
    found += [None] * (size - len(found))
    return [None if token in card.eos else text for token, text in enumerate(found)]


def _encode_chat(messages: Sequence[Mapping[str, Any]], card: Vocabulary) -> list[int]:
    tokenizer = _tokenizer(card)
    if tokenizer.chat_template is None:
        raise PromptError(
            f"The prompt is a list of chat messages, but {card.name} has no chat template.",
            cause="it is a base model, or chat_template.jinja was not downloaded",
            remedy="give the prompt as text, or use a model that was trained on chats",
        )
    try:
        from bayesft.lm.chat import render_chat
    except ImportError as error:
        raise PromptError(
            "Chat messages need Jinja, which is not installed.",
            cause="only the core of bayesft is installed",
            remedy="pip install 'bayesft[chat]', or give the prompt as text",
        ) from error
    text = render_chat(messages, tokenizer.chat_template, tokenizer.special_tokens)
    return tokenizer.encode_plain(text)


def _tokenizer(card: Vocabulary) -> Tokenizer:
    if card.tokenizer is None:
        raise PromptError(
            f"The prompt is text, but {card.name} was loaded without a tokenizer.",
            remedy="give the prompt as a list of token ids, or load a folder with tokenizer.json",
        )
    return card.tokenizer


def _unknown(prompt: Any) -> PromptError:
    return PromptError(
        f"A prompt of type {type(prompt).__name__} is none that a language model knows: "
        f"{str(prompt)[:60]!r}.",
        remedy="give a text, a list of chat messages, or a list of token ids",
    )
