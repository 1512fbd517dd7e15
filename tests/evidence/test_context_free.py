"""Context-free grammars on the host, against Python on all short sequences."""

import concurrent.futures
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evidence.texts import PARTS, disagreements, language

from bayesft.errors import EvidenceError
from bayesft.evidence import context_free, matchers
from bayesft.target import Target
from bayesft.testing import enumerate_target

pytest.importorskip("llguidance")

NESTED = 'start: "a" start "b" | ""'
EXAMPLES = [
    context_free(NESTED, language()),
    context_free('start: /b+/ | "a"', language(), name="regular"),
]


def nested(text: str) -> bool:
    half = len(text) // 2
    return text == "a" * half + "b" * half


@pytest.mark.parametrize(
    ("grammar", "matches"),
    [
        (NESTED, nested),
        ('start: "ab" | "éa"', {"ab", "éa"}.__contains__),  # forced: usual tokens are not all
        ('start: "a" "b" "a"', {"aba"}.__contains__),
        ('start: "" | "é" start', lambda s: not s.strip("é")),
    ],
)
def test_every_short_sequence(grammar, matches):
    evidence = context_free(grammar, PARTS)
    complaints = disagreements(evidence, PARTS, matches, 2, tail=2)
    assert not complaints, complaints[:3]


def test_masks_of_usual_tokenisations_only_are_caught(monkeypatch):
    """Planted bug: llguidance's own mask, which leaves out other ways to write forced bytes."""
    monkeypatch.setattr(matchers.Grammar, "_compatible", lambda self, forced: [2])
    evidence = context_free('start: "ab"', PARTS)
    assert disagreements(evidence, PARTS, {"ab"}.__contains__, 1, tail=1)


def outcomes(evidence):
    return enumerate_target(Target(language(), evidence, max_new_tokens=4))


def test_stepping_agrees_with_teacher_forcing_however_few_parsers_are_kept(monkeypatch):
    exact = outcomes(context_free(NESTED, language()))
    texts = ["".join("ab"[t] for t in row if t != 2) for row in exact.tokens.tolist()]
    truth = np.where([nested(text) for text in texts], 0.0, -np.inf)
    assert (np.asarray(exact.log_evidence) == truth).all()
    monkeypatch.setattr(matchers, "MAX_MATCHERS", 1)
    assert (np.asarray(outcomes(context_free(NESTED, language())).log_evidence) == truth).all()


def test_handles_name_prefixes():
    grammar = context_free(NESTED, language()).grammar
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = [[0, 0, 1], [0, 0, 0], [0, 1, 2], [1, 0, 0]] * 50

        def walk(path):
            handle, met = matchers.ROOT, []
            for token in path:
                handle = grammar.child(handle, token)
                met.append(handle)
            return tuple(met)

        met = list(pool.map(walk, paths))
    assert len(set(met)) == 4
    aab, aaa, ended, dead = met[:4]
    assert aab[:2] == aaa[:2] and aab[2] != aaa[2]
    assert ended[2] == ended[1] and grammar.accepts(ended[1])
    assert dead == (0, 0, 0)


def test_batches_under_vmap_jit_and_without_jit():
    evidence = EXAMPLES[0]
    state = jax.vmap(jax.vmap(lambda _: evidence.init(None)))(jnp.zeros((2, 3)))
    tokens = jnp.asarray([[0, 1, 2], [0, 0, 1]], jnp.int32)
    step = jax.vmap(jax.vmap(evidence.step))
    _, eager = step(state, tokens)
    _, jitted = jax.jit(step)(state, tokens)
    with jax.disable_jit():
        _, plain = step(state, tokens)
    expected = np.where([[True, False, True], [True, True, False]], 0.0, -np.inf)
    for found in (eager, jitted, plain):
        assert (np.asarray(found) == expected).all()


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('start: "a" begin', 'unknown name: "begin"'),
        ("start: /(a/", "unclosed group"),
        ('start: "c"', "No token can begin"),
        (3, "type int"),
    ],
)
def test_grammars_that_cannot_be_used(grammar, said):
    with pytest.raises(EvidenceError, match=said):
        context_free(grammar, language())


def test_another_vocabulary_and_a_missing_extra_are_refused(monkeypatch):
    with pytest.raises(EvidenceError, match="made for 11 tokens"):
        Target(language(), context_free(NESTED, PARTS), max_new_tokens=3)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(EvidenceError, match=r"bayesft\[grammar\]"):
        context_free(NESTED, language())
