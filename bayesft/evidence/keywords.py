"""Words that the text must contain."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from bayesft.base import Prior
from bayesft.errors import EvidenceError
from bayesft.evidence import automaton
from bayesft.evidence.regex import TextPattern, text_pattern


def keywords(
    words: Sequence[str], prior: Prior, *, whole_words: bool = False, name: str = "keywords"
) -> TextPattern:
    """Evidence that the text of a completion contains each of the words:

        log φ(y) = 0 where every word is a part of the text of y, else -inf

    in any order, upper and lower case told apart. With `whole_words` a word counts where no letter,
    digit or underscore stands right before or behind it in the completion. Like `regex` it is a
    table of states on the device; about 2^K times as many as for one word where there are K.

    Raises EvidenceError for no words, an empty one, a table that is too large (add up the evidence
    of single words then, which is the same), and as `regex` does.
    """
    if isinstance(words, str) or not words or not all(isinstance(w, str) and w for w in words):
        raise EvidenceError(
            f"The keywords {words!r} are not a list of words.",
            cause="a single string, an empty list, or an empty word.",
            remedy='write keywords(["word"], prior).',
        )
    ahead, behind = (r"(?s:.*\W)?", r"(?s:\W.*)?") if whole_words else ("(?s:.*)", "(?s:.*)")
    each = [automaton.from_regex(f"{ahead}{re.escape(word)}{behind}") for word in words]
    texts = functools.reduce(automaton.intersection, each)
    return text_pattern(texts, prior, f"the keywords {list(words)}", name)
