"""A context-free grammar that the text must match."""

from __future__ import annotations

from bayesft.base import Prior
from bayesft.errors import EvidenceError
from bayesft.evidence import grammar_extra
from bayesft.evidence.matchers import Grammar, TextGrammar


def context_free(grammar: str, prior: Prior, *, name: str = "context_free") -> TextGrammar:
    """Evidence that the whole text of a completion is in the language of a grammar:

        log φ(y) = 0 where `start` derives the text of y, else -inf

    in the syntax of Lark as `llguidance` documents it (its terminals are matched greedily). The
    text is what `prior` decodes, EOS and other special tokens left out. An increment is -inf as
    soon as no bytes can complete the text; EOS, and the cut by the horizon, are possible only
    behind a whole text. The posterior is the prior *conditioned* on the language.

    The parser runs on the host, in one call per token for all particles: where a pattern will do,
    `regex` is faster. It remembers each prefix that it has met, about 300 bytes apiece, until JAX's
    caches are cleared (`jax.clear_caches`), and the parsers and masks (V bytes) of some thousands.
    Whether the horizon is long enough is not known in advance.

    Raises EvidenceError for a grammar that does not compile, with llguidance's message, one that no
    token can begin, and without the extra `grammar`. Raises PromptError for a prior without text.
    """
    if not isinstance(grammar, str):
        raise EvidenceError(
            f"A grammar of type {type(grammar).__name__} is not text.",
            remedy='pass it in the syntax of Lark: \'start: "yes" | "no"\'.',
        )
    matcher = grammar_extra.load("llguidance", "A grammar").LLMatcher
    return TextGrammar(Grammar(matcher.grammar_from_lark(grammar), prior, "the grammar"), name)
