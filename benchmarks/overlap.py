"""Seconds a step of `bft.fit` with a reward that takes 200 ms, in order and one step ahead."""

from __future__ import annotations

import statistics
import time

import jax
import optax
from models import SMALL, saved_model
from peers import in_turns, report

import bayesft as bft

LANES, TOKENS, STEPS, REWARD = 4, 24, 8, 0.2
OPTIMIZER = optax.adamw(1e-4)  # one object: a new one for every fit would compile anew


class Score:
    """A reward on another machine: it waits and computes nothing here."""

    def __init__(self, pause: float):
        self.pause = pause

    def __call__(self, completion_ids: list[list[int]]) -> list[float]:
        time.sleep(self.pause)
        return [ids.count(7) / len(ids) for ids in completion_ids]


def main() -> None:
    with saved_model(SMALL) as (lm, _):
        guide = bft.trainable(lm)
        estimator = bft.estimators.leave_one_out(LANES)
        targets = {
            pause: bft.Target(
                lm,
                bft.evidence.reward(Score(pause), beta=0.1, name="score"),
                prompts=[[1], [1, 3]],
                max_new_tokens=TOKENS,
            )
            for pause in (0.0, REWARD)
        }

        def seconds(pause: float, overlap: bool) -> float:
            fitted = bft.fit(
                targets[pause],
                guide,
                objective=bft.objectives.reverse_kl,
                estimator=estimator,
                optimizer=OPTIMIZER,
                num_steps=STEPS,
                key=jax.random.key(0),
                overlap=overlap,
            )
            return statistics.median(info.seconds for info in fitted.history[2:-1])

        device, in_order, ahead = in_turns(
            lambda: seconds(0.0, False),
            lambda: seconds(REWARD, False),
            lambda: seconds(REWARD, True),
            rounds=3,
        )
        report(
            f"a fit step of {2 * LANES} x {TOKENS} tokens with a reward of {REWARD} s",
            device_seconds=device,
            in_order_seconds=in_order,
            ahead_seconds=ahead,
            sum_seconds=device + REWARD,
            larger_seconds=max(device, REWARD),
            ratio=ahead / max(device, REWARD),
            asked_at_most=1.1,
        )


if __name__ == "__main__":
    main()
