"""A strict reader of `config.json`: a setting that is not understood is refused, never ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bayesft.errors import ModelError

INERT = re.compile(
    r"_?name_or_path|architectures|auto_map|model_type|transformers_version|(torch_)?dtype"
    r"|use_cache|return_dict|output_(attentions|hidden_states|past)|(\w+_)?token_id"
    r"|initializer_range|\w*dropout\w*|\w*pdrop|gradient_checkpointing|pretraining_tp"
    r"|summary_\w+|_?num_labels|id2label|label2id|problem_type|task_specific_params|finetuning_task"
    r"|tokenizer_class|n_ctx|max_sequence_length|_from_model_config|is_decoder|is_llama_config"
    r"|_?attn_implementation(_\w+)?|cache_implementation|transformers\.js_config|unsloth_\w+"
    r"|do_sample|temperature|top_[kp]|num_beams|repetition_penalty|(max|min)_(length|new_tokens)"
)
"""Settings that do not change the logits of a forward pass without dropout. `auto_map` names code
in the folder, which is never run: `model_type` alone decides, as in transformers by default.
Settings of generation, which old configs hold, are none of a prior."""


class Settings:
    """The settings of a configuration, each taken once; `finish` refuses what was not taken."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json"):
        self._values = dict(values)
        self._where = where

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """An integer of at least `least`; null and absent mean the default."""
        value = self._values.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
            raise self._wrong(name, value, expected)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number; null and absent mean the default."""
        value = self._values.pop(name, None)
        value = default if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
        raise self._wrong(name, value, "a positive number")

    def optional_integer(self, name: str, default: int | None) -> int | None:
        """A positive integer; null means none, absent means the default."""
        return None if self._is_off(name, default) else self.integer(name, default)

    def optional_number(self, name: str, default: float | None) -> float | None:
        """A positive number; null means none, absent means the default."""
        return None if self._is_off(name, default) else self.number(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """True or false; null and absent mean the default."""
        value = self._values.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def choice[T](self, name: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """One of the named choices; null and absent mean the default."""
        value = self._values.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(name, value, f"one of {', '.join(choices)}")
        return choices[value]

    def choices[T](
        self, name: str, choices: Mapping[Any, T], default: Sequence[Any]
    ) -> tuple[T, ...]:
        """As many of the named choices as the default has; null and absent mean the default."""
        value = self._values.pop(name, None)
        value = default if value is None else value
        known = isinstance(value, Sequence) and all(
            isinstance(item, str | int) and item in choices for item in value
        )
        if not known or len(value) != len(default):
            names = ", ".join(map(str, choices))
            raise self._wrong(name, value, f"a list of {len(default)} of {names}")
        return tuple(choices[item] for item in value)

    def repeated(self, name: str, default: Sequence[Any]) -> list[Any]:
        """A list that is written as [[items, times], …]; null and absent mean the default."""
        value = self._values.pop(name, None)
        value = default if value is None else value
        try:
            return [item for items, times in value for item in items * times]
        except (TypeError, ValueError):
            raise self._wrong(name, value, "a list of [[item, …], times]") from None

    def inert(self, *names: str) -> None:
        """Settings that leave the logits of this family as they are."""
        for name in names:
            self._values.pop(name, None)

    def require(self, name: str, only: Any) -> None:
        """A setting of which one value is supported; null and absent mean that value."""
        value = self._values.pop(name, None)
        if value is not None and value != only:
            raise self._wrong(name, value, repr(only))

    def alias(self, name: str, to: str) -> None:
        """Reads an old name of a setting; both may be there if they agree."""
        value = self._values.pop(name, None)
        known = self._values.get(to)
        if value is not None and known is not None and value != known:
            raise self._wrong(name, value, f"what {to} says, {known!r}")
        self._values[to] = value if known is None else known

    def nested(self, name: str) -> Settings | None:
        """A nested group of settings, or None where there is none or it is empty."""
        value = self._values.pop(name, None)
        if value is None or value == {}:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return Settings(value, f"{name} of {self._where}")

    def finish(self) -> None:
        """Refuses settings that were not taken, unless they are inert or switched off."""
        left = {
            name: value
            for name, value in self._values.items()
            if not INERT.fullmatch(name) and value not in (None, False, "", [], {})
        }
        if left:
            name, value = next(iter(left.items()))
            raise ModelError(
                f"{self._where} sets {name} to {value!r}, which bayesft does not implement.",
                cause="the model is a variant of its family",
                remedy=f"use another model, or remove {name} from config.json if you know that "
                "it leaves the logits as they are",
            )

    def _is_off(self, name: str, default: float | None) -> bool:
        return self._values.get(name, default) is None

    def _wrong(self, name: str, value: Any, expected: str) -> ModelError:
        happened = (
            f"{self._where} has no {name}"
            if value is None
            else f"{self._where} sets {name} to {value!r}"
        )
        return ModelError(
            f"{happened}; bayesft supports {expected}.",
            cause="the model is of a variant that bayesft does not implement, or the file was "
            "edited",
            remedy="use another model, or correct the file",
        )
