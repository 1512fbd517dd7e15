"""Sequences of a prior up to a horizon, as a distribution: one sampling loop for every prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from bayesft.base import (
    Guide,
    Horizon,
    Key,
    Prior,
    Prompt,
    PyTree,
    is_eos,
    stages,
    withholding,
)
from bayesft.errors import GuideError
from bayesft.sharding import join, split

_CHUNK = 256


def inverse_cdf(
    uniform: Float[Array, "*batch"], logits: Float[Array, "*batch V"]
) -> tuple[Int[Array, "*batch"], Float[Array, "*batch"]]:
    """One categorical draw per row from one uniform each, with its log-prob.

    Inverts the CDF in two levels (chunks, then tokens of a chunk), which reads the logits twice and
    needs no noise of size V; tokens of probability 0 are never drawn.
    """
    vocab_size = logits.shape[-1]
    batch = logits.shape[:-1]
    flat = logits.reshape(-1, vocab_size)
    rows = flat.shape[0]
    peak = jax.lax.stop_gradient(flat.max(-1, keepdims=True))
    mass = jnp.exp(flat - jnp.where(jnp.isfinite(peak), peak, 0.0))
    size = min(_CHUNK, vocab_size)
    num_chunks = -(-vocab_size // size)
    chunks = jnp.pad(mass, ((0, 0), (0, num_chunks * size - vocab_size)))
    chunks = chunks.reshape(rows, num_chunks, size)
    upper = _cumulative(chunks.sum(-1))
    total = upper[:, -1:]
    point = uniform.reshape(rows, 1) * total
    chunk, rest = _first_above(upper, point)
    row = jnp.take_along_axis(chunks, chunk[:, :, None], 1)[:, 0]
    within, _ = _first_above(_cumulative(row), rest)
    token = (chunk * size + within)[:, 0]
    log_prob = jnp.take_along_axis(flat, token[:, None], 1) - peak - jnp.log(total)
    return token.reshape(batch).astype(jnp.int32), log_prob.reshape(batch)


def _cumulative(mass: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """Cumulative sums that rounding cannot raise across a cell without mass.

    XLA sums in parallel, so neighbouring entries are rounded apart; each is taken over from the
    last cell with mass, which makes them monotone.
    """
    return jax.lax.cummax(jnp.where(mass > 0, jnp.cumsum(mass, -1), 0.0), axis=mass.ndim - 1)


def _first_above(
    cdf: Float[Array, "B C"], point: Float[Array, "B 1"]
) -> tuple[Int[Array, "B 1"], Float[Array, "B 1"]]:
    """First index whose CDF exceeds the point, and how far into its cell the point lies.

    Rounding may put the point at or past the end: it is clamped just below the last entry, so the
    cell found always has mass.
    """
    point = jnp.minimum(point, jnp.nextafter(cdf[:, -1:], jnp.zeros_like(cdf[:, -1:])))
    index = (cdf <= point).sum(-1, keepdims=True).astype(jnp.int32)
    before = jnp.take_along_axis(cdf, jnp.maximum(index - 1, 0), 1)
    return index, point - jnp.where(index > 0, before, 0.0)


def generate(
    prior: Prior, xs: Prompt, keys: Key, horizon: Horizon
) -> tuple[Int[Array, "P K T"], Float[Array, "P K T"]]:
    """Sample a completion for every key [P, K], with per-token log-probs, in one jitted loop.

    The loop leaves as soon as every sequence has ended.
    """
    num_prompts, num_lanes = keys.shape
    num_tokens, eos = horizon.max_new_tokens, prior.eos
    prior = prior.prepared()
    state, logits = prior.start(xs, num_lanes, num_tokens)
    uniform = jax.vmap(jax.vmap(lambda key, t: jax.random.uniform(jax.random.fold_in(key, t))))

    def choose(t, logits, done, tokens, log_probs):
        at = jnp.full(keys.shape, t)
        token, log_prob = join(
            inverse_cdf(uniform(keys, at), horizon.constrain(split(logits), t, eos))
        )
        token = jnp.where(done, eos[0], token)
        put = jax.lax.dynamic_update_index_in_dim
        tokens = put(tokens, token, t, 2)
        log_probs = put(log_probs, jnp.where(done, 0.0, log_prob), t, 2)
        return token, done | is_eos(token, eos), tokens, log_probs

    def body(carry):
        t, state, token, done, tokens, log_probs = carry
        state, logits = prior.advance(state, token)
        return t + 1, state, *choose(t, logits, done, tokens, log_probs)

    def going(stop, carry):
        return (carry[0] < stop) & ~carry[3].all()

    shape = (num_prompts, num_lanes, num_tokens)
    done = jnp.zeros(shape[:2], bool)
    first = choose(
        0, logits, done, jnp.full(shape, eos[0], jnp.int32), jnp.zeros(shape, logits.dtype)
    )
    carry = jnp.int32(1), state, *first
    for stop in stages(state, num_tokens):
        carry = carry[0], withholding(carry[1], num_tokens - stop), *carry[2:]
        carry = jax.lax.while_loop(partial(going, stop), body, carry)
    return split((carry[-2], carry[-1]))


def _lifted_sampler(horizon: Horizon):
    """Sampling of one sequence, whose vmap over lanes and prompts is one call of `generate`.

    A `vmap` of the loop itself would batch its state (and a decoder's cache) one lane at a time.
    """

    def batched(prior: Prior, xs: Prompt, keys: Key):
        return generate(prior, xs, keys, horizon)

    @custom_vmap
    def prompts(prior, xs, keys):  # [P], [P, K]
        return batched(prior, xs, keys)

    @custom_vmap
    def lanes(prior, x, keys):  # [], [K]
        return jax.tree.map(lambda a: a[0], batched(prior, _lead(x), keys[None]))

    @custom_vmap
    def one(prior, x, key):
        return jax.tree.map(lambda a: a[0, 0], batched(prior, _lead(x), key[None, None]))

    @one.def_vmap
    def _(size, batch, prior, x, key):
        _refuse_batched(batch[0])
        if not any(jax.tree.leaves(batch[1])) and batch[2]:
            return lanes(prior, x, key), (True, True)
        x, key = _spread(size, tuple(batch[1:]), (x, key))
        values = prompts(prior, x, key[:, None])
        return jax.tree.map(lambda a: a[:, 0], values), (True, True)

    @lanes.def_vmap
    def _(size, batch, prior, x, keys):
        _refuse_batched(batch[0])
        x, keys = _spread(size, tuple(batch[1:]), (x, keys))
        return prompts(prior, x, keys), (True, True)

    @prompts.def_vmap
    def _(size, batch, prior, xs, keys):
        _refuse_batched(batch[0])
        xs, keys = _spread(size, tuple(batch[1:]), (xs, keys))
        count = keys.shape[1]
        flat = jax.tree.map(lambda a: a.reshape(size * count, *a.shape[2:]), (xs, keys))
        values = prompts(prior, *flat)
        values = jax.tree.map(lambda a: a.reshape(size, count, *a.shape[1:]), values)
        return values, (True, True)

    return one


def _lead(x: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[None], x)


def _spread(size: int, batched: PyTree, values: PyTree) -> PyTree:
    """Give every unbatched leaf a leading axis, so that all leaves lead with it."""
    return jax.tree.map(
        lambda b, a: a if b else jnp.broadcast_to(a, (size, *a.shape)), batched, values
    )


def _refuse_batched(batched: PyTree) -> None:
    if any(jax.tree.leaves(batched)):
        raise GuideError(
            "Sequences were sampled under a vmap over the parameters of their prior.",
            cause="vmap over several guides at once; the sampling loop shares one set of weights.",
            remedy="loop over the guides, or vmap over prompts and keys only.",
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceDistribution:
    """Distribution over the completions [T] of one prompt, up to a horizon.

    `log_prob(tokens)` = Σ_t log π(y_t | y_<t, x) in nats, EOS scored and padding not.
    """

    prior: Prior
    x: Prompt
    horizon: Horizon = dataclasses.field(metadata={"static": True})

    has_rsample = False

    def sample(self, key: Key) -> Int[Array, " T"]:
        return self.sample_and_token_log_probs(key)[0]

    def token_log_probs(self, value: Int[Array, " T"]) -> Float[Array, " T"]:
        return self.prior.token_log_probs(value, self.x, self.horizon)

    def log_prob(self, value: Int[Array, " T"]) -> Float[Array, ""]:
        return self.token_log_probs(value).sum()

    def sample_and_token_log_probs(self, key: Key) -> tuple[Int[Array, " T"], Float[Array, " T"]]:
        """One pass; no gradient flows through either (score the tokens for that)."""
        prior, x = jax.lax.stop_gradient((self.prior, self.x))
        return jax.lax.stop_gradient(_lifted_sampler(self.horizon)(prior, x, key))

    def sample_and_log_prob(self, key: Key) -> tuple[Int[Array, " T"], Float[Array, ""]]:
        tokens, token_log_probs = self.sample_and_token_log_probs(key)
        return tokens, token_log_probs.sum()

    def proposed_by(self, proposal: Callable[[Prior], Prior]) -> SequenceDistribution:
        return dataclasses.replace(self, prior=proposal(self.prior))

    def enumerate_support(self) -> Int[Array, "M T"]:
        """Every outcome, where the prior is `Enumerable`."""
        from bayesft.priors.stepped import enumerate_sequences

        return jnp.asarray(enumerate_sequences(self.prior, self.horizon))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BoundGuide:
    """A guide with a target's horizon and EOS policy: `guide(x)` is a normalised distribution."""

    guide: Guide
    horizon: Horizon = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Prompt) -> SequenceDistribution:
        if x.soft is not None and not self.guide.reads_soft:
            raise GuideError(
                f"{type(self.guide).__name__} has no embeddings, and the prompt is a soft one.",
                cause="Prompt.soft is for decoders; other priors would pass over it.",
                remedy="use a language model's guide, or prompts of tokens alone.",
            )
        return SequenceDistribution(self.guide, x, self.horizon)

    @property
    def params(self) -> PyTree:
        return self.guide.params

    def with_params(self, params: PyTree) -> BoundGuide:
        return BoundGuide(self.guide.with_params(params), self.horizon)


def bind(guide: Guide, horizon: Horizon) -> BoundGuide:
    """Bind a guide to a target's horizon; under `condition` a guide is normalised as `truncate`."""
    return BoundGuide(guide, normalised(horizon))


def normalised(horizon: Horizon) -> Horizon:
    """The horizon of a target under which a prior or guide sums to 1."""
    policy = "force" if horizon.eos_policy == "force" else "truncate"
    return Horizon(horizon.max_new_tokens, policy)
