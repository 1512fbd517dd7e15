"""Many devices: which arrays are split over a mesh, and which are known everywhere.

Contract. A mesh has one or both of the axes "data" and "fsdp", their sizes being the user's choice:

| | split over |
|---|---|
| rows: the P prompts × N particles or K lanes that models run on | "data" and "fsdp" |
| parameters, their gradients and the optimiser's state | "fsdp" |
| everything else: tokens, log-probs, weights, ancestors, recordings, draws | nothing |

What is split over nothing is on every device, computed there by the same program from the same
numbers. So resampling is over all particles, with the ancestors that one device would choose, and
the host reads what it needs without asking another process.

`on(mesh)` sets the mesh; the other functions are identities where none is set, and are called
where models run: by the loops over tokens, the recording, the replay and the decoder. No sampler,
objective or estimator knows of devices. They state what XLA's partitioner is to do, which then
inserts the collectives: a value never depends on them beyond rounding.

Laws, tested in tests/sharding on 4 devices and on 2 processes × 2 devices: fits and draws equal
those of one device within float error, ancestors exactly; parameters and caches have a share of
their bytes on each device; Python evidence is called once per row over all processes. What one
process finds on disk, all go by (`agreed`).
"""

from bayesft.sharding.exchange import copy_rows
from bayesft.sharding.hosts import (
    agreed,
    any_process,
    is_writer,
    num_processes,
    shared,
    to_host,
)
from bayesft.sharding.mesh import PARAMETERS, ROWS, is_set, num_shares, on
from bayesft.sharding.parameters import gathered, place, product, shard
from bayesft.sharding.rows import join, require_split, split, split_prompts, split_rows, splits

__all__ = [
    "PARAMETERS",
    "ROWS",
    "agreed",
    "any_process",
    "copy_rows",
    "gathered",
    "is_set",
    "is_writer",
    "join",
    "num_processes",
    "num_shares",
    "on",
    "place",
    "product",
    "require_split",
    "shard",
    "shared",
    "split",
    "split_prompts",
    "split_rows",
    "splits",
    "to_host",
]
