"""Regular expressions on the device, against Python's `re` on all short sequences."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evidence.texts import PARTS, disagreements, language

import bayesft.lm
from bayesft.errors import EvidenceError, PromptError
from bayesft.evidence import automaton, matchers, regex
from bayesft.priors import markov
from bayesft.target import Target

pytest.importorskip("outlines_core")

EXAMPLES = [regex("(ab)+|b*", language()), regex("a(a|b)", language(), name="a_and_one")]


@pytest.mark.parametrize(
    "pattern",
    [
        "a|ab",  # the leftmost-first match of "ab" is "a" alone
        "a*?b?",
        "",
        "[^a]+",
        "(é|aé)b?",
        "^ab$",
        "^a|b$",
        "(?i)^A+É?$",
        ".{2}",
        "(?s).*ab.*",
        "(ab|a)(bé|é)?",
        r"(a$|b|\w\w)",
    ],
)
def test_every_short_sequence_is_as_python_says(pattern: str):
    evidence = regex(pattern, PARTS)
    complaints = disagreements(evidence, PARTS, lambda s: bool(re.fullmatch(pattern, s)), 2, tail=2)
    assert not complaints, complaints[:3]


def test_a_match_that_is_found_too_early_is_caught(monkeypatch):
    """Planted bug: the leftmost-first match of a|ab, as a compiler for searching finds it."""
    found = automaton.from_regex("a")
    monkeypatch.setattr(automaton, "from_regex", lambda pattern: found)
    evidence = regex("a|ab", PARTS)
    assert disagreements(evidence, PARTS, lambda s: bool(re.fullmatch("a|ab", s)), 2, tail=1)


def test_bounded_repetitions_stay_small():
    """Planted bug: a search for later beginnings would need 2^30 states."""
    assert len(automaton.from_regex("a.{0,30}b").after) < 1000


def test_the_horizon_counts():
    """Two tokens are left after the first: "aab" is still possible, "aaab" is not."""
    prior = language()
    target = Target(prior, regex("aa+b", prior), max_new_tokens=4, eos="condition")
    evidence = target.terms[0].evidence
    state, _ = evidence.step(evidence.init(None), jnp.int32(0))
    state, _ = evidence.step(state, jnp.int32(0))
    assert evidence.increments(state, 3).tolist() == [-np.inf, 0.0, -np.inf]
    state, _ = evidence.step(state, jnp.int32(1))
    assert evidence.increments(state, 3).tolist() == [-np.inf, -np.inf, 0.0]


@pytest.mark.parametrize("folder", ["stories260K", "babyllama361"])
def test_real_vocabularies_allow_what_llguidance_allows(assets, folder):
    prior = bayesft.lm.load(assets / folder)
    pattern = r" ?(Once|Tim|café)( \w+){1,3}[.!]"
    evidence = regex(pattern, prior)
    grammar = matchers.Grammar.of_regex(pattern, prior)
    increments, step = jax.jit(lambda s: evidence.increments(s, 0)), jax.jit(evidence.step)
    generator = np.random.default_rng(0)
    special = [t for t, text in enumerate(prior.token_bytes()) if text is None]
    for _ in range(4):
        state, handle = evidence.init(None), 1
        for _ in range(12):
            allowed = np.asarray(increments(state)) == 0
            assert (allowed == grammar.mask(handle)).all()
            allowed[special] = False
            if not allowed.any():
                break
            token = generator.choice(np.flatnonzero(allowed))
            state, _ = step(state, jnp.int32(token))
            handle = grammar.child(handle, int(token))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", r"'\(a' does not compile: (?s:.*)unclosed group"),
        ("a)|(b", "does not compile"),
        ("(?=a)b", "look-around, including"),
        (r"\bfoo", "word boundaries"),
        ("(^a|b)a", "does not compile"),
        (re.compile("a"), "type Pattern"),
        ("c", "No sequence of tokens writes a text that matches the pattern 'c'"),
    ],
)
def test_patterns_that_cannot_be_used(pattern, said):
    with pytest.raises(EvidenceError, match=said):
        regex(pattern, language())


@pytest.mark.parametrize(("eos", "needed"), [("truncate", 3), ("condition", 4), ("force", 4)])
def test_a_horizon_that_is_too_short_is_refused(eos, needed):
    evidence = regex("a{3,}", language())
    Target(language(), evidence, max_new_tokens=needed, eos=eos)
    Target(language(), 0.0 * evidence, max_new_tokens=1, eos=eos)
    said = rf"pattern 'a\{{3,\}}' has {needed} tokens.*max_new_tokens is {needed - 1}"
    with pytest.raises(EvidenceError, match=said):
        Target(language(), evidence, max_new_tokens=needed - 1, eos=eos)


def test_another_vocabulary_is_refused():
    with pytest.raises(EvidenceError, match="made for 11 tokens"):
        Target(language(), regex("a", PARTS), max_new_tokens=3)
    logits = jnp.zeros((3, 3))
    with pytest.raises(PromptError, match="does not say what its tokens write"):
        regex("a", markov(logits[0], logits, eos=2))


def test_a_table_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(automaton, "MAX_ENTRIES", 50)
    with pytest.raises(EvidenceError, match="needs a table of more than"):
        regex("a{20}", PARTS)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(EvidenceError, match=r"bayesft\[grammar\]"):
        regex("a", language())
