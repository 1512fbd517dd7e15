"""JSON schemas: texts that are drawn under them parse and satisfy them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evidence.texts import Toy, disagreements, language

from bayesft.errors import EvidenceError
from bayesft.evidence import json_schema
from bayesft.evidence.matchers import ROOT
from bayesft.priors import markov

pytest.importorskip("llguidance")

JSON = Toy([b"{", b"}", b'"a"', b":", b"1", b'{"a', b'":', b"[", b"]", b" ", None], (10,))
LETTERS = {"enum": ["a"]}  # '"a"' cannot be written in a and b


def written() -> list:
    """The laws' language cannot write JSON; a vocabulary of the same size can."""
    logits = jnp.zeros((3, 3))
    prior = markov(logits[0], logits, eos=2, vocabulary=("1", "2", ""))
    digits = {"type": "integer"}
    return [json_schema(digits, prior), json_schema({"enum": [1, 12]}, prior, name="either")]


EXAMPLES = written()


def fits(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    number = value.get("a") if isinstance(value, dict) and set(value) == {"a"} else None
    return isinstance(number, int) and text == text.strip()


def test_every_short_sequence_is_as_json_says():
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    evidence = json_schema(schema, JSON, whitespace=False)

    def matches(text: str) -> bool:
        return text == '{"a":1}'

    complaints = disagreements(evidence, JSON, matches, 1, tail=4)
    assert not complaints, complaints[:3]
    loose = json_schema(schema, JSON).grammar
    handle = loose.child(loose.child(ROOT, 0), 9)
    assert handle > 0 and evidence.grammar.child(evidence.grammar.child(ROOT, 0), 9) == 0


def test_random_completions_satisfy_the_schema(assets):
    lm = pytest.importorskip("bayesft.lm")
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    prior = lm.load(assets / "stories260K")
    grammar = json_schema(schema, prior, whitespace=False).grammar
    writes = np.asarray([text is not None for text in prior.token_bytes()])
    generator, finished = np.random.default_rng(0), 0
    for _ in range(30):
        handle, tokens = ROOT, []
        while len(tokens) < 60 and not grammar.accepts(handle):
            token = int(generator.choice(np.flatnonzero(grammar.mask(handle) & writes)))
            handle = grammar.child(handle, token)
            assert handle > 0
            tokens.append(token)
        if grammar.accepts(handle):
            finished += 1
            value = json.loads(prior.decode(tokens))
            assert set(value) == {"name", "age"} and isinstance(value["age"], int)
    assert finished > 10


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "foo"}, "Invalid type: foo"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable schema"),
        ("{", "not JSON"),
        ({"enum": {1, 2}}, "not JSON"),
        (LETTERS, "No token can begin a text that matches the JSON schema"),
    ],
)
def test_schemas_that_cannot_be_used(schema, said):
    with pytest.raises(EvidenceError, match=said):
        json_schema(schema, language())


def test_stepping_on_the_device():
    state, increment = jax.jit(EXAMPLES[1].step)(EXAMPLES[1].init(None), jnp.int32(1))
    assert increment == -np.inf
    state, increment = jax.jit(EXAMPLES[1].step)(EXAMPLES[1].init(None), jnp.int32(0))
    assert increment == 0.0 and EXAMPLES[1].increments(state, 3).tolist() == [-np.inf, 0.0, 0.0]
