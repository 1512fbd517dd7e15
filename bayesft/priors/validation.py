"""Guides, proposals and priors that are used together are over the same tokens."""

from __future__ import annotations

from bayesft.base import Prior
from bayesft.errors import BayesftError


def require_vocabulary(what: str, other: Prior, prior: Prior, error: type[BayesftError]) -> None:
    """Raise `error` where a guide or proposal has another (V, EOS) than the target's prior."""
    theirs, ours = (other.vocab_size, other.eos), (prior.vocab_size, prior.eos)
    if theirs != ours:
        raise error(
            f"{what} has (V, EOS) = {theirs}, the target's prior {ours}.",
            cause="they come from different models or tokenizers.",
            remedy="make the guide from target.prior: bft.lm.lora or bft.trainable.",
        )
