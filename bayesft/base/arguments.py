"""What drivers and constructors ask of an argument, whatever their errors are called."""

from __future__ import annotations

import inspect
import operator
from typing import Any

from bayesft.base.distributions import is_key
from bayesft.errors import BayesftError


def whole_number(value: Any) -> int | None:
    """The value as an int; None for what is no whole number, and for True and False."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def checked_count(name: str, value: Any, error: type[BayesftError], least: int = 1) -> int:
    """The value as an int of at least `least`; raises `error` for anything else."""
    count = whole_number(value)
    if count is None or count < least:
        raise error(
            f"{name}={value!r} is not a count of at least {least}.",
            cause="a smaller number, a float, or no number at all.",
            remedy=f"give {name} as a whole number from {least} up.",
        )
    return count


def require_key(key: Any, error: type[BayesftError]) -> None:
    """Raises `error` for what is not one typed key."""
    if not is_key(key):
        raise error(
            f"The key is not a single typed JAX key: {key!r}.",
            cause="a seed, a batch of keys, or a key of the old uint32 kind.",
            remedy="pass jax.random.key(seed).",
        )


def takes(function: Any, num: int) -> bool:
    """Whether it can be called with so many arguments, as far as it says what it takes."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError, NameError):  # a builtin, or annotations that name nothing here
        return True
    try:
        signature.bind(*range(num))
    except TypeError:
        return False
    return True
