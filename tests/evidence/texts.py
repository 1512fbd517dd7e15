"""Toy vocabularies, and the truth about evidence on text by listing all short sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bayesft.base import PrefixEvidence, Prior
from bayesft.priors import markov
from bayesft.target import Target


class Toy:
    """What evidence on text asks of a prior, over tokens that may be parts of characters."""

    def __init__(self, tokens: Sequence[bytes | None], eos: tuple[int, ...]):
        self.tokens, self.eos, self.vocab_size = list(tokens), eos, len(tokens)

    def token_bytes(self) -> list[bytes | None]:
        return self.tokens


E = "é".encode()
PARTS = Toy([b"a", b"b", b"ab", b"ba", E, E[:1], E[1:], b"b" + E[:1], None, None, None], (9, 10))
"""Whole and split characters, a special token (8), and two tokens that end a text."""


def language() -> Prior:
    """The language of the laws: a, b and EOS, all as likely."""
    logits = jnp.zeros((3, 3))
    return markov(logits[0], logits, eos=2, vocabulary=("a", "b", ""))


def text_of(tokens: Sequence[int], prior) -> str | None:
    """The text of a sequence, or None where it is not UTF-8."""
    found = prior.token_bytes()
    written = b"".join(found[token] or b"" for token in tokens if token not in prior.eos)
    try:
        return written.decode()
    except UnicodeDecodeError:
        return None


def disagreements(
    evidence: PrefixEvidence, prior, matches: Callable[[str], bool], num_tokens: int, tail: int = 0
) -> list[str]:
    """How stepping through all sequences of up to `num_tokens` tokens differs from the truth.

    A prefix is dead where none of its extensions by `tail` more tokens matches.
    """
    others = [token for token in range(prior.vocab_size) if token not in prior.eos]
    complaints, states = [], {(): evidence.init(empty_prompt())}

    def good(tokens: tuple[int, ...]) -> bool:
        text = text_of(tokens, prior)
        return text is not None and matches(text)

    alive = {
        tokens[:size]
        for length in range(num_tokens + tail + 1)
        for tokens in itertools.product(others, repeat=length)
        if good(tokens)
        for size in range(length + 1)
    }
    vocabulary = jnp.arange(prior.vocab_size, dtype=jnp.int32)
    every = jax.jit(lambda state: jax.vmap(lambda token: evidence.step(state, token))(vocabulary))
    row = jax.jit(lambda state: evidence.increments(state, prior.vocab_size))
    cut = jax.jit(evidence.cut)
    for _ in range(num_tokens):
        following = {}
        for tokens, state in states.items():
            after, increments = every(state)
            expected = [
                good(tokens) if token in prior.eos else (*tokens, token) in alive
                for token in range(prior.vocab_size)
            ]
            truth = np.where(expected, 0.0, -np.inf)
            if not np.array_equal(increments, truth):
                complaints.append(f"{tokens}: steps {increments} are not {truth}")
            if not np.array_equal(row(state), truth):
                complaints.append(f"{tokens}: increments {row(state)} are not {truth}")
            if float(cut(state)) != (0.0 if good(tokens) else -np.inf):
                complaints.append(f"{tokens}: cut {cut(state)}")
            after = [jax.tree.map(lambda a, t=token: np.asarray(a)[t], after) for token in others]
            following |= {
                (*tokens, token): state
                for token, state in zip(others, after, strict=True)
                if (*tokens, token) in alive
            }
        states = following
    return complaints


def empty_prompt():
    return jax.tree.map(lambda a: a[0], Target(language(), max_new_tokens=1).xs)
