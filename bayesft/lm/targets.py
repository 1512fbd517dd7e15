"""Which linear maps an adapter's `target_modules` name, by PEFT's rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bayesft.lm.architecture import Architecture

ALL = "all-linear"


def resolve(
    targets: Sequence[str] | str, architecture: Architecture
) -> tuple[tuple[str, ...], list[str]]:
    """The modules of every layer that the targets name, and the targets that name none.

    A list names modules by their last parts; a string is a pattern for whole names, or
    "all-linear". A pattern that picks some layers only names none.
    """
    modules = architecture.modules
    if targets == ALL:
        return modules, []
    if isinstance(targets, str):
        return _by_pattern(targets, modules, architecture)
    chosen = {m for m in modules for t in targets if f".{m}".endswith(f".{t}")}
    unknown = [t for t in targets if not any(f".{m}".endswith(f".{t}") for m in modules)]
    return tuple(m for m in modules if m in chosen), unknown


def shortest_names(slots: Sequence[str], architecture: Architecture) -> tuple[str, ...]:
    """Targets that name exactly these modules: last parts alone where they are unambiguous."""
    short = {
        last
        for last in (slot.rpartition(".")[2] for slot in slots)
        if set(resolve((last,), architecture)[0]) <= set(slots)
    }
    rest = [slot for slot in slots if slot.rpartition(".")[2] not in short]
    return tuple(sorted([*short, *rest]))


def _by_pattern(
    pattern: str, modules: tuple[str, ...], architecture: Architecture
) -> tuple[tuple[str, ...], list[str]]:
    layer = architecture.names.layer
    chosen = []
    try:
        re.compile(pattern)
    except re.error:
        return (), [pattern]
    for module in modules:
        hits = [
            re.fullmatch(pattern, f"{layer.format(index)}.{module}") is not None
            for index in range(architecture.num_layers)
        ]
        if any(hits) and not all(hits):
            return (), [pattern]
        if all(hits):
            chosen.append(module)
    return tuple(chosen), [] if chosen else [pattern]
