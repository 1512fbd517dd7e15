"""Tokens per second of plain sampling beside torch's `generate`, on the same weights."""

from __future__ import annotations

import jax
from models import SMALL, WIDE, saved_model
from peers import Peer, in_turns, report, seconds

import bayesft as bft

ROWS, TOKENS = 128, 64
CASES = {"4 layers, D 256, V 1024": (SMALL, 1.3), "6 layers, D 384, V 32000": (WIDE, 2.0)}


def main() -> None:
    for name, (sizes, asked) in CASES.items():
        with saved_model(sizes) as (lm, folder):
            target = bft.Target(lm, prompts=[[1]], max_new_tokens=TOKENS)
            sampler = bft.samplers.importance(num_particles=ROWS)
            keys = iter(jax.random.split(jax.random.key(0), 100))

            def ours(target=target, sampler=sampler, keys=keys) -> float:
                key = next(keys)
                return seconds(
                    lambda: jax.block_until_ready(bft.sample(target, sampler, key).tokens)
                )

            with Peer("peer_generate.py", folder, str(ROWS), str(TOKENS)) as peer:
                mine, theirs = in_turns(ours, lambda peer=peer: peer.ask()["seconds"])
            report(
                f"sampling {ROWS} x {TOKENS}, {name}",
                bayesft_tokens_per_second=ROWS * TOKENS / mine,
                torch_tokens_per_second=ROWS * TOKENS / theirs,
                ratio=theirs / mine,
                asked_at_least=asked,
            )


if __name__ == "__main__":
    main()
