"""A gradient step of maximum likelihood beside TRL's SFT step on torch, on the same weights."""

from __future__ import annotations

import statistics

import jax
import numpy as np
import optax
from models import SMALL, saved_model
from peers import Peer, in_turns, report

import bayesft as bft

ROWS, LENGTH, STEPS = 16, 128, 10


def main() -> None:
    with saved_model(SMALL) as (lm, folder):
        ids = np.random.default_rng(0).integers(4, SMALL["vocab_size"], (ROWS * STEPS, LENGTH))
        # The first token is the prompt, as TRL scores all tokens but the first.
        data = bft.empirical(
            [row[1:].tolist() for row in ids],
            prompts=[row[:1].tolist() for row in ids],
            max_new_tokens=LENGTH - 1,
        )
        guide = bft.trainable(lm)

        def ours() -> float:
            fitted = bft.fit(
                data,
                guide,
                objective=bft.objectives.mle,
                optimizer=OPTIMIZER,
                num_steps=STEPS,
                prompts_per_step=ROWS,
                key=jax.random.key(0),
            )
            return statistics.median(info.seconds for info in fitted.history[2:])

        with Peer("peer_sft.py", folder, str(ROWS), str(LENGTH)) as peer:
            mine, theirs = in_turns(ours, lambda: peer.ask()["seconds"], rounds=3)
        report(
            f"gradient step {ROWS} x {LENGTH} tokens, 4 layers, D 256",
            bayesft_seconds=mine,
            trl_seconds=theirs,
            ratio=mine / theirs,
            asked_at_most=1.0,
        )


OPTIMIZER = optax.adamw(1e-4)  # one object: a new one for every fit would compile anew

if __name__ == "__main__":
    main()
