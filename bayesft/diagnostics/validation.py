"""Guides and draws that are compared with a target belong to it."""

from __future__ import annotations

from collections.abc import Mapping

from bayesft.base import Prior
from bayesft.draws import Draws
from bayesft.errors import DiagnosticError
from bayesft.priors.validation import require_stand_in
from bayesft.target import Target


def require_belonging(
    target: Target, guides: Mapping[str, Prior], draws: Mapping[str, Draws]
) -> None:
    """Raises DiagnosticError for guides that cannot have the target's sequences, and for draws of
    other shapes."""
    for name, guide in guides.items():
        require_stand_in(f"The guide {name!r}", guide, target, DiagnosticError)
    expected = (len(target.prompts), target.horizon.max_new_tokens)
    for name, each in draws.items():
        if (found := (each.tokens.shape[0], each.tokens.shape[2])) != expected:
            raise DiagnosticError(
                f"The draws {name!r} have (prompts, tokens) = {found}, the target {expected}.",
                cause="they are draws of another target.",
                remedy="draw from this target.",
            )
