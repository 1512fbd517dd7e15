"""Calls of Python evidence: one call for many rows, with every value checked."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Bool

from bayesft.base import Rows
from bayesft.errors import EvidenceError

STANDARD = ("prompts", "completions", "completion_ids")
NO_NUMBERS = "cmMSU"
"""Kinds of numpy types that float() reads but that are none: complex, times, dates and texts."""


def name_of(fn: Callable[..., Any], name: str | None) -> str:
    """What to call a function in errors and metrics."""
    while isinstance(fn, functools.partial):  # jax.tree_util.Partial is one too
        fn = fn.func
    return name or getattr(fn, "__name__", None) or type(fn).__name__


def check_function(fn: Any, name: str) -> None:
    """Refuse what cannot be called."""
    if not callable(fn):
        raise EvidenceError(
            f"{name} is a {type(fn).__name__}, not a function.",
            cause="the result of a call was passed instead of the function itself.",
            remedy="pass the function, without parentheses after its name.",
        )


def check_signature(fn: Callable[..., Any], name: str) -> None:
    """Refuse at declaration what could never be called with the columns of a batch."""
    check_function(fn, name)
    parameters = _parameters(fn)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    if not any(p in STANDARD for p in parameters):
        raise EvidenceError(
            f"{name}({', '.join(parameters)}) takes none of {', '.join(STANDARD)}.",
            cause="a function of one text; evidence in Python sees a whole batch by keyword.",
            remedy=f"wrap it: lambda completions: [{name}(text) for text in completions].",
        )


def returned(fn: Callable[..., Any], name: str, rows: Rows) -> list[Any]:
    """What the function says about each row, as it says it.

    The function gets the keywords that its signature accepts, all of them if it has **kwargs, in
    lists of its own: what it does to them, no other function sees. Raises EvidenceError where it
    raises, or returns anything but one value per row.
    """
    keywords = _accepted(fn, name, rows)
    try:
        found = fn(**keywords)
        values = _listed(found)
    except Exception as error:
        raise EvidenceError(
            f"{name} raised {type(error).__name__} on {len(rows.completions)} rows: {error}",
            cause="a bug in the function, or a completion of a form that it does not expect "
            "(an empty or cut text, for instance).",
            remedy="see the exception above; return None for rows it has no opinion on.",
        ) from error
    if values is None:
        raise EvidenceError(
            f"{name} returned a {type(found).__name__}, not a list.",
            cause="it scores one text, or returns a summary of the batch, or values without an "
            "order or with gaps (a set, a masked array).",
            remedy=f"return a list of {len(rows.completions)} numbers, one per completion, None "
            "where there is no opinion.",
        )
    if len(values) != len(rows.completions):
        raise EvidenceError(
            f"{name} returned {len(values)} values for {len(rows.completions)} rows.",
            cause="rows were filtered, or one value per distinct prompt was returned.",
            remedy="return one value per completion, None where there is no opinion.",
        )
    return values


def call(fn: Callable[..., Any], name: str, rows: Rows) -> list[float | None]:
    """What the function says about each row: a number, or None for "no opinion".

    Raises EvidenceError as `returned` does, and where a value is no number.
    """
    values = returned(fn, name, rows)
    found = [_float(value) for value in values]
    pairs = zip(values, found, strict=True)
    refuse(
        np.asarray([value is not None and number is None for value, number in pairs], bool),
        name,
        values,
        rows,
        happened="which is not a number that a float can hold,",
        cause="a label, a text, a date, a complex number or an array where one number per "
        "completion belongs, or an integer that is too large.",
        remedy="return a float per completion, or None for no opinion.",
    )
    return found


def refuse(
    wrong: Bool[np.ndarray, " R"],
    name: str,
    values: Sequence[Any],
    rows: Rows,
    *,
    happened: str,
    cause: str,
    remedy: str,
) -> None:
    """Raise EvidenceError for the first row that is wrong, with its value and completion."""
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    text = rows.completions[row]
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    raise EvidenceError(
        f"{name} returned {_shown(values[row])}, {happened} for row {row}: {shown!r}",
        cause=cause,
        remedy=remedy,
    )


def fresh(value: Any) -> Any:
    """The value with its lists and dicts copied, at any depth; everything else is shared."""
    if type(value) is list:
        # Token ids, by far the longest lists, need no call per item.
        flat = {list, dict}.isdisjoint(map(type, value))
        return value.copy() if flat else [fresh(item) for item in value]
    return {key: fresh(item) for key, item in value.items()} if type(value) is dict else value


def _listed(found: Any) -> list[Any] | None:
    """The values of what a function returned, None where it holds none, or in no order."""
    if isinstance(found, str | bytes | bytearray | Mapping | Set | np.ma.MaskedArray):
        return None
    try:
        values = iter(np.asarray(found) if hasattr(found, "dtype") else found)
    except TypeError:
        return None
    return list(values)  # a generator runs here, and raises errors of its own, TypeError as well


def _float(value: Any) -> float | None:
    """A number as a float, None for anything else."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        wrong = not isinstance(value, numbers.Real)
    else:
        wrong = getattr(dtype, "kind", "") in NO_NUMBERS or np.ndim(value) > 0
        wrong = wrong or value is np.ma.masked
    try:
        return None if wrong else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def _accepted(fn: Callable[..., Any], name: str, rows: Rows) -> dict[str, Any]:
    given = {
        **rows.columns,
        "prompts": rows.prompts,
        "completions": rows.completions,
        "completion_ids": rows.completion_ids,
    }
    if (parameters := _parameters(fn)) is None:
        return fresh(given)
    named = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [p.name for p in named if p.default is p.empty and p.name not in given]:
        raise EvidenceError(
            f"{name} asks for {missing[0]!r}, which the prompts do not have.",
            cause="a column is missing or misspelt; a batch has " + ", ".join(sorted(given)) + ".",
            remedy=f"give prompts as dicts with the key {missing[0]!r}, or a default value.",
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return fresh(given)
    return {p.name: fresh(given[p.name]) for p in named if p.name in given}


def _parameters(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(fn).parameters
    except (TypeError, ValueError):  # builtins and extension types have none: pass everything
        return None


def check_bounds(bounds: tuple[float, float] | None, name: str, *, finite: bool) -> None:
    """Refuse declared bounds that are not an ordered pair."""
    if bounds is None:
        return
    low, high = bounds
    if not low <= high or (finite and not (math.isfinite(low) and math.isfinite(high))):
        raise EvidenceError(
            f"bounds={bounds} of {name} are not {'finite and ' if finite else ''}ordered.",
            cause="the two were swapped, or unknown bounds were written as infinite.",
            remedy="give (smallest, largest)" + (", or leave bounds out." if finite else "."),
        )
