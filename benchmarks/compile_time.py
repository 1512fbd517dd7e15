"""Seconds to the first sample of a 28-layer model, cold, and in a second process with the cache.

`compile_time.py once LAYERS` is the measured process. CPU seconds stand beside those by the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import jax
from models import SMALL, config
from peers import report

import bayesft as bft

LAYERS, ASKED = 28, 20.0


def once(layers: int) -> None:
    lm = bft.lm.initialise(config(SMALL | {"num_hidden_layers": layers}), jax.random.key(0))
    target = bft.Target(lm, prompts=[[1, 5, 9]], max_new_tokens=32)
    jax.block_until_ready(lm.weights)
    wall, cpu = time.perf_counter(), time.process_time()
    draws = bft.sample(target, bft.samplers.importance(num_particles=4), jax.random.key(1))
    jax.block_until_ready(draws.tokens)
    first = time.perf_counter() - wall, time.process_time() - cpu
    wall = time.perf_counter()
    again = bft.sample(target, bft.samplers.importance(num_particles=4), jax.random.key(2))
    jax.block_until_ready(again.tokens)
    print(json.dumps([*first, time.perf_counter() - wall]))


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        settings = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, __file__, "once", str(LAYERS)]
        cold, warm = (
            json.loads(subprocess.check_output(command, env={**os.environ, **settings}))
            for _ in range(2)
        )
    report(
        f"first sample of {LAYERS} layers",
        seconds=cold[0],
        cpu_seconds=cold[1],
        asked_at_most=ASKED,
        seconds_with_cache=warm[0],
        cpu_seconds_with_cache=warm[1],
        second_sample=cold[2],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        once(int(sys.argv[2]))
    else:
        main()
