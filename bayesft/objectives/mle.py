"""Maximum likelihood on data: supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from bayesft.errors import TargetError


def mle(guide: Any, target: Any, x: Any) -> Float[Array, ""]:
    """−log q(y | x) of a given completion y, in nats: its mean is the cross-entropy.

    The target is `bft.empirical(completions, prompts)`; no choice is made, so the gradient is exact
    on a batch and unbiased over batches. Raises TargetError for a target without completions.
    """
    if x.observed is None:
        raise TargetError(
            "mle needs completions to score, and this target has none.",
            cause="a bft.Target was passed, which is prior times evidence.",
            remedy="fit bft.empirical(completions, prompts), or minimise forward_kl.",
        )
    return x.observed.weight * -guide(x).log_prob(x.observed.tokens)
