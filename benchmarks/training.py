"""Training steps beside TRL's on torch, on the same weights: seconds, and peak memory of a process.

`training.py sft` measures one kind alone. Each side runs in a process of its own, in turns.
"""

from __future__ import annotations

import sys

from models import SMALL, saved_model
from peers import Peer, in_turns, report

ASKED = {"sft": 0.95, "dpo": 0.85, "grpo": 0.7}
ASKED_MEMORY = 0.7
MORE = {"sft": "seconds_by_hand_in_jax", "grpo": "trl_seconds_with_kl"}
NAMES = {
    "sft": "gradient step, 16 x 128 tokens",
    "dpo": "preference step, 16 pairs x 128 tokens, frozen reference",
    "grpo": "group step, 8 prompts x 8 samples x 64 tokens, Python reward",
}


def main(kinds: list[str]) -> None:
    for kind in kinds:
        with saved_model(SMALL) as (_, folder):
            peers = {"trl": kind} | ({"trl_kl": "grpo_kl"} if kind == "grpo" else {})
            started = [Peer("peer_trl.py", peer, folder) for peer in peers.values()]
            if kind == "sft":
                started.append(Peer("by_hand.py", folder, kind=None))
            try:
                with Peer("steps.py", kind, folder, kind=None) as ours:
                    sides = [lambda side=side: _answer(side) for side in (ours, *started)]
                    found = in_turns(*sides, rounds=3)
            finally:
                for peer in started:
                    peer.__exit__()
        (mine, my_peak), (theirs, their_peak), *more = found
        report(
            f"{NAMES[kind]}, 4 layers, D 256, V 1024",
            bayesft_seconds=float(mine),
            trl_seconds=float(theirs),
            ratio=float(mine / theirs),
            asked_at_most=ASKED[kind],
            bayesft_peak_mib=float(my_peak),
            trl_peak_mib=float(their_peak),
            memory_ratio=float(my_peak / their_peak),
            asked_memory_at_most=ASKED_MEMORY,
            **({MORE[kind]: float(more[0][0])} if more else {}),
        )


def _answer(side: Peer) -> tuple[float, float]:
    answer = side.ask()
    return answer["seconds"], answer["peak_mib"]


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
