"""Regular languages as automata: over bytes, from a library, and over tokens, as a table.

A text matches where its bytes lead from the start to an accepting state. State 0 is dead: no text
that leads there can be extended to a match. Everything here runs once, on the host, in numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bayesft.errors import EvidenceError
from bayesft.evidence import grammar_extra

MAX_ENTRIES = 2**28
"""Largest table, in entries of two bytes (of four where there are more than 32767 states)."""
MAX_STATES = 2**16
"""Of an intersection, of 1 kB each."""
START = 1
_END, _ENTRY = 256, 257
"""Tokens beside the 256 bytes under which patterns are compiled."""
_LEADING_ANCHOR = re.compile(r"\A((?:\(\?[a-zA-Z-]+\))*)(?:\^|\\A)")
_TRAILING_ANCHOR = re.compile(r"(?<!\\)((?:\\\\)*)(?:\$|\\z|\\Z)\Z")


class ByteAutomaton(NamedTuple):
    """A deterministic automaton over bytes that starts in state 1."""

    after: Int[np.ndarray, "S 256"]
    accepting: Bool[np.ndarray, " S"]


class TokenAutomaton(NamedTuple):
    """A deterministic automaton over tokens; only state 0 can never accept."""

    after: Int[np.ndarray, "S V"]
    distance: Int[np.ndarray, " S"]
    """Tokens to the nearest accepting state, EOS not counted, in ascending order: 0 where it
    accepts; -1 for dead."""
    start: int


def from_regex(pattern: str) -> ByteAutomaton:
    """The automaton of the texts that a pattern matches as a whole, read by Rust's `regex`.

    Raises EvidenceError with the compiler's message for a pattern that does not compile.
    """
    outlines_core = grammar_extra.load("outlines_core", "A regular expression")
    # Without effect on a whole text, and unknown to the compiler at the beginning.
    body = _TRAILING_ANCHOR.sub(r"\1", _LEADING_ANCHOR.sub(r"\1", pattern, count=1))
    letters = {bytes([byte]): [byte] for byte in range(256)}
    alphabet = outlines_core.Vocabulary(_END, letters | {b"xy": [_ENTRY]})

    def compiled(source: str):
        try:
            return outlines_core.Index(source, alphabet)
        except ValueError as error:
            raise _refused(pattern, str(error)) from error

    # The compiler is made to search a text for its leftmost-first match. \z makes that the longest.
    # The empty alternative matches first, which ends the search at once: one that went on from
    # later beginnings could take exponentially many states. "xy" is where the pattern itself
    # begins; alone, the compiler tells whether it looks at what stands before it.
    compiled(f"{body}|")  # without brackets, which would make up for some that are missing
    index = compiled(rf"xy(?:{body})\z|")
    rows = index.get_transitions()
    start = rows[index.get_initial_state()][_ENTRY]
    states = [start, *({*rows, *(s for row in rows.values() for s in row.values())} - {start})]
    number = {state: i for i, state in enumerate(states, START)}
    after = np.zeros((len(states) + 1, 258), np.int32)
    for state, row in rows.items():
        after[number[state], list(row)] = [number[state] for state in row.values()]
    accepting = np.zeros(len(states) + 1, bool)
    accepting[[number[state] for state in index.get_final_states()]] = True
    accepting[0] = False
    return ByteAutomaton(after[:, :_END], accepting)


def _refused(pattern: str, message: str) -> EvidenceError:
    try:
        details = grammar_extra.load("llguidance", "A regular expression").LLMatcher
        source = details.grammar_from_regex(pattern)
        message = f"{message}\n{details.validate_grammar(source)}".strip()
    except EvidenceError:  # the other library of the extra only explains
        pass
    return EvidenceError(
        f"The pattern {pattern!r} does not compile: {message}",
        cause="a typing error; or look-around, a back-reference, \\b, or an anchor in the middle, "
        "which are not regular, or not supported in the syntax of Rust's `regex`.",
        remedy="correct the pattern; it matches the whole text, so ^ and $ can be left out.",
    )


def intersection(one: ByteAutomaton, two: ByteAutomaton) -> ByteAutomaton:
    """The automaton of the texts that both accept."""
    width = len(two.after)
    number = {START * width + START: START}
    rows, accepting, waiting = [np.zeros(256, np.int32)], [False], [(START, START)]
    for a, b in waiting:  # grows as pairs are met
        left, right = one.after[a], two.after[b]
        codes = np.where((left == 0) | (right == 0), 0, left.astype(np.int64) * width + right)
        for code in np.unique(codes[codes > 0]).tolist():
            if len(number) > MAX_STATES:
                raise EvidenceError(
                    f"The texts that hold all of several words take more than {MAX_STATES} states.",
                    cause="many keywords at once: states double with each.",
                    remedy="add up the evidence of single keywords, which is the same.",
                )
            if code not in number:
                number[code] = len(number) + START
                waiting.append(divmod(code, width))
        rows.append(np.asarray([number.get(code, 0) for code in codes.tolist()], np.int32))
        accepting.append(bool(one.accepting[a] and two.accepting[b]))
    return ByteAutomaton(np.stack(rows), np.asarray(accepting))


def distances(
    sources: Int[np.ndarray, " E"],
    targets: Int[np.ndarray, " E"],
    accepting: Bool[np.ndarray, " S"],
) -> Int[np.ndarray, " S"]:
    """Edges from each state to the nearest accepting one, -1 where there is no path."""
    found = np.where(accepting, 0, -1)
    frontier, level = accepting, 0
    while frontier.any():
        level += 1
        reached = np.zeros(len(found), bool)
        reached[sources[frontier[targets]]] = True
        frontier = reached & (found < 0)
        found[frontier] = level
    return found


def over_tokens(
    automaton: ByteAutomaton, token_bytes: Sequence[bytes | None], eos: Iterable[int], what: str
) -> TokenAutomaton:
    """The automaton over tokens, each of which writes its bytes, or nothing where they are None.

    EOS keeps an accepting state and leads to death from any other. Raises EvidenceError where no
    sequence of tokens writes a text that is accepted, or the table would be too large.
    """
    after, found = _reachable(automaton, token_bytes, what)
    lut = np.zeros(len(automaton.after), np.int32)
    lut[found] = np.arange(START, len(found) + START)
    ends = np.isin(np.arange(len(token_bytes)), list(eos))
    edges = [np.unique(row[~ends]) for row in after]
    sources = np.repeat(np.arange(START, len(found) + START), [len(row) for row in edges])
    accepting = np.concatenate([[False], automaton.accepting[found]])
    distance = distances(sources, lut[np.concatenate(edges)], accepting)
    if distance[START] < 0:
        raise EvidenceError(
            f"No sequence of tokens writes a text that matches {what}.",
            cause="a contradiction in the pattern, or characters that the vocabulary lacks.",
            remedy="correct the pattern, or use a prior whose tokens can write it.",
        )
    alive = np.flatnonzero(distance >= 0)
    # By distance: whether a state is near enough is then a comparison of its number.
    alive = alive[np.argsort(distance[alive], kind="stable")]
    place = np.zeros(len(distance), np.int32)
    place[alive] = np.arange(START, len(alive) + START)
    dtype = _dtype(len(alive) + START)
    table = np.zeros((len(alive) + START, len(token_bytes)), dtype)
    for state, row in enumerate(alive, START):
        table[state] = place[lut[after[row - START]]]
        table[state, ends] = state if distance[row] == 0 else 0
    nearest = np.concatenate([[-1], distance[alive]]).astype(np.int32)
    return TokenAutomaton(table, nearest, int(place[START]))


def _reachable(
    automaton: ByteAutomaton, token_bytes: Sequence[bytes | None], what: str
) -> tuple[list[np.ndarray], list[int]]:
    """The states that tokens lead to from the start, and where each token leads from each."""
    rows, found, dtype = [], [START], _dtype(len(automaton.after))
    seen = np.zeros(len(automaton.after), bool)
    seen[[0, START]] = True
    walk = _Walk(token_bytes)
    while len(rows) < len(found):
        chunk = found[len(rows) : len(rows) + 64]
        if (len(rows) + len(chunk)) * len(token_bytes) > MAX_ENTRIES:
            raise EvidenceError(
                f"{what} needs a table of more than {len(rows)} states × {len(token_bytes)} tokens "
                f"(the limit is {MAX_ENTRIES} entries).",
                cause="long bounded repetitions such as .{0,5000}, or many keywords at once.",
                remedy="write an open repetition and bound the length by max_new_tokens; give "
                "keywords one by one and add the evidence up; or use bft.evidence.context_free, "
                "which needs no table.",
            )
        for row in walk.after(automaton.after, chunk):
            rows.append(row.astype(dtype))
        new = np.unique(np.stack(rows[-len(chunk) :]))
        new = new[~seen[new]]
        seen[new] = True
        found.extend(new.tolist())
    return rows, found


def _dtype(num_states: int) -> type[np.signedinteger]:
    return np.int16 if num_states <= np.iinfo(np.int16).max else np.int32


class _Walk:
    """The bytes of all tokens, the longest first, to walk an automaton with all at once."""

    def __init__(self, token_bytes: Sequence[bytes | None]):
        texts = [text or b"" for text in token_bytes]
        lengths = np.asarray([len(text) for text in texts])
        self.order = np.argsort(-lengths, kind="stable")
        width = int(lengths.max(initial=0))
        padded = b"".join(texts[token].ljust(width, b"\0") for token in self.order)
        self.bytes = np.frombuffer(padded, np.uint8).reshape(len(texts), width)
        self.longer = [(lengths > position).sum() for position in range(width)]

    def after(self, table: Int[np.ndarray, "S 256"], states: list[int]) -> Iterator[np.ndarray]:
        """Where each token leads from each of the states."""
        for state in states:
            current = np.full(len(self.order), state, np.int32)
            for position, count in enumerate(self.longer):
                current[:count] = table[current[:count], self.bytes[:count, position]]
            row = np.empty_like(current)
            row[self.order] = current
            yield row
