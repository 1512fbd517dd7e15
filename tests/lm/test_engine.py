"""Stepping: equal to teacher forcing, for prompts of mixed lengths, after any reordering."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Prompt
from bayesft.lm import contexts
from bayesft.lm.engine import DecodeState

# Sums of at most 64 terms of size 1 in another order differ by about 64 · 2⁻²⁴ = 4e-6.
TOLERANCE = dict(rtol=2e-5, atol=2e-5)
PADDING = 5  # an ordinary token: if padding were seen, it would change the logits
LENGTHS = (3, 7, 1)


def make_prompts(seed: int = 0, size: int = 8) -> Prompt:
    rng = np.random.default_rng(seed)
    tokens = np.full((len(LENGTHS), size), PADDING, np.int32)
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[:length] = rng.integers(3, 23, length)
    return Prompt(
        jnp.asarray(tokens), jnp.asarray(LENGTHS, jnp.int32), jnp.arange(3, dtype=jnp.int32)
    )


def _step_through(prior, xs: Prompt, tokens: jax.Array) -> jax.Array:
    """Logits [P, N, T, V] of each of the given tokens [P, N, T], one at a time."""
    state, logits = prior.start(xs, tokens.shape[1], tokens.shape[2])

    def step(carry, token):
        state, logits = carry
        return prior.advance(state, token), logits

    _, logits = jax.lax.scan(step, (state, logits), jnp.moveaxis(tokens, 2, 0))
    return jnp.moveaxis(logits, 0, 2)


step_through = jax.jit(_step_through)


def continuations(seed: int = 1, particles: int = 4, length: int = 5) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 23, (len(LENGTHS), particles, length)), jnp.int32)


def teacher_forced(prior, xs: Prompt, tokens: jax.Array) -> np.ndarray:
    """The same logits from whole sequences: the padding stands at their end, if anywhere."""
    _, particles, new = tokens.shape
    lines = np.zeros((len(LENGTHS), particles, max(LENGTHS) + new), np.int32)
    for p, length in enumerate(LENGTHS):
        lines[p, :, :length] = xs.tokens[p, :length]
        lines[p, :, length : length + new] = tokens[p]
    logits = np.asarray(prior.logits(lines.reshape(-1, lines.shape[-1])))
    logits = logits.reshape(*lines.shape, -1)
    return np.stack([logits[p, :, n - 1 : n - 1 + new] for p, n in enumerate(LENGTHS)])


@pytest.mark.parametrize("fixture", ["tiny", "tied", "windowed"])
def test_stepping_equals_teacher_forcing(fixture: str, request: pytest.FixtureRequest):
    prior, xs, tokens = request.getfixturevalue(fixture), make_prompts(), continuations()
    stepped = step_through(prior, xs, tokens)
    np.testing.assert_allclose(stepped, teacher_forced(prior, xs, tokens), **TOLERANCE)


def test_a_prompt_in_a_batch_equals_the_same_prompt_alone(tiny):
    xs, tokens = make_prompts(), continuations()
    together = step_through(tiny, xs, tokens)
    for p in range(len(LENGTHS)):
        alone = jax.tree.map(lambda leaf, p=p: leaf[p : p + 1], xs)
        np.testing.assert_allclose(
            step_through(tiny, alone, tokens[p : p + 1])[0], together[p], **TOLERANCE
        )


@pytest.mark.parametrize("fixture", ["tiny", "windowed"])
def test_the_bucket_of_a_prompt_changes_nothing(fixture: str, request: pytest.FixtureRequest):
    prior, xs, tokens = request.getfixturevalue(fixture), make_prompts(), continuations()
    wider = dataclasses.replace(
        xs, tokens=jnp.pad(xs.tokens, ((0, 0), (0, 8)), constant_values=PADDING)
    )
    np.testing.assert_allclose(
        step_through(prior, wider, tokens), step_through(prior, xs, tokens), **TOLERANCE
    )


def test_planted_bug_in_the_padding_mask_is_noticed(tiny, monkeypatch: pytest.MonkeyPatch):
    shared = contexts.PromptCache.shared

    def unmasked(self, sight, after):
        found = shared(self, sight, after)
        return dataclasses.replace(found, visible=jnp.ones_like(found.visible))

    monkeypatch.setattr(contexts.PromptCache, "shared", unmasked)
    xs, tokens = make_prompts(), continuations()
    broken = jax.jit(lambda *args: _step_through(*args))(tiny, xs, tokens)
    assert np.abs(broken - teacher_forced(tiny, xs, tokens)).max() > 1e-2


@pytest.mark.parametrize("counted", ["from the padded end", "from the prompt's end alone"])
def test_planted_bug_in_the_windows_positions_is_noticed(
    windowed, monkeypatch: pytest.MonkeyPatch, counted: str
):
    shared = contexts.PromptCache.shared

    def misplaced(self, sight, after):
        if counted == "from the padded end":
            after = after + self.layers[0][0].shape[2] - self.length.min()
        else:
            after = jnp.zeros_like(after)
        return shared(self, sight, after)

    monkeypatch.setattr(contexts.PromptCache, "shared", misplaced)
    xs, tokens = make_prompts(), continuations()
    broken = jax.jit(lambda *args: _step_through(*args))(windowed, xs, tokens)
    assert np.abs(broken - teacher_forced(windowed, xs, tokens)).max() > 1e-2


def random_state(tiny) -> DecodeState:
    """A state whose rows all differ."""
    state, _ = jax.eval_shape(lambda: tiny.start(make_prompts(), 6, 4))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state)


REORDER = jax.jit(lambda prior, state, ancestors: prior.reorder(state, ancestors))


@pytest.mark.parametrize(
    "ancestors",
    [
        [[0, 1, 2, 3, 4, 5]] * 3,
        [[0, 0, 0, 0, 0, 0], [5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5]],
        [[0, 3, 2, 3, 2, 5], [0, 1, 1, 1, 4, 0], [1, 1, 3, 3, 5, 5]],
    ],
    ids=["identity", "one ancestor", "several"],
)
def test_reordering_equals_a_gather(tiny, ancestors: list[list[int]]):
    state, chosen = random_state(tiny), jnp.asarray(ancestors, jnp.int32)
    reordered = REORDER(tiny, state, chosen)
    rows = (np.asarray(ancestors) + 6 * np.arange(3)[:, None]).reshape(-1)
    for before, after in zip(
        jax.tree.leaves(state.layers), jax.tree.leaves(reordered.layers), strict=True
    ):
        np.testing.assert_array_equal(after, np.asarray(before)[rows])
    assert jax.tree.structure(state) == jax.tree.structure(reordered)


def test_reordered_particles_continue_their_ancestors(tiny):
    """What a particle says after a reorder is what its ancestor would have said."""
    xs, tokens = make_prompts(), continuations(particles=3, length=2)
    ancestors = jnp.asarray([[0, 0, 2], [1, 1, 1], [0, 1, 0]], jnp.int32)

    @jax.jit
    def run(prior):
        state, _ = prior.start(xs, 3, 2)
        state, _ = prior.advance(state, tokens[:, :, 0])
        state = prior.reorder(state, ancestors)
        return prior.advance(state, tokens[:, :, 1])[1]

    first = jnp.take_along_axis(tokens[:, :, 0], ancestors, axis=1)
    lines = jnp.stack([first, tokens[:, :, 1], tokens[:, :, 1]], axis=2)
    expected = teacher_forced(tiny, xs, lines)[:, :, 2]
    np.testing.assert_allclose(run(tiny), expected, **TOLERANCE)


def test_the_prompt_cache_has_no_particle_axis_and_moves_are_in_place(tiny):
    xs = make_prompts()
    few, many = (jax.eval_shape(lambda n=n: tiny.start(xs, n, 4)[0]) for n in (1, 64))
    assert few.prompt == many.prompt

    state = jax.eval_shape(lambda: tiny.start(xs, 64, 256)[0])
    ancestors = jax.ShapeDtypeStruct((3, 64), jnp.int32)
    reorder = jax.jit(tiny.reorder, donate_argnums=0).lower(state, ancestors).compile()
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.layers))
    assert reorder.memory_analysis().temp_size_in_bytes < cache / 16


def test_advance_writes_the_cache_in_place_in_a_loop(tiny):
    xs = make_prompts()
    state, logits = jax.eval_shape(lambda: tiny.start(xs, 64, 256))

    def loop(state, logits):
        def body(carry):
            state, logits = carry
            return tiny.advance(state, logits.argmax(-1).astype(jnp.int32))

        return jax.lax.while_loop(lambda carry: carry[0].step < 256, body, (state, logits))

    compiled = jax.jit(loop, donate_argnums=(0, 1)).lower(state, logits).compile()
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.layers))
    assert compiled.memory_analysis().temp_size_in_bytes < cache / 2
