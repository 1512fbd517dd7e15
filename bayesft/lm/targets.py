"""Which linear maps an adapter's `target_modules` name, by PEFT's rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from bayesft.lm.architecture import Architecture

ALL = "all-linear"


class Resolved(NamedTuple):
    """The modules of every layer that targets name, and the targets that name no such module."""

    slots: tuple[str, ...]
    unknown: list[str]
    partial: list[str]
    """Targets that name a module in some layers only."""


def resolve(targets: Sequence[str] | str, architecture: Architecture) -> Resolved:
    """What the targets name.

    A list names modules by their last parts; a string is a pattern for whole names, or
    "all-linear".
    """
    modules = architecture.modules
    if targets == ALL:
        return Resolved(modules, [], [])
    names, given = (_by_pattern, [targets]) if isinstance(targets, str) else (_by_end, targets)
    layers = {architecture.names.layer.format(index) for index in range(architecture.num_layers)}
    hits = {
        target: {m: {layer for layer in layers if names(target, f"{layer}.{m}")} for m in modules}
        for target in given
    }
    # Several targets may name a module layer by layer.
    chosen = [m for m in modules if set().union(*(hit[m] for hit in hits.values())) == layers]
    unknown = [target for target, hit in hits.items() if not any(hit.values())]
    partial = [
        target for target, hit in hits.items() if any(hit[m] for m in {*modules} - {*chosen})
    ]
    return Resolved(tuple(chosen), unknown, partial)


def shortest_names(slots: Sequence[str], architecture: Architecture) -> tuple[str, ...]:
    """Targets that name exactly these modules: last parts alone where they are unambiguous."""
    short = {
        last
        for last in (slot.rpartition(".")[2] for slot in slots)
        if set(resolve((last,), architecture).slots) <= set(slots)
    }
    rest = [slot for slot in slots if slot.rpartition(".")[2] not in short]
    return tuple(sorted([*short, *rest]))


def _by_pattern(target: str, name: str) -> bool:
    try:
        return re.fullmatch(target, name) is not None
    except re.error:
        return False


def _by_end(target: str, name: str) -> bool:
    return f".{name}".endswith(f".{target}")
