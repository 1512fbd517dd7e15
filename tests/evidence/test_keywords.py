"""Keywords, against Python on all short sequences."""

import re

import jax.numpy as jnp
import pytest
from evidence.texts import PARTS, Toy, disagreements, language

from bayesft.errors import EvidenceError
from bayesft.evidence import keywords
from bayesft.target import Target

pytest.importorskip("outlines_core")

EXAMPLES = [keywords(["ab"], language()), keywords(["aa", "b"], language(), name="two")]
SPACED = Toy([b"a", b"b", b" ", b" a", b"bb", None], (5,))


@pytest.mark.parametrize("words", [["ba"], ["ab", "é"], ["a.", "b"]])
def test_every_short_sequence_contains_them(words):
    evidence = keywords(words, Toy([*PARTS.tokens[:-1], b".", None], (11,)))
    prior = Toy([*PARTS.tokens[:-1], b".", None], (11,))
    complaints = disagreements(evidence, prior, lambda s: all(w in s for w in words), 2, tail=2)
    # Two words of several tokens do not always fit: what is alive is a matter of the tail.
    cuts = [complaint for complaint in complaints if "cut" in complaint]
    assert not cuts, cuts[:3]


def test_whole_words():
    evidence = keywords(["a"], SPACED, whole_words=True)

    def matches(text: str) -> bool:
        return re.search(r"(?<!\w)a(?!\w)", text) is not None

    assert not disagreements(evidence, SPACED, matches, 3, tail=2)
    assert disagreements(keywords(["a"], SPACED), SPACED, matches, 3, tail=2)


def test_the_shortest_match_is_of_all_words_together():
    evidence = keywords(["aab", "bb"], language())
    assert (
        int(evidence.distance[evidence.start]) == 4
    )  # "aabb", not 3 as each alone, nor 5 as one by one
    with pytest.raises(EvidenceError, match=r"keywords \['aab', 'bb'\] has 4 tokens"):
        Target(language(), evidence, max_new_tokens=3)


@pytest.mark.parametrize("words", ["ab", [], [""], [1]])
def test_declaration_is_checked(words):
    with pytest.raises(EvidenceError, match="not a list of words"):
        keywords(words, language())


def test_a_word_that_cannot_be_written_is_refused():
    with pytest.raises(EvidenceError, match=r"the keywords \['c'\]"):
        keywords(["c"], language())
    assert jnp.issubdtype(EXAMPLES[0].after.dtype, jnp.int16)
