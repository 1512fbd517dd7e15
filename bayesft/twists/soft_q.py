"""Soft Q-learning and path consistency: the twist as a soft value function."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bayesft.twists.objective import TwistObjective
from bayesft.twists.rollouts import Paths, Positives


@dataclasses.dataclass(frozen=True)
class SoftQ(TwistObjective):
    """See `soft_q` and `path_consistency`."""

    whole_path: bool = False
    floor: float = -30.0

    needs_positives = False

    def __call__(self, paths: Paths, positives: Positives):
        # After its last token a sequence is worth its evidence.
        after = jnp.concatenate([paths.log_twists[:, 1:], paths.log_end[:, None]], axis=1)
        gains = jnp.pad(paths.log_ratio[:, 1:], ((0, 0), (0, 1)))
        if self.whole_path:
            after = paths.log_end[:, None]
            gains = jnp.cumsum(gains[:, ::-1], axis=1)[:, ::-1]
        goal = jax.lax.stop_gradient(jnp.maximum(gains + after, self.floor))
        errors = jnp.where(paths.live, paths.log_twists - goal, 0.0)
        return jnp.square(errors).sum() / jnp.maximum(paths.live.sum(), 1)


def soft_q(floor: float = -30.0) -> SoftQ:
    """Soft Q-learning: the mean squared error of log ψ against its one-step target,

        (log ψ_t(y_1:t) − sg log Σ_v π0(v | y_1:t)·φ_{t+1}(v)·ψ_{t+1}(y_1:t, v))²

    and against log φ at a sequence's end (KL-regularised RL: log ψ is its soft value function;
    Levine 2018, https://arxiv.org/abs/1805.00909). The sum needs no pass over the vocabulary: it is
    π0·φ_{t+1}·ψ_{t+1}/q at the token drawn, whichever that is, since q ∝ π0·φ_{t+1}·ψ_{t+1}.

    Optimum: the exact twist wherever sequences are drawn, without a free factor; at the optimum the
    loss is 0 in every sample. Targets below `floor` nats count as `floor`, in place of -inf.
    """
    return SoftQ(False, floor)


def path_consistency(floor: float = -30.0) -> SoftQ:
    """Path consistency: as `soft_q`, against what the rest of the path brought,

        (log ψ_t(y_1:t) − sg [Σ_{s>t} log π0·φ_s/q(y_s | y_<s) + log φ])²

    whose mean is the soft value of q, the current twisted proposal (soft policy iteration; Nachum
    et al. 2017, https://arxiv.org/abs/1702.08892, without their learned multi-step gradient).
    Evidence reaches early positions in one step. Optimum and `floor` as in `soft_q`.
    """
    return SoftQ(True, floor)
