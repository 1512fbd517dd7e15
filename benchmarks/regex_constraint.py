"""A regex-constrained sample beside an unconstrained one, at a vocabulary of 32000.

The model's tokens write " w3" to " w31999". The pattern takes groups of four words whose last
digits are below 5, above 4, even and odd: half of the vocabulary is possible at a time, EOS and the
cut by the horizon only behind a group, and 64 tokens are sixteen of them. The constrained side is
SMC with the locally optimal proposal, whose weights make it the conditional distribution.
"""

from __future__ import annotations

import jax
from models import WIDE, saved_model
from peers import in_turns, report
from smc import PARTICLES, TOKENS, timer

import bayesft as bft

PATTERN = "(?: w[0-9]*[0-4] w[0-9]*[5-9] w[0-9]*[02468] w[0-9]*[13579])*"


def main() -> None:
    with saved_model(WIDE) as (lm, _):
        matching = bft.evidence.regex(PATTERN, lm)
        constrained = bft.Target(lm, matching, prompts=[[1]], max_new_tokens=TOKENS)
        plain = bft.Target(lm, prompts=[[1]], max_new_tokens=TOKENS)
        smc = bft.samplers.smc(num_particles=PARTICLES, proposal=bft.samplers.locally_optimal())
        importance = bft.samplers.importance(num_particles=PARTICLES)
        with_regex, without = in_turns(timer(constrained, smc), timer(plain, importance))
        draws = bft.sample(constrained, smc, jax.random.key(1))
        report(
            f"regex-constrained {PARTICLES} x {TOKENS}, V {WIDE['vocab_size']}, beside plain",
            constrained_seconds=with_regex,
            plain_seconds=without,
            ratio=with_regex / without,
            asked_at_most=1.5,
            states=matching.after.shape[0],
            possible_draws=int((draws.log_weights > -float("inf")).sum()),
            mean_length=float(draws.lengths.mean()),
            log_z=float(draws.log_z[0]),
        )


if __name__ == "__main__":
    main()
