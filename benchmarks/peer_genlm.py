"""SMC of genlm-control on a model folder: `peer_genlm.py FOLDER PARTICLES TOKENS`.

Tokens are drawn from the language model and a critic tilts them, batched over particles.
"""

from __future__ import annotations

import numpy as np
from genlm.control import EOS, SMC, Potential, PromptedLLM, direct_token_sampler
from peer_smc import PARTICLES, PROMPT, TOKENS, load, serve


class WithoutEos(PromptedLLM):
    """Never draws EOS, so that every sequence is as long as it can be."""

    async def batch_logw_next(self, contexts):
        weights = await super().batch_logw_next(contexts)
        weights.weights[:, -1] = -float("inf")
        return weights


class EvenTokens(Potential):
    """±½ nat for even and odd tokens."""

    async def prefix(self, context):
        return sum(0.5 if token.token_id % 2 == 0 else -0.5 for token in context)

    complete = prefix

    async def batch_score(self, contexts):
        bare = (c[:-1] if c[-1] is EOS else c for c in contexts)
        return np.array([await self.prefix(context) for context in bare])


model = load()
lm = WithoutEos(model, prompt_ids=PROMPT)
smc = SMC(direct_token_sampler(lm), critic=EvenTokens(lm.vocab))


async def run() -> int:
    sequences = await smc(
        n_particles=PARTICLES,
        ess_threshold=0.5,
        max_tokens=TOKENS + 1,
        resampling_method="systematic",
        # EOS closes a sequence at the limit without a factor of its own, as bayesft cuts it there.
        terminate_when=lambda context: len(context) == TOKENS,
    )
    return sum(len(context) - 1 for context in sequences.contexts)


serve(model, run)
