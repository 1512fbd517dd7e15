"""Calls of Python evidence: one call for many rows, with every value checked."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from bayesft.base import Rows
from bayesft.errors import EvidenceError

STANDARD = ("prompts", "completions", "completion_ids")


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

    The function gets the keywords that its signature accepts, all of them if it has **kwargs.
    Raises EvidenceError where it raises, or returns anything but one value per row.
    """
    keywords = _accepted(fn, name, rows)
    try:
        found = fn(**keywords)
    except Exception as error:
        raise EvidenceError(
            f"{name} raised {type(error).__name__} on {len(rows.completions)} rows: {error}",
            cause="a bug in the function, or a completion of a form that it does not expect "
            "(an empty or cut text, for instance).",
            remedy="see the exception above; return None for rows it has no opinion on.",
        ) from error
    try:
        found = np.asarray(found) if hasattr(found, "dtype") else found
        values = None if isinstance(found, str | Mapping) else list(found)
    except TypeError:
        values = None
    if values is None:
        raise EvidenceError(
            f"{name} returned a {type(found).__name__}, not a list.",
            cause="it scores one text, or returns a summary of the batch.",
            remedy=f"return a list of {len(rows.completions)} numbers, one per completion.",
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
    refuse(
        np.asarray([value is not None and not _is_number(value) for value in values], bool),
        name,
        values,
        rows,
        happened="which is not a number,",
        cause="a label, a text or an array where one number per completion belongs.",
        remedy="return a float per completion, or None for no opinion.",
    )
    return [None if value is None else float(value) for value in values]


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
        f"{name} returned {values[row]!r}, {happened} for row {row}: {shown!r}",
        cause=cause,
        remedy=remedy,
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return False
    return isinstance(value, numbers.Real) or (hasattr(value, "dtype") and np.ndim(value) == 0)


def _accepted(fn: Callable[..., Any], name: str, rows: Rows) -> dict[str, Any]:
    given = {
        **rows.columns,
        "prompts": rows.prompts,
        "completions": rows.completions,
        "completion_ids": rows.completion_ids,
    }
    if (parameters := _parameters(fn)) is None:
        return given
    named = [p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [p.name for p in named if p.default is p.empty and p.name not in given]:
        raise EvidenceError(
            f"{name} asks for {missing[0]!r}, which the prompts do not have.",
            cause="a column is missing or misspelt; a batch has " + ", ".join(sorted(given)) + ".",
            remedy=f"give prompts as dicts with the key {missing[0]!r}, or a default value.",
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return given
    return {p.name: given[p.name] for p in named if p.name in given}


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
