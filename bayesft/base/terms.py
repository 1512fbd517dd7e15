"""Terms of a sum of evidence, checked and under names of their own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container

from jax.core import Tracer

from bayesft.base.evidence import Evidence, HostEvidence, Term
from bayesft.errors import TargetError


def known_scale(term: Term) -> float | None:
    """The scale as a number, or None while it is traced."""
    return None if isinstance(term.scale, Tracer) else float(term.scale)


def free_name(name: str, taken: Container[str]) -> str:
    """The name, or the first of name#2, name#3, … that is not taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def checked_terms(evidence: Evidence) -> tuple[Term, ...]:
    """The terms under names of their own: Python evidence is recorded by name."""
    terms: list[Term] = []
    taken: set[str] = set()
    for term in evidence.terms:
        scale, leaf = known_scale(term), term.evidence
        if scale is not None and (not math.isfinite(scale) or (scale < 0 and leaf.hard)):
            raise TargetError(
                f"The evidence {leaf.name} is scaled by {scale}.",
                cause="a negative multiple of a hard constraint would be +inf where it is violated."
                if leaf.hard
                else "a scale that is NaN or infinite.",
                remedy="negate the predicate instead, or use a finite scale.",
            )
        name = free_name(leaf.name, taken)
        taken.add(name)
        if name != leaf.name and isinstance(leaf, HostEvidence):
            leaf = dataclasses.replace(leaf, name=name)  # pyright: ignore[reportArgumentType]
        terms.append(Term(term.scale, leaf))
    return tuple(terms)
