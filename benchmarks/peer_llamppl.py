"""SMC of llamppl on a model folder: `peer_llamppl.py FOLDER PARTICLES TOKENS`."""

from __future__ import annotations

from llamppl import CachedCausalLM, LMContext, Model, smc_standard
from peer_smc import PARTICLES, TOKENS, load, serve


class EvenTokens(Model):
    """A language model's tokens with ±½ nat for even and odd ones; EOS is a token like others."""

    def __init__(self, lm: CachedCausalLM):
        super().__init__()
        self.context = LMContext(lm, "<s>")

    async def step(self) -> None:
        token = await self.sample(self.context.next_token())
        self.score(0.5 if token.token_id % 2 == 0 else -0.5)
        if self.context.token_count == TOKENS:
            self.finish()


model = load()
lm = CachedCausalLM(model)


async def run() -> int:
    particles = await smc_standard(
        EvenTokens(lm), PARTICLES, ess_threshold=0.5, resampling_method="systematic"
    )
    return sum(particle.context.token_count for particle in particles)


serve(model, run)
