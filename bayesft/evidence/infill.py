"""A text that must follow as evidence: the posterior fills what stands between."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Horizon, Potential, Prior, Prompt, is_eos
from bayesft.errors import EvidenceError
from bayesft.evidence.product import require_context, require_prior, require_same_tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Infill(Potential):
    """log φ(y, x) = log π0(suffix | x, y) for a fill y that did not end, else -inf."""

    prior: Prior
    suffix: Int[Array, " S"]
    ends: bool = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    bounds = (-math.inf, 0.0)

    @property
    def hard(self) -> bool:
        return True

    def require_satisfiable(self, horizon: Horizon) -> None:
        if horizon.eos_policy != "truncate":
            raise EvidenceError(
                f'{self.name} cannot be satisfied under eos="{horizon.eos_policy}".',
                cause="a fill is cut at the limit, where the suffix goes on; this policy has every "
                "sequence end before.",
                remedy='use eos="truncate", and ends=True for a story that ends after the suffix.',
            )

    def bind(self, prior: Prior, horizon: Horizon, longest_prompt: int) -> Infill:
        require_same_tokens(self.name, self.prior, prior)
        needed = longest_prompt + horizon.max_new_tokens + self.suffix.shape[0] + self.ends
        require_context(self.name, self.prior, needed)
        return self

    def log_potential(self, tokens: Int[Array, " T"], x: Prompt, length: Int[Array, ""]):
        size, eos = self.suffix.shape[0], self.prior.eos
        total = tokens.shape[0] + size + self.ends
        at = jnp.arange(total, dtype=jnp.int32) - length
        fill = jnp.pad(tokens, (0, size + self.ends), constant_values=eos[0])
        story = jnp.where(at < 0, fill, eos[0])
        if size:
            story = jnp.where(
                (at >= 0) & (at < size), self.suffix[jnp.clip(at, 0, size - 1)], story
            )
        horizon = Horizon(total)

        def scored(end: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
            """Log-prob of the suffix, and of this token behind it."""
            ended = jnp.where(at == size, end, story) if self.ends else story
            log_probs = self.prior.token_log_probs(ended, x, horizon)
            inside = (at >= 0) & (at < size)
            return (
                jnp.where(inside, log_probs, 0.0).sum(),
                jnp.where(at == size, log_probs, 0.0).sum(),
            )

        if self.ends:
            log_probs, log_ends = jax.vmap(scored)(jnp.asarray(eos, jnp.int32))
            value = log_probs[0] + jax.nn.logsumexp(log_ends)
        else:
            value, _ = scored(jnp.int32(eos[0]))
        last = jnp.maximum(length - 1, 0)
        return jnp.where((length > 0) & is_eos(tokens[last], eos), -jnp.inf, value)


def infill(
    prior: Prior, suffix: str | Sequence[int], ends: bool = False, name: str | None = None
) -> Infill:
    """Evidence that a fixed suffix follows, so that the posterior is the exact conditional of a
    fill of `max_new_tokens` tokens given what stands before and after it:

        log φ(y, x) = log π0(suffix | x, y),    -inf where y ends by EOS      (nats)

    `prior` is the target's own. `suffix` is a text, split into tokens by `prior.encode_completion`
    (the condition is on these tokens, not on other ways to split the text), or token ids [S]. With
    `ends` the story ends behind it: P(EOS) is a factor too, summed over the tokens that end.

    On an unfinished prefix the value is that of the suffix put right behind it: what SMC with
    `every=k` looks ahead by. Each evaluation is a forward pass over T + S tokens, with `ends` one
    for each token that ends. Another suffix of as many tokens retraces nothing.

    Raises EvidenceError for a suffix that is empty (without `ends`) or contains EOS; when a target
    is declared, for a policy other than "truncate", another vocabulary or a context too short.
    """
    require_prior("infill", prior)
    ids = prior.encode_completion(suffix) if isinstance(suffix, str) else [int(i) for i in suffix]
    label = name or "infill"
    outside = [i for i in ids if not 0 <= i < prior.vocab_size]
    if (not ids and not ends) or outside or set(ids) & set(prior.eos):
        raise EvidenceError(
            f"The suffix {suffix!r} of {label} "
            + ("is empty." if not ids else f"has the token ids {ids}, which nothing can follow.")
            if not outside
            else f"The suffix of {label} has ids outside the vocabulary: {outside}.",
            cause="an empty text, or token ids with EOS in them or of another tokenizer.",
            remedy="give the text or ids without EOS, and ends=True where the story ends there.",
        )
    return Infill(prior, jnp.asarray(np.asarray(ids, np.int32)), bool(ends), label)
