"""A JSON schema that the text must satisfy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bayesft.base import Prior
from bayesft.errors import EvidenceError
from bayesft.evidence import grammar_extra
from bayesft.evidence.matchers import Grammar, TextGrammar


def json_schema(
    schema: Mapping[str, Any] | str,
    prior: Prior,
    *,
    whitespace: bool = True,
    name: str = "json_schema",
) -> TextGrammar:
    """Evidence that the whole text of a completion is JSON of a schema:

        log φ(y) = 0 where the text of y is an instance of the schema, else -inf

    as `llguidance` reads it: properties come in the order in which the schema names them, and a
    keyword that it does not implement is an error. Without `whitespace` there is none between the
    values. Increments, EOS, the conditional distribution and the cost are as in `context_free`.

    Raises EvidenceError for a schema that does not compile or is unsatisfiable, with llguidance's
    message, and without the extra `grammar`. Raises PromptError for a prior without text.
    """
    matcher = grammar_extra.load("llguidance", "A JSON schema").LLMatcher
    try:
        text = schema if isinstance(schema, str) else json.dumps(dict(schema))
        options = {"whitespace_flexible": whitespace}
        source = matcher.grammar_from_json_schema(text, overrides=options)
    except (TypeError, ValueError) as error:
        raise EvidenceError(
            f"The schema is not JSON: {error}.",
            cause="a value that JSON does not have, or a typing error.",
            remedy="pass a dict, or the text of a JSON object.",
        ) from error
    return TextGrammar(Grammar(source, prior, "the JSON schema"), name)
