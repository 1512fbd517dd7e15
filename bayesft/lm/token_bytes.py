"""What a token writes in the middle of a text, in bytes, as tokenizer.json's decoder says."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bayesft.errors import PromptError

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def written_bytes(texts: Iterable[str], decoder: Mapping[str, Any] | None) -> list[bytes]:
    """The bytes of each token behind other text, where decoding is their concatenation.

    Raises PromptError where it is not, because a token's text depends on its neighbours.
    """
    steps = _steps(decoder)
    types = [step["type"] for step in steps]
    fuse = types.index("Fuse") if "Fuse" in types else len(types)
    # Behind `Fuse` only the start of a whole text may change, and a completion is not there.
    at_start = all(step["type"] == "Strip" and not step["stop"] for step in steps[fuse + 1 :])
    if not steps or not at_start or not set(types[:fuse]) <= set(_WRITERS):
        raise PromptError(
            f"The tokenizer's decoder {types} does not write a text as "
            "the concatenation of its tokens.",
            cause="a word-piece tokenizer, or one without a decoder.",
            remedy="use evidence on text in Python (bft.evidence.constraint), or a model whose "
            "tokenizer is byte-level or in the manner of sentencepiece.",
        )
    return [_write(text, steps[:fuse]) for text in texts]


def _write(text: str, steps: Sequence[Mapping[str, Any]]) -> bytes:
    for step in steps:
        written = _WRITERS[step["type"]](text, step)
        if isinstance(written, bytes):
            return written
        text = written
    return text.encode()


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _replace(text: str, step: Mapping[str, Any]) -> str:
    pattern = step["pattern"]
    if "String" in pattern:
        return text.replace(pattern["String"], step["content"])
    return re.sub(pattern["Regex"], lambda _: step["content"], text)


def _metaspace(text: str, step: Mapping[str, Any]) -> str:
    return text.replace(step["replacement"], " ")


def _byte_fallback(text: str, step: Mapping[str, Any]) -> str | bytes:
    match = _BYTE.fullmatch(text)
    return bytes([int(match[1], 16)]) if match else text


def _byte_level(text: str, step: Mapping[str, Any]) -> bytes:
    table = _byte_of_character()
    # An added token is not spelt in the byte alphabet.
    known = all(character in table for character in text)
    return bytes(table[character] for character in text) if known else text.encode()


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = {byte: byte for byte in printable}
    codes |= {byte: 0x100 + i for i, byte in enumerate(others)}
    return {chr(code): byte for byte, code in codes.items()}


_WRITERS = {
    "Replace": _replace,
    "Metaspace": _metaspace,
    "ByteFallback": _byte_fallback,
    "ByteLevel": _byte_level,
}
