"""Chat messages as text, by the model's own Jinja template in a sandbox.

The environment is that of transformers (trimmed blocks, loop controls, `raise_exception`,
`strftime_now`, a plain `tojson`, `{% generation %}` blocks), whose module is not used because it
imports torch where torch is installed. The sandbox is immutable: a template cannot reach Python.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
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

    Equal to transformers' `apply_chat_template(messages, add_generation_prompt=True)`. Keys whose
    value is None are left out, as there. Raises PromptError where the template is none or refuses
    the messages, and for messages that are more than JSON.
    """
    plain = _plain(messages)
    try:
        return _compile(template).render(
            messages=plain,
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **special_tokens,
        )
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(
            f"Line {error.lineno} of the chat template is no Jinja: {str(error).rstrip('.')}.",
            cause="chat_template.jinja, or chat_template in tokenizer_config.json, was edited or "
            "cut off",
            remedy="download it again, or give the prompt as text",
        ) from error
    except Exception as error:  # whatever a template does wrong is the template's refusal
        raise PromptError(
            f"The chat template refused the messages: {error}.",
            cause="roles or keys that the template does not know, or roles in another order",
            remedy='give messages such as {"role": "user", "content": "…"}',
        ) from error


_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of what a model thought before it answered; templates read the first, gpt-oss the second."""


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of JSON's types alone: objects have methods, which a template could call."""
    try:
        plain = json.loads(json.dumps([dict(message) for message in messages]))
    except (TypeError, ValueError) as error:
        raise PromptError(
            f"The chat messages are not plain data: {error}.",
            cause="an image, an array or another object among the keys of a message",
            remedy="give text, numbers, lists and dicts alone",
        ) from error
    found = []
    for message in plain:
        message = {key: value for key, value in message.items() if value is not None}
        thought = next((message[key] for key in _REASONING if key in message), None)
        if thought is not None:
            message = {"thinking": thought} | message | {"reasoning_content": thought}
        found.append(message)
    return found


class _Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %} marks what the assistant said; it adds no text.

    It is a scope, as in transformers: variables set in it end with it.
    """

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_written")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


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
