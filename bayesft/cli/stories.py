"""Evidence for the story model that comes along: how sad a story is, and whether it is polite.

bayesft sample --model stories --reward bayesft.cli.stories:sadness --bounds -1,1 …
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def sadness(completions: list[str]) -> list[float]:
    """−s / √(s² + 15), s the summed valence of the lexicon's words: in (−1, 1), 1 the saddest."""
    valences = lexicon()
    sums = [sum(valences.get(word, 0.0) for word in words(text)) for text in completions]
    return [-total / math.sqrt(total * total + 15) for total in sums]


def polite(completions: list[str]) -> list[bool]:
    """Whether a story has none of the listed rude or violent words."""
    return [impolite_words().isdisjoint(words(text)) for text in completions]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [match.group().lower() for match in WORD.finditer(text)]


@functools.cache
def lexicon() -> Mapping[str, float]:
    """Words of children's stories with their valence, from −4 to 4."""
    rows = (line.split("\t") for line in _lines("lexicon.tsv"))
    return {word: float(valence) for word, valence in rows}


@functools.cache
def impolite_words() -> frozenset[str]:
    return frozenset(_lines("impolite.txt"))


def _lines(name: str) -> Iterator[str]:
    """Lines of a file that comes along, without its comments."""
    text = (files("bayesft") / "assets" / name).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))
