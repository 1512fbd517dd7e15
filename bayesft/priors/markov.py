"""First-order Markov chain over tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Prompt
from bayesft.errors import TargetError
from bayesft.priors import corpus
from bayesft.priors.stepped import SteppedPrior


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Markov(SteppedPrior):
    """π(y | x) = Π_t p(y_t | y_{t-1}); the first token continues the prompt, if there is one."""

    initial_logits: Float[Array, " V"]
    transition_logits: Float[Array, "V V"]
    eos: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # pyright: ignore
    vocabulary: tuple[str, ...] | None = dataclasses.field(  # pyright: ignore
        default=None, metadata={"static": True}
    )

    @property
    def vocab_size(self) -> int:
        return self.initial_logits.shape[-1]

    def init(self, x: Prompt):
        if x.tokens.shape[-1] == 0:
            return (), self.initial_logits
        last = x.tokens[jnp.maximum(x.length - 1, 0)]
        return (), jnp.where(x.length > 0, self.transition_logits[last], self.initial_logits)

    def step(self, state: tuple, token: Int[Array, ""]):
        return state, self.transition_logits[token]


def markov(
    initial_log_probs: Float[Array, " V"],
    transition_log_probs: Float[Array, "V V"],
    *,
    eos: int | Sequence[int],
    vocabulary: Sequence[str] | None = None,
) -> Markov:
    """Markov chain with the given log-probs in nats (unnormalised ones are normalised).

    Row v of `transition_log_probs` is the distribution after token v; rows of EOS are never used.
    Raises TargetError where shapes disagree, a value is NaN or +inf, or a row has no mass.
    """
    initial = np.asarray(initial_log_probs, np.float32)
    transition = np.asarray(transition_log_probs, np.float32)
    size = initial.shape[-1] if initial.ndim == 1 else 0
    ends = corpus.distinct(eos)
    rows = np.concatenate([initial[None], transition]) if transition.shape == (size, size) else None
    happened = ""
    if rows is None or size == 0:
        happened = (
            f"Log-probs of shapes {initial.shape} and {transition.shape} are not [V], [V, V]."
        )
    elif np.isnan(rows).any() or (rows == np.inf).any():
        happened = "A log-prob is NaN or +inf."
    elif not ends or any(not 0 <= token < size for token in ends):
        happened = f"eos={eos} is not a token below V = {size}."
    elif (live := [0, *(v + 1 for v in range(size) if v not in ends)]) and (
        rows[live].max(-1) == -np.inf
    ).any():
        happened = "A row of log-probs is -inf throughout, so nothing can follow."
    elif vocabulary is not None and len(vocabulary) != size:
        happened = f"The vocabulary names {len(vocabulary)} tokens, the tables have {size}."
    if happened:
        raise TargetError(
            happened,
            cause="tables of probabilities instead of log-probs, or of the wrong size.",
            remedy="pass jnp.log of an initial distribution [V] and of a row-stochastic [V, V].",
        )
    # After EOS comes only padding, which is scored and thrown away: finite rows keep gradients so.
    unused = [v for v in ends if transition[v].max() == -np.inf]
    transition = transition.copy()
    transition[unused] = 0.0
    return Markov(
        jnp.asarray(initial),
        jnp.asarray(transition),
        ends,
        None if vocabulary is None else tuple(vocabulary),
    )
