"""SMC with a token potential beside plain sampling of as many tokens, and its growth with T."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from models import SMALL, saved_model
from peers import alternate, report, seconds

import bayesft as bft

PARTICLES = 128


def even_tokens(state, token):
    """A token potential: ±½ nat for even and odd tokens."""
    return state, jnp.where(token % 2 == 0, 0.5, -0.5)


def timer(target, sampler, seed: int):
    keys = iter(jax.random.split(jax.random.key(seed), 100))

    def once() -> float:
        key = next(keys)
        return seconds(lambda: jax.block_until_ready(bft.sample(target, sampler, key).tokens))

    return once


def main() -> None:
    with saved_model(SMALL) as (lm, _):
        potential = bft.evidence.prefix_potential(even_tokens, ())
        for tokens in (64, 128, 256):
            plain = bft.Target(lm, prompts=[[1]], max_new_tokens=tokens)
            tilted = bft.Target(lm, potential, prompts=[[1]], max_new_tokens=tokens)
            smc = bft.samplers.smc(num_particles=PARTICLES)
            with_smc, without = alternate(
                timer(tilted, smc, 0),
                timer(plain, bft.samplers.importance(num_particles=PARTICLES), 1),
                rounds=7 if tokens == 64 else 3,
            )
            draws = bft.sample(tilted, smc, jax.random.key(2))
            report(
                f"SMC {PARTICLES} particles x {tokens} tokens beside plain sampling",
                smc_seconds=with_smc,
                plain_seconds=without,
                ratio=with_smc / without,
                asked_at_most=1.3 if tokens == 64 else "shown",
                smc_milliseconds_per_token=1e3 * with_smc / tokens,
                plain_milliseconds_per_token=1e3 * without / tokens,
                resamplings=int(draws.info["num_resamples"][0]),
            )


if __name__ == "__main__":
    main()
