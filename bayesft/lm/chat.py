"""Chat messages as text, by the model's own Jinja template in a sandbox.

The environment is that of transformers (trimmed blocks, loop controls, `raise_exception`,
`strftime_now`, a plain `tojson`, `{% generation %}` blocks), whose module is not used because it
imports torch where torch is installed. The sandbox is immutable: a template cannot reach Python.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from bayesft.errors import PromptError


def render_chat(
    messages: Sequence[Mapping[str, Any]], template: str, special_tokens: Mapping[str, str]
) -> str:
    """The text of a conversation up to where the assistant answers.

    Raises PromptError where the template refuses the messages.
    """
    try:
        return _compile(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **special_tokens,
        )
    except Exception as error:  # whatever a template does wrong is the template's refusal
        raise PromptError(
            f"The chat template refused the messages: {error}.",
            cause="roles or keys that the template does not know, or roles in another order",
            remedy='give messages such as {"role": "user", "content": "…"}',
        ) from error


class _Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %} marks what the assistant said; it adds no text."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda fmt: datetime.datetime.now().strftime(fmt)
    return environment.from_string(template)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
