"""Given sequences, texts or token ids, as ended rows over one vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from bayesft.errors import PromptError, TargetError
from bayesft.priors.stepped import encode_greedily


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """V tokens, the ones that end a sequence, and their text where they have one."""

    size: int
    eos: tuple[int, ...]
    names: tuple[str, ...] | None


def declare(
    vocabulary: Sequence[str] | None, vocab_size: int | None, eos: int | Sequence[int] | None
) -> Vocabulary:
    """The vocabulary that the arguments of a prior describe.

    Raises TargetError where they leave its size or its EOS open, or contradict each other.
    """
    names = None if vocabulary is None else tuple(vocabulary)
    if eos is None and names is not None and names.count("") == 1:
        eos = names.index("")
    size = vocab_size if names is None else len(names)
    ends = () if eos is None else distinct(eos)
    if size is None or not ends:
        raise TargetError(
            f"vocab_size={size} and eos={eos} do not declare a vocabulary.",
            cause="token ids say neither how many tokens there are nor which one ends a sequence.",
            remedy="pass vocab_size= and eos=, or vocabulary= with one empty text for EOS.",
        )
    if vocab_size not in (None, size) or any(not 0 <= token < size for token in ends):
        raise TargetError(
            f"eos={eos} and vocab_size={vocab_size} contradict a vocabulary of {size} tokens.",
            cause="an id outside the vocabulary, or two different sizes.",
            remedy="pass either vocabulary= or vocab_size=, and EOS ids below its size.",
        )
    return Vocabulary(size, ends, names)


def distinct(eos: int | Sequence[int]) -> tuple[int, ...]:
    """The tokens that end a sequence, each once: sums run over them."""
    return tuple(dict.fromkeys(int(token) for token in np.atleast_1d(np.asarray(eos))))


def characters(texts: Sequence[str]) -> Vocabulary:
    """The characters that occur in the texts, sorted, then EOS."""
    names = (*sorted(set().union(*texts)), "")
    return Vocabulary(len(names), (len(names) - 1,), names)


def require_list(sequences: Any, what: str) -> list[Any]:
    """The sequences as a list of texts or of token-id lists; raises TargetError otherwise."""
    rows = [] if isinstance(sequences, str) else list(sequences)
    if not rows or any(isinstance(row, str) != isinstance(rows[0], str) for row in rows):
        raise TargetError(
            f"{what} is not a list of texts, nor one of token-id lists.",
            cause="a single text, an empty list, or texts and token ids mixed.",
            remedy=f"pass {what}=[…] with at least one entry, all of one form.",
        )
    return rows


def require_sequences(sequences: Any, what: str) -> list[Any]:
    """The sequences as texts or as lists of ints; raises TargetError for anything else."""
    rows = [
        row if isinstance(row, str) else _token_ids(row) for row in require_list(sequences, what)
    ]
    if None in rows:
        raise TargetError(
            f"{what}[{rows.index(None)}] is neither a text nor a list of token ids.",
            cause="a missing entry, fractions, or lists within the list.",
            remedy="give a text or a list of whole numbers for every sequence.",
        )
    return rows


def _token_ids(row: Any) -> list[int] | None:
    try:
        ids = np.asarray(row)
    except ValueError:  # lists of several lengths
        return None
    whole = np.issubdtype(ids.dtype, np.integer) or ids.size == 0
    return ids.astype(int).tolist() if whole and ids.ndim == 1 else None


def tokenize(rows: Sequence[Any], vocabulary: Vocabulary) -> list[list[int]]:
    """Token ids of every row, with EOS at its end."""
    return [
        end(_ids(row, vocabulary), index, vocabulary.size, vocabulary.eos)
        for index, row in enumerate(rows)
    ]


def _ids(row: Any, vocabulary: Vocabulary) -> list[int]:
    if not isinstance(row, str):
        return row
    if vocabulary.names is None:
        raise TargetError(
            "Texts were given without the vocabulary to write them in.",
            cause="vocab_size= declares token ids, which have no text.",
            remedy="pass vocabulary=, the text of every token, instead.",
        )
    return encode_greedily(row, vocabulary.names)


def end(ids: list[int], index: int, vocab_size: int, eos: tuple[int, ...]) -> list[int]:
    """A row with EOS at its end: appended, unless it is there already.

    Raises PromptError for ids outside the vocabulary, and for EOS in the middle.
    """
    if any(not 0 <= token < vocab_size for token in ids) or any(t in eos for t in ids[:-1]):
        raise PromptError(
            f"Sequence {index} has EOS {eos} before its end, or ids outside 0 … {vocab_size - 1}.",
            cause="several documents joined into one, or ids of another tokenizer.",
            remedy="split the text at its end-of-sequence tokens, one sequence each.",
        )
    return ids if ids and ids[-1] in eos else [*ids, eos[0]]


def pad(rows: Sequence[Sequence[int]], width: int, padding: int) -> Int[np.ndarray, "M width"]:
    """Rows cut or padded on the right to one width."""
    padded = np.full((len(rows), width), padding, np.int32)
    for to, row in zip(padded, rows, strict=True):
        to[: len(row)] = row[:width]
    return padded
