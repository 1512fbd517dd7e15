"""Weighted samples, from which log Z, ESS and expectations follow."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Claim, Key
from bayesft.errors import SamplerError


class Status(enum.IntEnum):
    """How sampling ended for a prompt."""

    OK = 0
    ALL_DEAD = 1
    """Every draw has weight 0: log Z is estimated as -inf."""
    EXHAUSTED = 2
    """The proposals ran out before the draws asked for were accepted."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws of a target for P prompts, N each; new tokens only, padded with EOS after their end.

    `log_weights` [P, N] in nats are such that mean_n exp(log_weights) estimates Z where the claim
    is proper weights, and are 0 (or -inf on empty slots) for equally weighted draws. `log_z` [P] is
    None where the sampler estimates none. `log_ended` [P] is the prior's log P(ended) under
    eos="condition", else None. `info` holds what a sampler reports beside (see its docstring).
    """

    tokens: Int[Array, "P N T"]
    lengths: Int[Array, "P N"]
    log_weights: Float[Array, "P N"]
    log_prior: Float[Array, "P N"]
    log_evidence: Float[Array, "P N"]
    log_z: Float[Array, " P"] | None
    status: Int[np.ndarray, " P"]
    claim: Claim
    prompts: Sequence[Any]
    decode: Callable[[Sequence[int]], str] = dataclasses.field(repr=False)
    log_ended: Float[Array, " P"] | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def ess(self) -> Float[Array, " P"]:
        """Effective sample size (Σw)²/Σw² in draws, between 0 and N."""
        return effective_sample_size(self.log_weights)

    @property
    def weights(self) -> Float[Array, "P N"]:
        """Weights normalised to sum to 1 per prompt; all 0 where every draw is dead."""
        return normalised_weights(self.log_weights)

    @property
    def text(self) -> list[list[str]]:
        """Completions as text, [P][N]."""
        tokens, lengths = np.asarray(self.tokens), np.asarray(self.lengths)
        return [
            [self.decode(row[:n].tolist()) for row, n in zip(rows, ns, strict=True)]
            for rows, ns in zip(tokens, lengths, strict=True)
        ]

    def mean(self, fn: Callable[..., Any] | Array) -> Array:
        """Self-normalised expectation Σ_n w_n f(y_n), [P, ...]; NaN where every draw is dead.

        `fn(tokens [T], length)` is written in JAX for one sequence; values [P, N, ...] that are
        already known may be given instead.
        """
        values = jax.vmap(jax.vmap(fn))(self.tokens, self.lengths) if callable(fn) else fn
        values = jnp.asarray(values, jnp.float32)
        weights = self.weights.reshape(*self.weights.shape, *(1,) * (values.ndim - 2))
        total = weights.sum(1)
        mean = jnp.sum(weights * jnp.where(weights > 0, values, 0.0), axis=1)
        return jnp.where(total > 0, mean, jnp.nan)

    def to_arviz(self, **features: Callable[..., Any] | Array) -> Any:
        """The draws as an ArviZ DataTree: one chain of N draws with the prompts as a dimension.

        `posterior` has log_prior, log_evidence, length and tokens, and every one of `features`:
        `fn(tokens [T], length)` in JAX, or values [P, N, ...]. ArviZ does not weight draws:
        where `log_weights` in `sample_stats` differ, take `resample` first, or weight by hand;
        the attributes of `posterior` say so. `constant_data` has log_z and status, [P].

        Raises SamplerError where arviz is not installed.
        """
        try:
            from arviz_base import from_dict
        except ImportError as error:
            raise SamplerError(
                "Draws cannot become an ArviZ DataTree: arviz_base does not import.",
                cause="arviz is an extra of bayesft that is not installed.",
                remedy="pip install 'bayesft[arviz]'.",
            ) from error

        def chain(values: Any) -> np.ndarray:
            return np.swapaxes(np.asarray(values), 0, 1)[None]  # [1, N, P, ...]

        posterior = {
            "log_prior": self.log_prior,
            "log_evidence": self.log_evidence,
            "length": self.lengths,
            "tokens": self.tokens,
        }
        for name, given in features.items():
            known = not callable(given)
            posterior[name] = (
                given if known else jax.vmap(jax.vmap(given))(self.tokens, self.lengths)
            )
        log_weights = np.asarray(self.log_weights)
        weighted = bool((log_weights != log_weights[:, :1]).any())
        constant = {"status": np.asarray(self.status)}
        if self.log_z is not None:
            constant["log_z"] = np.asarray(self.log_z)
        names = [prompt if isinstance(prompt, str) else str(prompt) for prompt in self.prompts]
        if len(set(names)) < len(names):
            names = [f"{row}: {name}" for row, name in enumerate(names)]
        beside = ["log_prior", "log_evidence", "length", "log_weights", *constant, *features]
        note = (
            "weighted: ArviZ ignores sample_stats.log_weights" if weighted else "equally weighted"
        )
        return from_dict(
            {
                "posterior": {name: chain(values) for name, values in posterior.items()},
                "sample_stats": {"log_weights": chain(log_weights)},
                "constant_data": constant,
            },
            dims={**{name: ["prompt"] for name in beside}, "tokens": ["prompt", "position"]},
            coords={"prompt": names},
            attrs={"posterior": {"claim": str(self.claim), "draws": note}},
        )

    def resample(self, key: Key, num_draws: int) -> Draws:
        """`num_draws` equally weighted draws per prompt, chosen with replacement by weight.

        They are not independent of one another, so their claim is not that of these draws. Raises
        SamplerError where a prompt has no draw of positive weight.
        """
        if (dead := np.flatnonzero(np.asarray(self.weights.sum(1)) == 0)).size:
            raise SamplerError(
                f"Prompt {dead[0]} has no draw of positive weight to resample from.",
                cause="evidence of -inf on every draw (see draws.status).",
                remedy="draw more, propose from a guide, or soften the constraint.",
            )
        keys = jax.random.split(key, len(self.prompts))
        index = jax.vmap(lambda k, w: choose_by_weight(jax.random.uniform(k, (num_draws,)), w))(
            keys, self.log_weights
        )

        def take(a: Array) -> Array:
            return jax.vmap(lambda row, i: row[i])(a, index)

        return dataclasses.replace(
            self,
            tokens=take(self.tokens),
            lengths=take(self.lengths),
            log_weights=jnp.zeros(index.shape),
            log_prior=take(self.log_prior),
            log_evidence=take(self.log_evidence),
            claim=Claim("another law", f"resampled from draws with {self.claim}"),
            info={},
        )


def effective_sample_size(log_weights: Float[Array, "*batch N"]) -> Float[Array, "*batch"]:
    """(Σw)²/Σw² over the last axis; 0 where every weight is 0."""
    return jnp.where(
        jnp.isfinite(log_weights).any(-1),
        1.0 / jnp.maximum(jnp.square(normalised_weights(log_weights)).sum(-1), 1e-30),
        0.0,
    )


def normalised_weights(log_weights: Float[Array, "*batch N"]) -> Float[Array, "*batch N"]:
    """exp(log_weights) over their sum; all 0 where every one is -inf."""
    peak = log_weights.max(-1, keepdims=True)
    weights = jnp.exp(log_weights - jnp.where(jnp.isfinite(peak), peak, 0.0))
    return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)


def log_mean_exp(log_weights: Float[Array, "*batch N"]) -> Float[Array, "*batch"]:
    """log of the mean weight; -inf where every one is -inf."""
    return jax.nn.logsumexp(log_weights, axis=-1) - jnp.log(log_weights.shape[-1])


def cumulative_weights(log_weights: Float[Array, " N"]) -> Float[Array, " N"]:
    """CDF of the normalised weights, such that rounding gives no mass to a weight of 0.

    A parallel sum may step up or down across a weight of 0: entries are taken over from the last
    positive weight, which makes them monotone. Dividing by the last entry makes it exactly 1.
    """
    weights = jnp.exp(log_weights - log_weights.max())
    upper = jax.lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights), 0.0))
    return upper / upper[-1]


def choose_by_weight(
    points: Float[Array, " C"], log_weights: Float[Array, " N"]
) -> Int[Array, " C"]:
    """The index at which the CDF of the weights passes each point of [0, 1): memory C + N."""
    chosen = jnp.searchsorted(cumulative_weights(log_weights), points, side="right")
    # A point may round up to 1, past every entry: it belongs to the last positive weight.
    slots = jnp.arange(log_weights.size, dtype=jnp.int32)
    last = jnp.where(log_weights > -jnp.inf, slots, 0).max()
    return jnp.minimum(chosen.astype(jnp.int32), last)
