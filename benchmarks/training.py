"""Training steps beside TRL's on torch, on the same weights: seconds, and peak memory of a process.

`training.py sft` measures one kind alone. Each side runs in a process of its own, in turns. A batch
is differentiated in pieces of `AT_A_TIME` rows and, for comparison, whole and by TRL in pieces.
"""

from __future__ import annotations

import contextlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from models import SMALL, saved_model
from peers import Peer, in_turns, report, seconds
from steps import SIZES

ASKED = {"sft": 0.95, "dpo": 0.85, "grpo": 0.7}
ASKED_MEMORY = 0.7
AT_A_TIME = {"sft": "8", "dpo": "2", "grpo": "16"}
NAMES = {
    "sft": "gradient step, 16 x 128 tokens",
    "dpo": "preference step, 16 pairs x 128 tokens, frozen reference",
    "grpo": "group step, 8 prompts x 8 samples x 64 tokens, Python reward",
}


def sides(kind: str, folder: str) -> dict[str, Peer]:
    pieces = AT_A_TIME[kind]
    found = {
        "bayesft": Peer("steps.py", kind, folder, pieces, kind=None),
        "trl": Peer("peer_trl.py", kind, folder),
        "bayesft_whole": Peer("steps.py", kind, folder, kind=None),
    }
    if kind == "grpo":
        return found | {"trl_with_kl": Peer("peer_trl.py", "grpo_kl", folder)}
    found["trl_in_pieces"] = Peer("peer_trl.py", kind, folder, pieces)
    if kind == "sft":
        found["jax_by_hand"] = Peer("by_hand.py", folder, kind=None)
    return found


def products() -> None:
    """The rates of XLA's and torch's matrix products, of which a step mostly consists."""
    rows, sizes, repeats = SIZES["products"]  # of a layer and the head
    draw = np.random.default_rng(0).random
    shapes = [((rows, m), (m, n)) for m, n in sizes] * repeats
    # Pairs of their own, or XLA would multiply each only once.
    pairs = [tuple(jnp.asarray(draw(shape, np.float32)) for shape in pair) for pair in shapes]
    multiply = jax.jit(lambda pairs: [a @ b for a, b in pairs])
    with Peer("peer_products.py") as torch:
        xla, theirs = in_turns(
            lambda: seconds(lambda: jax.block_until_ready(multiply(pairs))),
            lambda: torch.ask()["seconds"],
        )
    gflop = sum(2 * rows * m * n for m, n in sizes) * repeats / 1e9
    report(f"products of {rows} rows, GFLOP/s", xla=gflop / xla, torch=gflop / theirs)


def main(kinds: list[str]) -> None:
    for kind in kinds:
        with saved_model(SMALL) as (_, folder), contextlib.ExitStack() as stack:
            started = sides(kind, folder)
            for side in started.values():
                stack.enter_context(side)
            answers = in_turns(*[lambda s=s: _answer(s) for s in started.values()], rounds=3)
        found = dict(zip(started, answers, strict=True))
        (mine, my_peak), (theirs, their_peak) = found["bayesft"], found["trl"]
        report(
            f"{NAMES[kind]}, 4 layers, D 256, V 1024",
            ratio=float(mine / theirs),
            asked_at_most=ASKED[kind],
            memory_ratio=float(my_peak / their_peak),
            asked_memory_at_most=ASKED_MEMORY,
            **{f"{name}_seconds": float(seconds) for name, (seconds, _) in found.items()},
            **{f"{name}_peak_mib": float(peak) for name, (_, peak) in found.items()},
        )


def _answer(side: Peer) -> tuple[float, float]:
    answer = side.ask()
    return answer["seconds"], answer["peak_mib"]


if __name__ == "__main__":
    products()
    main(sys.argv[1:] or list(NAMES))
