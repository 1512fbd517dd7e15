"""SMC with a token potential beside genlm-control and llamppl, on the same weights.

All sides advance every particle for every token, with the same number of threads: the peers never
draw EOS, or take it for a token like others, and bayesft's rows that have ended are run like the
others. A peer resamples systematically below an ESS of one half, as bayesft does.
"""

from __future__ import annotations

from models import SMALL, saved_model
from peers import THREADS, Peer, cpu_and_wall, in_turns, report
from smc import PARTICLES, POTENTIAL, TOKENS, timer

import bayesft as bft

PEERS = {"genlm-control 0.4.1": "peer_genlm.py", "llamppl 0.2.3": "peer_llamppl.py"}


def main() -> None:
    with saved_model(SMALL) as (lm, folder):
        target = bft.Target(lm, POTENTIAL, prompts=[[1]], max_new_tokens=TOKENS)
        ours = timer(target, bft.samplers.smc(num_particles=PARTICLES), cpu_and_wall)
        for name, script in PEERS.items():
            with Peer(script, folder, str(PARTICLES), str(TOKENS), kind="smc") as peer:

                def theirs(peer=peer) -> tuple[float, float]:
                    taken = peer.ask()
                    return taken["cpu_seconds"], taken["seconds"]

                (our_cpu, our_wall), (their_cpu, their_wall) = in_turns(ours, theirs, rounds=3)
            report(
                f"SMC {PARTICLES} particles x {TOKENS} tokens beside {name}, {THREADS} threads",
                bayesft_cpu_seconds=our_cpu,
                peer_cpu_seconds=their_cpu,
                ratio=our_cpu / their_cpu,
                asked_at_most=0.1,
                bayesft_seconds=our_wall,
                peer_seconds=their_wall,
                ratio_by_the_clock=our_wall / their_wall,
            )


if __name__ == "__main__":
    main()
