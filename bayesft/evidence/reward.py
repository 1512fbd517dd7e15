"""A reward in Python as evidence: log φ = r / β."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesft.base import HostEvidence, Rows
from bayesft.errors import EvidenceError
from bayesft.evidence import calling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, arrays and all
class Reward(HostEvidence):
    """log φ(y, x) = r(y, x) / β of a Python function r; a new β, being a leaf, retraces nothing."""

    beta: Float[Array, ""]
    fn: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    reward_bounds: tuple[float, float] | None = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def bounds(self) -> tuple[float, float]:
        if self.reward_bounds is None:
            return -math.inf, math.inf
        low, high = self._over_beta(np.asarray(self.reward_bounds, np.float32))
        return float(low), float(high)

    @property
    def hard(self) -> bool:
        return False

    def evaluate(self, rows: Rows) -> Float[np.ndarray, " R"]:
        values = calling.call(self.fn, self.name, rows)
        with np.errstate(over="ignore"):
            rewards = np.asarray([value or 0.0 for value in values]).astype(np.float32)
            log_potentials = self._over_beta(rewards)
        calling.refuse(
            np.isnan(log_potentials) | (log_potentials == np.inf),
            self.name,
            values,
            rows,
            happened="which is no log-potential,",
            cause="a division by zero, the log of a negative number, or an overflow.",
            remedy="return a finite number, None for no opinion, or -inf for impossible.",
        )
        if self.reward_bounds is not None:
            # Compared in float32, the precision of the weights: 0.1 may come as float32(0.1).
            low, high = np.asarray(self.reward_bounds, np.float32)
            calling.refuse(
                (rewards < low) | (rewards > high),
                self.name,
                values,
                rows,
                happened=f"outside its bounds {self.reward_bounds} (None counts as 0),",
                cause="the declared bounds are those of another reward, or -inf was returned as a "
                "constraint.",
                remedy="declare the true bounds or none (exact rejection rests on them), or add a "
                "bft.evidence.constraint.",
            )
        return log_potentials

    def _over_beta(self, rewards: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
        # Values and bounds are rounded alike, so a value in bounds stays there.
        return rewards / np.float32(self.beta)


def reward(
    fn: Callable[..., Any],
    beta: float,
    bounds: tuple[float, float] | None = None,
    name: str | None = None,
) -> Reward:
    """Evidence log φ(y, x) = r(y, x) / β, in nats, from a reward function in Python.

    `fn(prompts=…, completions=…, completion_ids=…, **columns) -> list[float | None]` is called once
    per batch of R rows, outside jit, with those of the keywords that its signature accepts (all,
    if it has **kwargs): lists of R prompts as they were declared, texts, token-id lists (EOS
    included), and one list for each other key of the prompts. None is "no opinion": it adds 0.

    `bounds` are those of the reward, finite; exact rejection and certified upper bounds need them,
    and a value outside (float32 rounding aside) is an error. Without bounds, -inf is allowed and
    makes a completion impossible; NaN and +inf never are.

    Raises EvidenceError for β ≤ 0, and when called: for an exception, a wrong length, or a value
    that is no log-potential, naming the function and the row.

    The posterior is the optimum of KL-regularised RL with strength β (Korbak et al. 2022,
    https://arxiv.org/abs/2205.11275).
    """
    label = calling.name_of(fn, name)
    calling.check_signature(fn, label)
    if not (math.isfinite(beta) and beta > 0):
        raise EvidenceError(
            f"beta={beta} of reward {label} is not a positive finite number.",
            cause="β is the strength of the prior: 0 would be its pure maximisation.",
            remedy="use β > 0; to turn a reward around, write -1 * reward(…).",
        )
    calling.check_bounds(bounds, label, finite=True)
    pair = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    return Reward(jnp.float32(beta), fn, pair, label)
