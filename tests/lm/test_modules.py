"""A user's module as a prior: normalised, stepped as it is scored, and refused where it leaks."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import bayesft as bft
from bayesft.base import Horizon, Prompt
from bayesft.errors import GuideError, ModelError
from bayesft.priors.scoring import log_probs
from bayesft.priors.stepped import SteppedPrior

V, D, EOS, CONTEXT = 4, 6, 3, 8
SAMPLER = bft.samplers.importance(num_particles=64)
TOLERANCE = dict(rtol=1e-5, atol=1e-5)  # some dozens of float32 roundings of logits of size 3


def means(x):
    """The mean of each position and those before it, over axis -2."""
    count = jnp.arange(1, x.shape[-2] + 1, dtype=x.dtype)[:, None]
    return jnp.cumsum(x, axis=-2) / jnp.broadcast_to(count, x.shape)


class Averages(nnx.Module):
    """logits_t = W · tanh(mean of the embeddings up to t), with positions."""

    mix = staticmethod(means)

    def __init__(self, seed: int = 0, vocab_size: int = V, dtype=jnp.float32):
        rngs = nnx.Rngs(seed)
        normal = nnx.initializers.normal(1.5)
        self.embed = nnx.Embed(vocab_size, D, embedding_init=normal, param_dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(D, vocab_size, kernel_init=normal, param_dtype=dtype, rngs=rngs)
        self.shift = nnx.Variable(jnp.linspace(-1, 1, D))  # no parameter

    def __call__(self, tokens):
        return self.out(jnp.tanh(self.mix(self.embed(tokens)) + self.shift[...][None, None]))


class LinenAverages(linen.Module):
    """The same in Linen, with a method that the user's steps call."""

    def setup(self):
        self.embed, self.out = linen.Embed(V, D), linen.Dense(V)

    def __call__(self, tokens):
        return self.read(means(self.embed(tokens)))

    def read(self, mean):
        shift = jnp.broadcast_to(jnp.linspace(-1, 1, D), mean.shape)
        return self.out(jnp.tanh(mean + shift))


def init(module, tokens, lengths, max_new_tokens):
    real = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
    total = jnp.where(real[..., None], module.embed(tokens), 0).sum(1)
    return {"total": total, "spare": jnp.int32(7)}, read(module, total / lengths[:, None])


def step(module, cache, tokens, positions):
    total = cache["total"] + module.embed(tokens)
    return cache | {"total": total}, read(module, total / (positions + 1)[:, None])


def read(module, mean):
    return module.out(jnp.tanh(mean + jnp.broadcast_to(jnp.linspace(-1, 1, D), mean.shape)))


def linen_variables(module: Averages):
    out = {"kernel": module.out.kernel[...], "bias": module.out.bias[...]}
    return {"params": {"embed": {"embedding": module.embed.embedding[...]}, "out": out}}


MAKE = {
    "nnx": lambda: bft.lm.from_module(Averages(), eos=EOS, bos=0, max_length=CONTEXT),
    "nnx, steps": lambda: bft.lm.from_module(
        Averages(), eos=EOS, bos=0, max_length=CONTEXT, init=init, step=step
    ),
    "linen": lambda: bft.lm.from_module(
        LinenAverages(), linen_variables(Averages()), eos=EOS, bos=0, max_length=CONTEXT
    ),
    "linen, steps": lambda: bft.lm.from_module(
        LinenAverages(), linen_variables(Averages()), eos=EOS, bos=0, init=init, step=step
    ),
}
make = functools.cache(lambda name: MAKE[name]())


@pytest.fixture(params=MAKE)
def prior(request: pytest.FixtureRequest):
    return make(request.param)


def prompts(padding: int = 1, size: int = 8) -> Prompt:
    """Prompts of 5, 1 and 2 tokens in a bucket as wide as the context."""
    tokens, lengths = np.full((3, size), padding, np.int32), np.asarray([5, 1, 2], np.int32)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = [0, 2, 1, 1, 2][:length]
    return Prompt(jnp.asarray(tokens), jnp.asarray(lengths), jnp.arange(3, dtype=jnp.int32))


def truth(tokens: np.ndarray, xs: Prompt) -> np.ndarray:
    """Logits [P, N, T, V] of tokens [P, N, T] from whole rows without any padding, in numpy."""
    module = Averages()
    embedding, kernel = np.asarray(module.embed.embedding[...]), np.asarray(module.out.kernel[...])
    found = np.zeros((*tokens.shape, V), np.float32)
    for p, n in np.ndindex(tokens.shape[:2]):
        length = int(xs.length[p])
        row = np.concatenate([np.asarray(xs.tokens)[p, :length], tokens[p, n, :-1]])
        mean = np.cumsum(embedding[row], 0) / np.arange(1, len(row) + 1)[:, None]
        logits = np.tanh(mean + np.linspace(-1, 1, D)) @ kernel
        found[p, n] = logits[length - 1 :]
    return found


TOKENS = np.random.default_rng(0).integers(0, V, (3, 4, 3)).astype(np.int32)


@jax.jit
def step_through(prior, xs, tokens):
    state, logits = prior.start(xs, tokens.shape[1], tokens.shape[2])
    found = [logits]
    for t in range(tokens.shape[2] - 1):
        state, logits = prior.advance(state, tokens[:, :, t])
        found.append(logits)
    return jnp.stack(found, axis=2)


@jax.jit
def teacher_forced(prior, xs, tokens):
    one = jax.vmap(prior.token_logits, (0, None))
    return jax.vmap(one)(tokens, xs)


def test_stepping_and_scoring_give_the_modules_logits_whatever_the_padding(prior):
    for xs in (prompts(), prompts(padding=2), prompts(size=16)):
        expected = truth(TOKENS, xs)
        np.testing.assert_allclose(step_through(prior, xs, TOKENS), expected, **TOLERANCE)
        np.testing.assert_allclose(teacher_forced(prior, xs, TOKENS), expected, **TOLERANCE)


def test_reordered_particles_continue_their_ancestors(prior):
    xs, ancestors = prompts(), np.asarray([[3, 0, 0, 1], [1, 2, 3, 0], [2, 2, 2, 2]], np.int32)

    @jax.jit
    def run(prior, tokens):
        state, _ = prior.start(xs, 4, 3)
        state, _ = prior.advance(state, tokens[:, :, 0])
        return prior.advance(prior.reorder(state, ancestors), tokens[:, :, 1])[1]

    first = np.take_along_axis(TOKENS[:, :, 0], ancestors, axis=1)
    lines = np.stack([first, TOKENS[:, :, 1], TOKENS[:, :, 1]], axis=2)
    np.testing.assert_allclose(run(prior, TOKENS), truth(lines, xs)[:, :, 2], **TOLERANCE)


def test_enumerated_sequences_sum_to_one_and_no_fewer(prior):
    rows = SteppedPrior.enumerate(prior, 3)[None]
    x = jax.tree.map(lambda leaf: leaf[:1], prompts())
    total = np.exp(log_probs(prior, rows, x, Horizon(3))).sum()
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    unscored = dataclasses.replace(prior, card=dataclasses.replace(prior.card, eos=(EOS - 1,)))
    assert abs(np.exp(log_probs(unscored, rows, x, Horizon(3))).sum() - 1) > 0.1


def test_a_guide_starts_as_its_prior_and_every_parameter_learns(prior):
    guide, x = bft.trainable(prior), jax.tree.map(lambda leaf: leaf[0], prompts())
    assert guide.eos == (EOS,) and guide.vocab_size == V and guide.decode([1, EOS]) == "1"

    @jax.jit
    def score(params):
        return guide.with_params(params).token_log_probs(TOKENS[0, 0], x, Horizon(3)).sum()

    forced = jax.nn.log_softmax(truth(TOKENS, prompts()))[0, 0, np.arange(3), TOKENS[0, 0]]
    ended = np.cumsum(TOKENS[0, 0] == EOS) - (TOKENS[0, 0] == EOS) > 0
    np.testing.assert_allclose(score(guide.params), forced[~ended].sum(), **TOLERANCE)
    gradient = jax.grad(score)(guide.params)
    assert len(jax.tree.leaves(gradient)) == 3  # the shift is no parameter
    for path, slope in jax.tree.leaves_with_path(gradient):
        at = tuple(np.argwhere(np.abs(slope) == np.abs(slope).max())[0])
        moved = lambda by, path=path, at=at: jax.tree.map_with_path(
            lambda p, leaf: leaf.at[at].add(by) if p == path else leaf, guide.params
        )
        difference = (score(moved(1e-2)) - score(moved(-1e-2))) / 2e-2
        assert slope[at] != 0 and abs(difference - slope[at]) < 2e-3


def test_a_fit_moves_the_module_and_leaves_the_users_alone():
    module = Averages()
    before = jax.tree.map(jnp.copy, nnx.state(module))
    prior = bft.lm.from_module(module, eos=EOS, bos=0, init=init, step=step)
    fitted = bft.fit(
        bft.empirical([[1, 2, EOS]], prompts=[[0]]),
        bft.trainable(prior),
        objective=bft.objectives.mle,
        optimizer=optax.adam(0.1),
        num_steps=20,
        key=jax.random.key(0),
    )
    assert fitted.values[-1] < fitted.values[0] / 4  # one completion can be learnt by heart
    jax.tree.map(np.testing.assert_array_equal, nnx.state(module), before)
    mine = fitted.guide.module()
    assert isinstance(mine, Averages) and not np.array_equal(mine.out.kernel, module.out.kernel)


def test_a_linen_guide_gives_its_variables_back():
    guide = bft.trainable(make("linen"))
    _, variables = guide.module().unbind()
    jax.tree.map(np.testing.assert_array_equal, variables["params"], guide.params)


def test_half_precision_is_trained_in_float32():
    prior = bft.lm.from_module(Averages(dtype=jnp.bfloat16), eos=EOS, bos=0)
    guide = bft.trainable(prior)
    assert {leaf.dtype for leaf in jax.tree.leaves(guide.params)} == {jnp.dtype("float32")}
    ahead = guide.prepared()  # cast once, ahead of a loop over tokens
    jax.tree.map(np.testing.assert_array_equal, ahead.params, prior.params)
    assert isinstance(ahead, type(prior))
    found, expected = (teacher_forced(p, prompts(), TOKENS) for p in (guide, prior))
    np.testing.assert_array_equal(found, expected)


def test_text_goes_through_the_tokenizer(folder: Path):
    prior = bft.lm.from_module(Averages(vocab_size=23), eos=2, tokenizer=folder / "tokenizer.json")
    assert prior.encode("a b") == [1, 3, 4] and prior.encode("") == [1]
    assert prior.decode([1, 3, 4, 2]) == "a b"


# ---- what is refused ----------------------------------------------------------------------------


class Noisy(Averages):
    def __init__(self):
        super().__init__()
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, tokens):
        return self.drop(super().__call__(tokens))


def mixing(mix) -> Averages:
    """The module with another way to mix positions."""
    return type("Mixing", (Averages,), {"mix": staticmethod(mix)})()


BUGS = {
    "sees everything": (
        lambda: mixing(lambda x: x + x.mean(-2, keepdims=True)),
        "looks ahead: logits before position 1",
    ),
    "sees the next token": (
        lambda: mixing(lambda x: x + 0.01 * jnp.roll(x, -1, -2).at[..., -1, :].set(0)),
        "looks ahead",
    ),
    "leaks rows": (lambda: mixing(lambda x: means(x) + x.mean(0, keepdims=True)), "other rows"),
    "counts from the end": (lambda: mixing(lambda x: means(x) * x.shape[-2]), "padding stands"),
    "draws": (Noisy, "changes its own state"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_modules_that_leak_are_refused(bug: str):
    make, message = BUGS[bug]
    with pytest.raises(ModelError, match=message):
        bft.lm.from_module(make(), eos=EOS)


def test_a_module_that_has_stopped_to_draw_is_taken():
    module = Noisy()
    module.eval()
    assert bft.lm.from_module(module, eos=EOS).vocab_size == V


@pytest.mark.parametrize("mask", [-jnp.inf, -1e9, float(jnp.finfo(jnp.float32).min)])
def test_masked_tokens_are_none_and_hide_no_leak(mask):
    def masked(logits):
        return logits.at[..., 1].set(mask)

    def first(*args):
        cache, logits = init(*args)
        return cache, masked(logits)

    def mirrored(*args):
        cache, logits = step(*args)
        return cache, masked(logits[:, ::-1])

    take = functools.partial(
        bft.lm.from_module, eos=EOS, bos=0, logits_fn=lambda module, tokens: masked(module(tokens))
    )
    draws = bft.sample(bft.Target(take(Averages()), max_new_tokens=4), SAMPLER, jax.random.key(0))
    assert not (np.asarray(draws.tokens) == 1).any()
    with pytest.raises(ModelError, match="looks ahead"):
        take(mixing(lambda x: x.sum(-2, keepdims=True) + x))
    with pytest.raises(ModelError, match="init and step give other logits"):
        take(Averages(), init=first, step=mirrored)


def test_prompts_reach_init_no_longer_than_the_context():
    sizes = []

    def watched(module, tokens, lengths, max_new_tokens):
        sizes.append(tokens.shape[1])
        return init(module, tokens, lengths, max_new_tokens)

    prior = bft.lm.from_module(Averages(), eos=EOS, bos=0, max_length=12, init=watched, step=step)
    target = bft.Target(prior, prompts=[[1] * 9], max_new_tokens=3)
    assert target.xs.tokens.shape[1] > 12  # padded to a size that others share
    bft.sample(target, SAMPLER, jax.random.key(0))
    assert max(sizes) == 12


def test_flax_errors_of_a_module_that_trains_are_named():
    class Drops(linen.Module):
        @linen.compact
        def __call__(self, tokens):
            embedded = linen.Embed(V, D)(tokens)
            return linen.Dense(V)(linen.Dropout(0.5, deterministic=False)(embedded))

    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0)), strict=True))
    variables = Drops().init(keys, jnp.zeros((1, 2), int))
    with pytest.raises(ModelError, match="dropout"):
        bft.lm.from_module(Drops(), variables, eos=EOS)


def without_mask(module, tokens, lengths, max_new_tokens):
    total = module.embed(tokens).sum(1)
    return {"total": total}, read(module, total / lengths[:, None])


def off_by_one(module, cache, tokens, positions):
    return step(module, cache, tokens, positions + 1)


def layers_first(module, tokens, lengths, max_new_tokens):
    cache, logits = init(module, tokens, lengths, max_new_tokens)
    return cache | {"keys": jnp.zeros((5, tokens.shape[0]))}, logits


@pytest.mark.parametrize(
    ("init", "step", "message"),
    [
        (without_mask, step, "other logits"),
        (init, off_by_one, "other logits"),
        (layers_first, step, r"has shape \[5, 2\]"),
        (init, None, "not given together"),
    ],
)
def test_steps_that_disagree_are_refused(init, step, message: str):
    with pytest.raises(ModelError, match=message):
        bft.lm.from_module(Averages(), eos=EOS, init=init, step=step)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *((dict(module=Averages(), eos=wrong), "eos .* no token of a vocabulary of 4")
          for wrong in (V, True, [1, True], 2.5, "1", None, [1, [2]], {1})),
        (dict(module=Averages(), eos=[]), "names no token"),
        *((dict(module=Averages(), eos=0, bos=wrong), "bos .* no token of a vocabulary of 4")
          for wrong in (V, -1, True, [1], "1")),
        *((dict(module=Averages(), eos=0, max_length=wrong), "is not a count of at least 1")
          for wrong in (0, -3, 2.5, "8", True)),
        (dict(module=Averages(), eos=0, logits_fn=lambda m, t: (m(t), None)), r"not logits"),
        (dict(module=Averages(), eos=0, logits_fn=lambda m, t: m(t)[:, 0]), r"not logits"),
        (dict(module=LinenAverages(), eos=0), "is no model"),
        (dict(module=Averages(), variables={"params": {}}, eos=0), "is no model"),
        (dict(module=lambda tokens: tokens, eos=0), "is no model"),
    ],
)  # fmt: skip
def test_mistakes_are_named(arguments: dict, message: str):
    with pytest.raises(ModelError, match=message):
        bft.lm.from_module(**arguments)


def test_ids_are_integers_of_any_library():
    eos = [2, np.int64(2), jnp.int32(2)]
    prior = bft.lm.from_module(Averages(), eos=eos, bos=np.int64(0), max_length=np.int8(2))
    assert prior.eos == (2,) and prior.encode([]) == [0] and prior.max_length == 2
    assert hash(prior.card)


def test_a_module_without_parameters_has_no_guide():
    class Uniform(nnx.Module):
        def __call__(self, tokens):
            return jnp.zeros((*tokens.shape, V))

    with pytest.raises(GuideError, match="no parameters"):
        bft.trainable(bft.lm.from_module(Uniform(), eos=0))
