"""GenJAX: generative functions as choices and priors, priors as GenJAX distributions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from bayesft.base import EosPolicy, Horizon, Key, Prior, Prompt, PyTree
from bayesft.errors import InteropError
from bayesft.interop.extras import load
from bayesft.priors.corpus import distinct
from bayesft.priors.sequence import SequenceDistribution
from bayesft.priors.stepped import SteppedPrior

# ---- a generative function as a choice ----------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GenerativeChoice:
    """The distribution of a generative function's choices at some arguments."""

    gen_fn: Any
    args: tuple
    support: PyTree | None

    has_rsample = False

    def sample(self, key: Key) -> PyTree:
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(self, key: Key) -> tuple[PyTree, Float[Array, ""]]:
        trace = load("genjax", "genjax").seed(self.gen_fn.simulate)(key, *self.args)
        return trace.get_choices(), -jnp.sum(trace.get_score())

    def log_prob(self, value: PyTree) -> Float[Array, ""]:
        return jnp.sum(self.gen_fn.assess(value, *self.args)[0])

    def returned(self, value: PyTree) -> PyTree:
        """What the function returns when it makes these choices."""
        return self.gen_fn.assess(value, *self.args)[1]

    @property
    def has_enumerate_support(self) -> bool:
        return self.support is not None

    def enumerate_support(self) -> PyTree:
        return self.support


def choice(gen_fn: Any, *args: PyTree, support: PyTree | None = None) -> GenerativeChoice:
    """The choices of a GenJAX generative function at `args`, as one choice for `bft.draw`.

    The value is GenJAX's choice map {address: value}, its log-prob that of `assess`, and
    `returned(value)` what the function returns. Any score-type estimator applies, and `enumerate`
    where `support` lists every choice map, stacked. GenJAX does not say which samples are
    differentiable, so `reparameterize` is refused.

    Raises InteropError for anything else than a generative function, for a Cond whose branches have
    other addresses, for a support whose probabilities do not sum to 1, and where GenJAX is missing.
    """
    genjax = _require_generative(gen_fn)
    made = GenerativeChoice(gen_fn, args, support)
    trace = jax.eval_shape(lambda: genjax.seed(gen_fn.simulate)(jax.random.key(0), *args))
    _require_even_branches(genjax, trace)
    if support is not None:
        _require_total(jax.vmap(made.log_prob)(support), "the support that is given")
    return made


def _require_even_branches(genjax: Any, trace: Any) -> None:
    """A Cond runs both branches; an address of one alone would be chosen and never scored."""
    is_cond = lambda part: isinstance(part, genjax.core.CondTr)
    for part in filter(is_cond, jax.tree.leaves(trace, is_leaf=is_cond)):
        one, other = (jax.tree.structure(branch.get_choices()) for branch in part.trs)
        if one != other:
            raise InteropError(
                f"The branches of a genjax.Cond have different addresses: {one} and {other}.",
                cause="GenJAX runs both and keeps all choices, but scores those of one branch.",
                remedy="give both branches the same addresses.",
            )
        for branch in part.trs:
            _require_even_branches(genjax, branch)


# ---- a generative function as a prior -----------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GenerativePrior(SteppedPrior):
    """π(y | x) = Π_t p(y_t | carry_t), each factor by `assess` of every token."""

    step_fn: Any
    carry: PyTree
    inputs: PyTree
    vocab_size: int = dataclasses.field(metadata={"static": True})  # pyright: ignore
    eos: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # pyright: ignore
    vocabulary: tuple[str, ...] | None = dataclasses.field(metadata={"static": True})  # pyright: ignore
    address: Any = dataclasses.field(metadata={"static": True})
    """The structure of a choice map that holds one token."""

    def init(self, x: Prompt) -> tuple[PyTree, Float[Array, " V"]]:
        def follow(carry, inputs):
            token, is_real = inputs
            after = self._assess(token, carry)[1]
            return jax.tree.map(lambda new, old: jnp.where(is_real, new, old), after, carry), None

        is_real = jnp.arange(x.tokens.shape[-1]) < x.length
        carry, _ = jax.lax.scan(follow, self.carry, (x.tokens, is_real))
        return carry, self.logits(carry)

    def step(self, state: PyTree, token: Int[Array, ""]) -> tuple[PyTree, Float[Array, " V"]]:
        carry = self._assess(token, state)[1]
        return carry, self.logits(carry)

    def logits(self, carry: PyTree) -> Float[Array, " V"]:
        """log p of every token; what does not depend on the token is computed once."""
        tokens = jnp.arange(self.vocab_size, dtype=jnp.int32)
        return jax.vmap(lambda token: self._assess(token, carry)[0])(tokens)

    def _assess(self, token: Int[Array, ""], carry: PyTree) -> tuple[Float[Array, ""], PyTree]:
        choices = jax.tree.unflatten(self.address, [token])
        log_prob, (after, _) = self.step_fn.assess(choices, carry, self.inputs)
        return jnp.sum(log_prob), after


def prior(
    step: Any,
    carry: PyTree,
    *,
    vocab_size: int,
    eos: int | Sequence[int],
    inputs: PyTree = None,
    vocabulary: Sequence[str] | None = None,
) -> GenerativePrior:
    """A GenJAX generative function that makes one token as a prior over token sequences.

    `step(carry, inputs) -> (carry, output)` is the callee of a `genjax.Scan` (or that Scan itself)
    and chooses one integer below `vocab_size`. The prior runs it from `carry` with the same
    `inputs` at every position, first along the prompt's tokens; the floats among both are what
    `bft.trainable` trains. The logits are `assess` of every token, so samplers, enumeration and
    guides have what they need.

    Raises InteropError for a function of another form (draw it as a `choice`), for one whose tokens
    below `vocab_size` do not have probability 1 together, and where GenJAX is missing.
    """
    genjax = _require_generative(step)
    step = step.callee if isinstance(step, genjax.Scan) else step
    carry, inputs = jax.tree.map(jnp.asarray, (carry, inputs))
    try:
        drawn = jax.eval_shape(lambda: genjax.seed(step.simulate)(jax.random.key(0), carry, inputs))
        choices, (after, _) = drawn.get_choices(), drawn.get_retval()
    except (TypeError, ValueError) as error:
        raise _no_prior(f"it does not run as a step: {error}") from error
    leaves = jax.tree.leaves(choices)
    if len(leaves) != 1 or leaves[0].shape or not jnp.issubdtype(leaves[0].dtype, jnp.integer):
        raise _no_prior(f"its choices are {jax.tree.map(lambda a: f'{a.dtype}{a.shape}', choices)}")
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (carry, after)]
    if shapes[0] != shapes[1]:
        raise _no_prior(f"its carry changes from {shapes[0]} to {shapes[1]}")
    ends = distinct(eos)
    if not ends or not all(0 <= token < vocab_size for token in ends):
        raise _no_prior(f"eos={eos} is no token below {vocab_size}")
    names = None if vocabulary is None else tuple(vocabulary)
    address = jax.tree.structure(choices)
    made = GenerativePrior(step, carry, inputs, vocab_size, ends, names, address)
    open_tokens = jnp.asarray([v for v in range(vocab_size) if v not in ends], jnp.int32)

    @jax.jit
    def totals(made: GenerativePrior) -> Float[Array, " R"]:
        after = jax.vmap(lambda token: made.step(made.carry, token)[1])(open_tokens)
        rows = jnp.concatenate([made.logits(made.carry)[None], after])
        return jax.nn.logsumexp(rows, axis=-1)

    for total in totals(made):
        _require_total(total[None], f"the tokens below vocab_size={vocab_size}")
    return made


def _no_prior(why: str) -> InteropError:
    return InteropError(
        f"The generative function is no prior over tokens: {why}.",
        cause="a prior needs the distribution of the next token, which a function of any other "
        "form does not give.",
        remedy="write step(carry, inputs) -> (carry, output) with one genjax.categorical, or draw "
        "the whole function as bft.interop.genjax.choice.",
    )


# ---- a prior as a GenJAX distribution -----------------------------------------------------------


def distribution(
    prior: Prior, max_new_tokens: int, *, eos: EosPolicy = "truncate", name: str = "sequence"
) -> Any:
    """A prior or guide up to a horizon as a `genjax.Distribution` over completions [T].

    `distribution(...)(prompt) @ "y"` in a generative function draws the completion of the prompt's
    token ids [S] (none: the empty prompt); completions are padded with EOS, as everywhere. `assess`
    and the score are the log-prob in nats, differentiable in the prior's arrays.

    Raises InteropError for a horizon under which the prior does not sum to 1, for anything that is
    no prior, and where GenJAX is missing.
    """
    genjax = load("genjax", "genjax")
    if not isinstance(prior, Prior) or max_new_tokens < 1 or eos not in ("truncate", "force"):
        raise InteropError(
            f"{type(prior).__name__} with max_new_tokens={max_new_tokens} and eos={eos!r} is no "
            "distribution over completions.",
            cause='a target, which is not normalised, or eos="condition", under which the prior '
            "does not sum to 1.",
            remedy='pass a prior or guide, max_new_tokens ≥ 1 and eos="truncate" or "force".',
        )
    horizon = Horizon(max_new_tokens, eos)
    leaves, structure = jax.tree.flatten(prior)

    def bound(arrays: Sequence[Array], prompt: Int[Array, " S"]) -> SequenceDistribution:
        x = Prompt(prompt, jnp.int32(prompt.shape[0]), jnp.int32(0))
        return SequenceDistribution(jax.tree.unflatten(structure, arrays), x, horizon)

    # GenJAX flattens arguments and loses the constants of a sampler: the prior's arrays are passed
    # one by one, the prompt last.
    def keyful_sampler(key: Key, *args: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        *arrays, prompt = args
        batch = sample_shape + prompt.shape[:-1]
        prompts = jnp.broadcast_to(prompt, (*batch, prompt.shape[-1]))
        draw = lambda key, prompt: bound(arrays, prompt).sample(key)
        for _ in batch:
            draw = jax.vmap(draw)
        return draw(jax.random.split(key, batch) if batch else key, prompts)

    def log_density(value: Array, *args: Array) -> Float[Array, ""]:
        *arrays, prompt = args
        return bound(arrays, prompt).log_prob(value)

    pjax = load("genjax.pjax", "genjax")
    sampler = pjax.wrap_sampler(keyful_sampler, name=name)
    logpdf = pjax.wrap_logpdf(log_density, name=name)
    empty = functools.partial(jnp.zeros, 0, jnp.int32)
    return genjax.Distribution(
        _sample=genjax.const(lambda *prompt: sampler(*leaves, *_ids(prompt, empty))),
        _logpdf=genjax.const(lambda v, *prompt: logpdf(v, *leaves, *_ids(prompt, empty))),
        name=genjax.const(name),
    )


def _ids(prompt: tuple[Any, ...], empty: Callable[[], Array]) -> tuple[Array]:
    return (jnp.asarray(prompt[0], jnp.int32) if prompt else empty(),)


def _require_generative(gen_fn: Any) -> Any:
    """GenJAX, where the function is one of its generative functions."""
    genjax = load("genjax", "genjax")
    if not isinstance(gen_fn, genjax.GFI):
        raise InteropError(
            f"{type(gen_fn).__name__} is no generative function of GenJAX.",
            cause="a plain function, or one that was called already.",
            remedy="decorate it with genjax.gen and pass it uncalled, its arguments after it.",
        )
    return genjax


def _require_total(log_probs: Float[Array, " M"], what: str) -> None:
    """Raise InteropError where the probabilities do not sum to 1, as far as they are known."""
    total = jnp.exp(jax.nn.logsumexp(log_probs))
    if not isinstance(total, Tracer) and not abs(float(total) - 1) < 1e-3:
        raise InteropError(
            f"The probabilities of {what} sum to {float(total):.4g}.",
            cause="values that are missing, listed twice, or impossible.",
            remedy="list every value once; vocab_size is the number of categories.",
        )
