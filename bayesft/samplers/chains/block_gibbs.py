"""Block Gibbs: a few tokens inside the sequence are redrawn given what stands on both sides."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bayesft.base import Key, Prompt, is_eos
from bayesft.errors import SamplerError
from bayesft.samplers.chains.kernel import (
    Candidates,
    Chains,
    Kernel,
    folded,
    gibbs,
    total_log_prior,
    uniforms,
)
from bayesft.samplers.chains.walk import walk
from bayesft.samplers.validation import require_count
from bayesft.target import Target

MAX_BLOCKS = 4096
"""Blocks that are listed; more would cost more than importance resampling among a few."""


def block_gibbs(block_size: int = 1, num_candidates: int | None = None) -> BlockGibbs:
    """Kernel that redraws a uniformly placed block of B tokens, none of them EOS, by

        p*(block | rest, x) ∝ π0(y | x)·φ(y, x)   over blocks of tokens other than EOS.

    With `num_candidates` None every block is listed and the draw is exact; (V − |EOS|)^B is at most
    4096. With M = `num_candidates` ≥ 2, M − 1 blocks are drawn from the prior at the prefix, EOS
    left out, and one of them and the current block is taken by its importance weight π0·φ/q, which
    leaves p* invariant for any M (Tjelmeland 2004; Andrieu, Doucet and Holenstein 2010).

    The length stays what it is, and so it must be composed with a kernel that changes it:
    `mcmc([block_gibbs(…), suffix_resampling()], …)`. A sequence with fewer than B tokens before
    its EOS has them all redrawn. Raises SamplerError for settings out of range, and when bound to a
    target with too many blocks to list.
    """
    if num_candidates is not None and require_count("num_candidates", num_candidates) < 2:
        raise SamplerError(
            f"num_candidates={num_candidates} leaves nothing to choose from.",
            cause="the current block is one of the candidates.",
            remedy="use num_candidates ≥ 2, or None to list every block.",
        )
    return BlockGibbs(require_count("block_size", block_size), num_candidates)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockGibbs(Kernel):
    """See `block_gibbs`."""

    changes_length = False

    block_size: int = dataclasses.field(metadata={"static": True})
    num_candidates: int | None = dataclasses.field(metadata={"static": True})

    def bind(self, target: Target) -> BlockGibbs:
        prior, size = target.prior, min(self.block_size, target.horizon.max_new_tokens)
        num_blocks = (prior.vocab_size - len(prior.eos)) ** size
        if self.num_candidates is None and num_blocks > MAX_BLOCKS:
            raise SamplerError(
                f"{num_blocks} blocks of {size} tokens are too many to list (the limit is "
                f"{MAX_BLOCKS}).",
                cause="a large vocabulary or block.",
                remedy="give num_candidates, for example block_gibbs(block_size, 16).",
            )
        return dataclasses.replace(self, block_size=size)

    def propose(self, target: Target, xs: Prompt, keys: Key, chains: Chains) -> Candidates:
        num_tokens = target.horizon.max_new_tokens
        ended = is_eos(chains.tokens, target.prior.eos).any(-1)
        num_others = chains.lengths - ended
        # The loop folds in the numbers of the tokens, which are below.
        share = uniforms(folded(keys, num_tokens))
        num_places = jnp.maximum(num_others - self.block_size, 0) + 1
        first = jnp.minimum((share * num_places).astype(jnp.int32), num_places - 1)
        offset = jnp.arange(num_tokens, dtype=jnp.int32)[None, None] - first[..., None]
        inside = (offset >= 0) & (offset < self.block_size)
        inside &= offset + first[..., None] < num_others[..., None]
        if self.num_candidates is None:
            return self._listed(target, xs, chains, offset, inside)
        return self._drawn(target, xs, keys, chains, inside, self.num_candidates)

    def select(self, keys, log_weights):
        return gibbs(keys, log_weights)

    def _listed(
        self,
        target: Target,
        xs: Prompt,
        chains: Chains,
        offset: Int[Array, "P C T"],
        inside: Bool[Array, "P C T"],
    ) -> Candidates:
        others = [v for v in range(target.prior.vocab_size) if v not in target.prior.eos]
        listed = itertools.product(others, repeat=self.block_size)
        blocks = jnp.asarray(np.asarray([*listed], np.int32))  # [M, B]
        given = jnp.broadcast_to(
            chains.tokens[:, :, None],
            (*chains.tokens.shape[:2], blocks.shape[0], chains.tokens.shape[-1]),
        )
        put = blocks.T[jnp.clip(offset, 0, self.block_size - 1)]  # [P, C, T, M]
        tokens = jnp.where(inside[:, :, None], jnp.moveaxis(put, -1, 2), given)
        # A block that is cut short stands for several of the list: only the first of them counts,
        # and the current sequence counts by its own weight.
        unused = jnp.arange(self.block_size)[None, None] >= inside.sum(-1)[..., None]
        again = (unused[:, :, None] & (blocks != others[0])[None, None]).any(-1)
        again |= (tokens == given).all(-1)
        of_one = jax.vmap(jax.vmap(target.log_prior, (0, None)), (0, None))
        log_prior = jax.vmap(of_one)(tokens, xs)
        return Candidates(
            tokens=tokens,
            lengths=jnp.broadcast_to(chains.lengths[..., None], log_prior.shape),
            log_prior=log_prior,
            log_weights=jnp.where(again, -jnp.inf, log_prior),
            log_weight_current=chains.log_prior,
        )

    def _drawn(
        self,
        target: Target,
        xs: Prompt,
        keys: Key,
        chains: Chains,
        inside: Bool[Array, "P C T"],
        num_candidates: int,
    ) -> Candidates:
        """Row 0 of every chain is its current sequence, whose block is scored and not drawn."""
        num_prompts, num_chains, num_tokens = chains.tokens.shape
        rows = (num_prompts, num_chains, num_candidates)

        def flat(a: Array) -> Array:
            a = jnp.broadcast_to(a, (*rows, *a.shape[3:]))
            return a.reshape(num_prompts, num_chains * num_candidates, *a.shape[3:])

        numbers = jnp.arange(num_candidates, dtype=jnp.int32)
        own = jax.vmap(lambda i: folded(keys, num_tokens + 1 + i), out_axes=2)(numbers)
        block = flat(inside[:, :, None])
        drawn = flat((numbers > 0)[None, None, :, None] & inside[:, :, None])
        walked = walk(
            target.prior,
            None,
            xs,
            own.reshape(block.shape[:2]),
            flat(chains.tokens[:, :, None]),
            drawn,
            target.horizon,
            unending=block,
        )
        log_proposal = jnp.where(block, walked.log_proposal, 0.0).sum(-1).reshape(rows)
        log_prior = total_log_prior(target, walked.tokens, walked.log_prior).reshape(rows)
        return Candidates(
            tokens=walked.tokens.reshape(*rows, num_tokens)[:, :, 1:],
            lengths=jnp.broadcast_to(chains.lengths[..., None], rows)[..., 1:],
            log_prior=log_prior[..., 1:],
            log_weights=(log_prior - log_proposal)[..., 1:],
            log_weight_current=chains.log_prior - log_proposal[..., 0],
        )
