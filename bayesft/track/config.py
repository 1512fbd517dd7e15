"""A configuration as JSON can hold it, whatever its values are."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayesft.errors import RunError

MAX_DEPTH = 50
MAX_BITS = 10_000
"""Python prints no whole number far beyond these."""


def config_of(config: Any) -> dict[str, Any]:
    """A configuration as it is now: a mapping, a Namespace or a dataclass, described.

    Raises RunError for anything else.
    """
    if isinstance(config, argparse.Namespace):
        config = vars(config)
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise RunError(
            f"config is no mapping from names to values, but a {type(config).__name__}.",
            cause="the values were passed without names.",
            remedy='pass a dict: config={"learning_rate": 0.1}.',
        )
    return {text(str(name)): described(value) for name, value in config.items()}


def described(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON can hold it: functions by name, what else JSON lacks as it prints.

    `within` are the identities of what holds the value: what holds itself prints as Python does.
    """
    try:
        if id(value) in within or len(within) > MAX_DEPTH:
            return _printed(value)
        return _described(value, (*within, id(value)))
    except Exception:  # of a value's own code, which must not end a fit
        return _printed(value)


def text(value: str) -> str:
    """Text that UTF-8 holds: lone surrogates as their escapes."""
    return value.encode("utf-8", "backslashreplace").decode()


def _described(value: Any, within: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping):
        return {text(str(name)): described(entry, within) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [described(entry, within) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return hex(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.generic) or (hasattr(value, "shape") and value.shape == ()):
        return described(value.item(), within)
    if isinstance(value, Path):
        return text(str(value))
    name = getattr(value, "__name__", None)
    return text(name) if isinstance(name, str) else _printed(value)


def _printed(value: Any) -> str:
    try:
        return text(repr(value))
    except Exception:  # a deleted array, or the fault of its class
        return f"<{type(value).__name__}>"
