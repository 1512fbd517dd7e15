"""SMC with a token potential: beside plain sampling, resampling at every step, and growth."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from models import SMALL, saved_model
from peers import in_turns, report, seconds

import bayesft as bft

PARTICLES, TOKENS = 128, 64


def even_tokens(state, token):
    """A token potential: ±½ nat for even and odd tokens."""
    return state, jnp.where(token % 2 == 0, 0.5, -0.5)


POTENTIAL = bft.evidence.prefix_potential(even_tokens, ())


def timer(target, sampler, measure=seconds):
    """A function that draws once with a new key and returns what `measure` says of it.

    The jitted loop advances all particles for all tokens, ended or not: EOS saves it nothing as
    long as one particle goes on.
    """
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def once():
        key = next(keys)
        return measure(lambda: jax.block_until_ready(bft.sample(target, sampler, key).tokens))

    return once


def beside_plain(lm) -> None:
    tilted = bft.Target(lm, POTENTIAL, prompts=[[1]], max_new_tokens=TOKENS)
    plain = bft.Target(lm, prompts=[[1]], max_new_tokens=TOKENS)
    smc = bft.samplers.smc(num_particles=PARTICLES)
    importance = bft.samplers.importance(num_particles=PARTICLES)
    with_smc, without = in_turns(timer(tilted, smc), timer(plain, importance))
    report(
        f"SMC {PARTICLES} particles x {TOKENS} tokens beside plain sampling",
        smc_seconds=with_smc,
        plain_seconds=without,
        ratio=with_smc / without,
        asked_at_most=1.2,
        resamplings=resamplings(tilted, smc),
    )


def always_beside_never(lm) -> None:
    target = bft.Target(lm, POTENTIAL, prompts=[[1]], max_new_tokens=TOKENS)
    always = bft.samplers.smc(num_particles=PARTICLES, ess_threshold=1)
    never = bft.samplers.smc(num_particles=PARTICLES, ess_threshold=0)
    with_all, with_none = in_turns(timer(target, always), timer(target, never))
    report(
        f"resampling at every step, {PARTICLES} particles x {TOKENS} tokens, beside never",
        always_seconds=with_all,
        never_seconds=with_none,
        ratio=with_all / with_none,
        asked_at_most=1.25,
        resamplings=resamplings(target, always),
    )


def resamplings(target, sampler) -> int:
    return int(bft.sample(target, sampler, jax.random.key(1)).info["num_resamples"][0])


def growth(lm, what: str, sizes: Sequence[tuple[int, int]], numbers: Sequence[int]) -> None:
    """The time at some (particles, tokens), and the exponent of its growth with `numbers`."""
    targets = [
        bft.Target(lm, POTENTIAL, prompts=[[1]], max_new_tokens=tokens) for _, tokens in sizes
    ]
    samplers = [bft.samplers.smc(num_particles=particles) for particles, _ in sizes]
    times = in_turns(*map(timer, targets, samplers), rounds=3)
    per_token = {
        f"milliseconds_per_token_at_{number}": 1e3 * float(time) / tokens
        for number, time, (_, tokens) in zip(numbers, times, sizes, strict=True)
    }
    exponent, _ = np.polyfit(np.log(numbers), np.log(times), 1)
    report(f"growth with the number of {what}", **per_token, exponent=float(exponent), asked=1.0)


def main() -> None:
    with saved_model(SMALL) as (lm, _):
        beside_plain(lm)
        always_beside_never(lm)
        particles, tokens = (32, 64, 128, 256), (64, 128, 256)
        growth(lm, "particles", [(n, TOKENS) for n in particles], particles)
        growth(lm, "tokens", [(PARTICLES, t) for t in tokens], tokens)


if __name__ == "__main__":
    main()
