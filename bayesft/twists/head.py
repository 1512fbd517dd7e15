"""A twist that is a small network on a language model's hidden states."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Key, Prior, Prompt, ShowsHidden, TwistHead
from bayesft.errors import SamplerError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head(TwistHead):
    """log ψ(y_1:t, v) = (output · gelu(input · h + bias) + offset)_v, h the hidden state at t."""

    params: dict[str, Array]  # pyright: ignore[reportIncompatibleMethodOverride]

    def with_params(self, params: dict[str, Array]) -> Head:
        return Head(params)

    def read(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        inner = self._inner(hidden.reshape(-1, hidden.shape[-1]))
        log_twists = inner @ self.params["output"] + self.params["offset"][None]
        return log_twists.reshape(*hidden.shape[:-1], log_twists.shape[-1])

    def log_twists(self, tokens: Int[Array, " T"], x: Prompt, prior: Prior) -> Float[Array, "T V"]:
        _require_hidden(prior)
        return self.read(prior.hidden_states(tokens, x))  # pyright: ignore

    def path_log_twists(
        self, tokens: Int[Array, " T"], x: Prompt, prior: Prior
    ) -> Float[Array, " T"]:
        _require_hidden(prior)
        inner = self._inner(prior.hidden_states(tokens, x))  # pyright: ignore
        rows = self.params["output"].T.at[tokens].get(mode="clip")
        return (inner * rows).sum(-1) + self.params["offset"].at[tokens].get(mode="clip")

    def _inner(self, hidden: Float[Array, "R D"]) -> Float[Array, "R width"]:
        flat = hidden.astype(jnp.float32)
        return jax.nn.gelu(flat @ self.params["input"] + self.params["bias"][None])


def head(prior: Prior, key: Key, width: int = 64) -> Head:
    """A twist read from the prior's hidden states by a network with one hidden layer.

    log ψ(y_1:t, v) = (B·gelu(A·h_t + a) + b)_v for all V next tokens at once, h_t [D] the state
    that the prior's logits are read from, A [width, D], B [V, width]. B = 0 and b = 0 at the start:
    ψ ≡ 1, which is SMC without a twist. It costs no forward pass of its own. (Zhao, Brekelmans,
    Makhzani and Grosse 2024, https://arxiv.org/abs/2404.17546, use such heads.)

    Raises SamplerError for a prior that does not show hidden states, and for a width below 1.
    """
    _require_hidden(prior)
    if width < 1:
        raise SamplerError(f"A twist head of width {width}.", remedy="give a width of at least 1.")
    size: int = prior.hidden_size  # pyright: ignore
    bound = size**-0.5
    return Head(
        {
            "input": jax.random.uniform(key, (size, width), jnp.float32, -bound, bound),
            "bias": jnp.zeros(width),
            "output": jnp.zeros((width, prior.vocab_size)),
            "offset": jnp.zeros(prior.vocab_size),
        }
    )


def _require_hidden(prior: Prior) -> None:
    if not isinstance(prior, ShowsHidden):
        raise SamplerError(
            f"A {type(prior).__name__} shows no hidden states for a twist head to read.",
            cause="a twist head on a prior that is not a language model.",
            remedy="use bft.twists.model(guide), or bft.twists.tabular for enumerable targets.",
        )
