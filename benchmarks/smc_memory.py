"""Peak memory of SMC that resamples at every token, beside the size of its cache.

`smc_memory.py [STEPS]`: every buffer is as large from the first token on as at the end, so that a
few steps show the peak; all of them by default. Reads /proc, so it runs on Linux.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from models import SMALL, saved_model
from peers import report
from smc import POTENTIAL

import bayesft as bft
from bayesft.base import withholding
from bayesft.samplers import sequential

PARTICLES, TOKENS, KEY_HEADS, HEAD_DIM = 1024, 512, 2, 64
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else TOKENS
CACHE = 2 * PARTICLES * TOKENS * KEY_HEADS * HEAD_DIM * SMALL["num_hidden_layers"] * 4
GIB = 2**30


def resident(field: str) -> int:
    """Bytes of this process in memory: VmRSS is now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}")


def advanced(lm, num_particles: int, num_tokens: int, steps: int):
    """Particles after some steps of the loop that `bft.sample` runs, and the compiled loop."""
    key = jax.random.key(0)
    target = bft.Target(lm, POTENTIAL, prompts=[[1]], max_new_tokens=num_tokens)
    sampler = bft.samplers.smc(num_particles=num_particles, ess_threshold=1)
    state, (proposing, random) = sampler.init(target, key), sampler.parts(target, key)
    # As a run makes them for its second half: buffers for all tokens.
    models = withholding(state.particles.models, 0, free=True)
    particles = state.particles.replace(models=models)
    arguments = (target, proposing, state.schedule, random, particles, steps)
    loop = sequential.advance_in_place.lower(*arguments).compile()
    return jax.block_until_ready(loop(*arguments)), loop


def main() -> None:
    with saved_model(SMALL, num_key_value_heads=KEY_HEADS) as (lm, _):
        advanced(lm, 8, 8, 8)  # the libraries' own memory is there before
        before = resident("VmRSS")
        particles, loop = advanced(lm, PARTICLES, TOKENS, STEPS)
        peak = resident("VmHWM") - before
    analysis = loop.memory_analysis()
    compiled = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    report(
        f"peak memory, {PARTICLES} particles x {TOKENS} tokens, resampling at every token",
        cache_gib=CACHE / GIB,
        compiled_gib=compiled / GIB,
        temporary_gib=analysis.temp_size_in_bytes / GIB,
        compiled_ratio=compiled / CACHE,
        process_gib=peak / GIB,
        process_ratio=peak / CACHE,
        asked_at_most=1.25,
        resamplings=int(particles.num_resamples[0]),
    )


if __name__ == "__main__":
    main()
