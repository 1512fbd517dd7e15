"""Context-free languages by `llguidance`, on the host: which tokens may follow a prefix.

The state of a particle is a handle, an integer that names a prefix; the trie of all prefixes met so
far is on the host. A prefix keeps its handle for as long as the grammar lives, so handles can be
copied and reordered like any array, and a call with the same arguments always returns the same.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import math
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Horizon, PrefixEvidence, Prior, Prompt
from bayesft.errors import EvidenceError
from bayesft.evidence import grammar_extra
from bayesft.evidence.regex import check_vocabulary

MAX_MATCHERS = 4096
"""Parsers and masks kept; others are made again from their prefix."""
ROOT = 1


class Grammar:
    """A compiled grammar and the prefixes met so far; handle 0 is every impossible one."""

    def __init__(self, source: str, prior: Prior, what: str):
        library = grammar_extra.load("llguidance", what)
        self.token_bytes, self.eos = list(prior.token_bytes()), tuple(prior.eos)
        self._tokenizer = library.LLTokenizer(
            library.TokenizerWrapper(_Tokens(self.token_bytes, self.eos)),
            n_vocab=len(self.token_bytes),
            eos_token=list(self.eos),
        )
        matcher = library.LLMatcher(self._tokenizer, source, log_level=0)
        message = matcher.get_error() if matcher.is_error() else ""
        possible = not message and (matcher.is_accepting() or self._possible(matcher).any())
        if not possible:
            raise EvidenceError(
                f"{what} does not compile: {message}"
                if message
                else f"No token can begin a text that matches {what}.",
                cause="a typing error or a contradiction in it, or characters that the "
                "vocabulary lacks.",
                remedy="correct it: bft.evidence.json_schema takes a JSON schema, "
                "bft.evidence.context_free the syntax of Lark as llguidance documents it.",
            )
        self._lock = threading.RLock()
        self._parents: list[tuple[int, int]] = [(0, 0), (0, 0)]
        self._accepting = [False, bool(matcher.is_accepting())]
        self._children: dict[tuple[int, int], int] = {}
        self._matchers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._masks: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._root = matcher

    @classmethod
    def of_regex(cls, pattern: str, prior: Prior) -> Grammar:
        """The language of a regular expression, for comparison with its automaton."""
        library = grammar_extra.load("llguidance", "A regular expression")
        return cls(library.LLMatcher.grammar_from_regex(pattern), prior, f"{pattern!r}")

    def accepts(self, handle: int) -> bool:
        """Whether the text so far is in the language."""
        return self._accepting[handle]

    def child(self, handle: int, token: int) -> int:
        """The handle of a prefix with one more token; EOS keeps it where the text is accepted."""
        with self._lock:
            if token in self.eos:
                return handle if self._accepting[handle] else 0
            if handle == 0 or self.token_bytes[token] is None:  # special tokens write nothing
                return handle
            key = handle, token
            if (found := self._children.get(key)) is None:
                found = self._children[key] = self._grow(handle, token)
            return found

    def mask(self, handle: int) -> Bool[np.ndarray, " V"]:
        """Which tokens may follow."""
        with self._lock:
            if handle == 0:
                return np.zeros(len(self.token_bytes), bool)
            if (mask := self._masks.get(handle)) is None:
                mask = self._possible(self._matcher(handle))
                mask[[token for token, text in enumerate(self.token_bytes) if text is None]] = True
                mask[list(self.eos)] = self._accepting[handle]
                _keep(self._masks, handle, mask)
            return mask

    def _grow(self, handle: int, token: int) -> int:
        matcher = self._matcher(handle).deep_copy()
        if not self._accepts(matcher, token):
            return 0
        matcher.consume_token(token)
        _require_sound(matcher)
        self._parents.append((handle, token))
        self._accepting.append(bool(matcher.is_accepting()))
        new = len(self._parents) - 1
        _keep(self._matchers, new, matcher)
        return new

    def _matcher(self, handle: int) -> Any:
        """The parser behind a prefix; never to be changed."""
        if handle == ROOT:
            return self._root
        if handle in self._matchers:
            self._matchers.move_to_end(handle)
            return self._matchers[handle]
        path, at = [], handle
        while at != ROOT and at not in self._matchers:
            at, token = self._parents[at]
            path.append(token)
        matcher = (self._root if at == ROOT else self._matchers[at]).deep_copy()
        matcher.consume_tokens(path[::-1])
        _require_sound(matcher)
        _keep(self._matchers, handle, matcher)
        return matcher

    def _possible(self, matcher: Any) -> Bool[np.ndarray, " V"]:
        """The tokens whose bytes may follow, special ones and EOS aside.

        Where bytes are forced, the library's mask holds only their usual tokenisation. The others
        write the same text, so they are tried one by one.
        """
        forced = matcher.deep_copy().compute_ff_bytes()
        mask = np.zeros(len(self.token_bytes), bool)
        if forced:
            for token in self._compatible(forced):
                mask[token] = self._accepts(matcher.deep_copy(), token)
            return mask
        asked = matcher.deep_copy()
        bits = np.frombuffer(asked.compute_bitmask(), np.uint8)
        _require_sound(asked)
        mask[:] = np.unpackbits(bits, bitorder="little")[: len(mask)]
        return mask

    def _accepts(self, matcher: Any, token: int) -> bool:
        accepted = matcher.validate_tokens([token]) == 1
        _require_sound(matcher)
        return accepted

    def _compatible(self, forced: bytes) -> list[int]:
        """Tokens that write a beginning of these bytes, or all of them and more."""
        if not hasattr(self, "_sorted"):
            written = [(text, token) for token, text in enumerate(self.token_bytes) if text]
            self._sorted = sorted(written)
        found = []
        for size in range(1, len(forced)):
            found += self._between(forced[:size], forced[:size] + b"\0")
        return found + self._between(forced, forced + b"\xff" * 64)

    def _between(self, low: bytes, high: bytes) -> list[int]:
        start, stop = (bisect.bisect_left(self._sorted, (end, -1)) for end in (low, high))
        return [token for _, token in self._sorted[start:stop]]


class _Tokens:
    """A vocabulary as llguidance asks for it, which encodes by the longest match."""

    def __init__(self, token_bytes: list[bytes | None], eos: tuple[int, ...]):
        self.eos_token_id, self.bos_token_id = eos[0], None
        self.tokens = [text or b"" for text in token_bytes]
        self.special_token_ids = [i for i, text in enumerate(token_bytes) if text is None]
        self._ids = {text: i for i, text in enumerate(self.tokens) if text}
        self._longest = max(map(len, self.tokens))

    def __call__(self, text: str | bytes) -> list[int]:
        rest, ids = text.encode() if isinstance(text, str) else text, []
        while rest:
            sizes = range(min(self._longest, len(rest)), 0, -1)
            size = next((size for size in sizes if rest[:size] in self._ids), None)
            if size is None:
                break
            ids.append(self._ids[rest[:size]])
            rest = rest[size:]
        return ids


def _keep(store: collections.OrderedDict[int, Any], handle: int, value: Any) -> None:
    store[handle] = value
    while len(store) > MAX_MATCHERS:
        store.popitem(last=False)


type State = tuple[Int[Array, ""], Bool[Array, ""]]
"""Handle of the prefix, and whether it is a whole text of the language."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextGrammar(PrefixEvidence):
    """log φ(y) = 0 where the text of y is in the language of a grammar, -inf where it is not."""

    grammar: Grammar = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, 0.0

    def init(self, x: Prompt) -> State:
        return jnp.full((), ROOT, jnp.int32), jnp.asarray(self.grammar.accepts(ROOT))

    def step(self, state: State, token: Int[Array, ""]) -> tuple[State, Float[Array, ""]]:
        shapes = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
        handle, accepts = jax.pure_callback(
            self._children, shapes, state[0], token, vmap_method="broadcast_all"
        )
        return (handle, accepts), jnp.where(handle > 0, 0.0, -jnp.inf)

    def increments(self, state: State, vocab_size: int) -> Float[Array, " V"]:
        shape = jax.ShapeDtypeStruct((vocab_size,), jnp.bool_)
        mask = jax.pure_callback(self._masks, shape, state[0], vmap_method="broadcast_all")
        return jnp.where(mask, 0.0, -jnp.inf)

    def cut(self, state: State) -> Float[Array, ""]:
        handle, accepts = state
        return jnp.where((handle > 0) & accepts, 0.0, -jnp.inf)

    def bind(self, prior: Prior, horizon: Horizon, longest_prompt: int) -> TextGrammar:
        check_vocabulary(self.name, len(self.grammar.token_bytes), prior)
        return self

    def _children(self, handles: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
        handles, tokens = np.broadcast_arrays(np.asarray(handles), np.asarray(tokens))
        pairs = zip(handles.ravel().tolist(), tokens.ravel().tolist(), strict=True)
        after = [self.grammar.child(handle, token) for handle, token in pairs]
        accepts = np.asarray([self.grammar.accepts(handle) for handle in after], bool)
        shape = handles.shape
        return np.asarray(after, np.int32).reshape(shape), accepts.reshape(shape)

    def _masks(self, handles: Any) -> np.ndarray:
        handles = np.asarray(handles)
        masks = np.stack([self.grammar.mask(handle) for handle in handles.ravel().tolist()])
        return masks.reshape(*handles.shape, -1)


def _require_sound(matcher: Any) -> None:
    """Raise where the parser gave up: it never raises by itself, and would forbid what is valid."""
    if matcher.is_error():
        raise EvidenceError(
            f"The parser of the grammar gave up: {matcher.get_error()}",
            cause="a limit of llguidance on the size of its parser or lexer.",
            remedy="simplify the grammar, or use bft.evidence.regex where a pattern will do.",
        )
