"""Guides and proposals that stand in for a target's prior have its tokens, and room for them."""

from __future__ import annotations

from bayesft.base import Prior, Twist
from bayesft.errors import BayesftError
from bayesft.target import Target


def require_stand_in(what: str, other: Prior, target: Target, error: type[BayesftError]) -> None:
    """Raise `error` for a guide or proposal that cannot have the sequences of a target: one with
    another (V, EOS) than its prior, or too short a context."""
    theirs, ours = (other.vocab_size, other.eos), (target.prior.vocab_size, target.prior.eos)
    if theirs != ours:
        raise error(
            f"{what} has (V, EOS) = {theirs}, the target's prior {ours}.",
            cause="they come from different models or tokenizers.",
            remedy="make the guide from target.prior: bft.lm.lora or bft.trainable.",
        )
    require_context(what, other, target, error)


def require_context(
    what: str, model: Prior | Twist, target: Target, error: type[BayesftError]
) -> None:
    """Raise `error` where the sequences of a target do not fit a model's context."""
    if model.max_length is not None and target.num_positions > model.max_length:
        raise error(
            f"{what} has {model.max_length} positions; the longest prompt and completion need "
            f"{target.num_positions}.",
            cause="its context is shorter than that of the target's prior.",
            remedy="use a model with a longer context, a smaller max_new_tokens, or shorter "
            "prompts.",
        )
