"""Infilling: the posterior is the conditional of the longer language."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_proper_weights
from samplers.language import LANGUAGE, NUM_TOKENS

from bayesft.errors import EvidenceError
from bayesft.evidence import infill
from bayesft.evidence.infill import Infill
from bayesft.priors import markov
from bayesft.samplers import smc
from bayesft.target import Target
from bayesft.testing import enumerate_target

UNIFORM = markov(jnp.zeros(3), jnp.zeros((3, 3)), eos=2)
EXAMPLES = [infill(UNIFORM, [1, 0]), infill(UNIFORM, [1], ends=True, name="to the end")]
TWO_ENDS = markov(
    np.log([0.4, 0.3, 0.2, 0.1]),
    np.log([[0.1, 0.4, 0.3, 0.2], [0.5, 0.2, 0.2, 0.1], [0.25] * 4, [0.25] * 4]),
    eos=(2, 3),
    vocabulary=("a", "b", "", ""),
)


def longer(prior, fill: int, suffix: list[int], ends: bool, prompt: str):
    """Fills and their conditional probabilities, by enumeration of fill and suffix together."""
    size = len(suffix) + ends
    stories = enumerate_target(Target(prior, prompts=[prompt], max_new_tokens=fill + size))
    follows = stories.tokens[:, fill : fill + len(suffix)] == np.array(suffix, int)
    fits = follows.all(1) & ~np.isin(stories.tokens[:, :fill], prior.eos).any(1)
    if ends:
        fits &= np.isin(stories.tokens[:, -1], prior.eos)
    joint: dict[tuple[int, ...], float] = {}
    for row, log_prob in zip(stories.tokens[fits], stories.log_probs[fits], strict=True):
        key = tuple(row[:fill].tolist())
        joint[key] = joint.get(key, 0.0) + math.exp(log_prob)
    return joint


@pytest.mark.parametrize("prior", [LANGUAGE, TWO_ENDS], ids=["one EOS", "two"])
@pytest.mark.parametrize(
    ("suffix", "ends"), [([1], False), ([0, 1], False), ([1, 1, 0], True), ([], True)]
)
def test_posterior_is_the_conditional_of_the_longer_language(prior, suffix, ends):
    joint = longer(prior, 3, suffix, ends, "b")
    found = enumerate_target(
        Target(prior, infill(prior, suffix, ends), prompts=["b"], max_new_tokens=3)
    )
    possible = found.log_probs > -np.inf
    assert {tuple(row) for row in found.tokens[possible].tolist()} == set(joint)
    expected = [joint[tuple(row)] for row in found.tokens[possible].tolist()]
    total = sum(expected)
    np.testing.assert_allclose(np.exp(found.log_probs[possible]), np.array(expected) / total, 1e-5)
    assert math.isclose(found.log_z, math.log(total), abs_tol=1e-5)


def test_a_suffix_put_behind_the_end_is_caught():
    """The planted bug: sequences that ended may be followed."""

    class Unending(Infill):
        def log_potential(self, tokens, x, length):
            return super().log_potential(jnp.where(tokens == 2, 0, tokens), x, length)

    jax.tree_util.register_dataclass(Unending)
    wrong = Unending(LANGUAGE, jnp.array([1]), False, "unending")
    found = enumerate_target(Target(LANGUAGE, wrong, max_new_tokens=3))
    total = sum(longer(LANGUAGE, 3, [1], False, "").values())
    assert abs(math.exp(found.log_z) - total) > 0.05


def test_text_is_encoded_as_a_completion():
    by_text, by_ids = infill(LANGUAGE, "ab"), infill(LANGUAGE, [0, 1])
    assert by_text.suffix.tolist() == by_ids.suffix.tolist() == [0, 1]


@pytest.mark.parametrize("sampler", [smc(8), smc(8, every=1)])
def test_samplers_are_properly_weighted(sampler):
    evidence = infill(LANGUAGE, "ab")
    target = Target(LANGUAGE, evidence, prompts=[""] * 4000, max_new_tokens=NUM_TOKENS)
    assert_proper_weights(target, sampler)


def test_a_prefix_is_valued_by_the_suffix_right_behind_it():
    x = jax.tree.map(lambda a: a[0], Target(LANGUAGE, max_new_tokens=4).xs)
    value = infill(LANGUAGE, "bb").log_potential(jnp.array([0, 2, 2, 2]), x, jnp.int32(1))
    assert math.isclose(float(value), math.log(0.6 * 0.2), abs_tol=1e-6)
    ended = infill(LANGUAGE, "bb").log_potential(jnp.array([0, 2, 2, 2]), x, jnp.int32(2))
    assert ended == -jnp.inf


@pytest.mark.parametrize("eos", ["condition", "force"])
def test_policies_under_which_every_sequence_ends(eos):
    with pytest.raises(EvidenceError, match=f'cannot be satisfied under eos="{eos}"'):
        Target(LANGUAGE, infill(LANGUAGE, "a"), max_new_tokens=2, eos=eos)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [("", "is empty"), ([0, 2], "nothing can follow"), ([0, 7], "outside the vocabulary: .7.")],
)
def test_suffixes_that_cannot_follow(suffix, message):
    with pytest.raises(EvidenceError, match=message):
        infill(LANGUAGE, suffix)


def test_other_vocabularies_are_refused():
    with pytest.raises(EvidenceError, match="has 4 tokens"):
        Target(LANGUAGE, infill(TWO_ENDS, "a"), max_new_tokens=2)
    assert infill(LANGUAGE, "a").hard


def test_on_a_language_model(assets):
    """log φ = log π0(y, suffix) − log π0(y), for text that is encoded as a continuation."""
    from bayesft import lm

    model = lm.load(assets / "stories260K")
    evidence = infill(model, " She was happy.")
    assert model.decode(evidence.suffix.tolist()) == " She was happy."
    fill = jnp.asarray(model.encode_completion(" there was a girl."))
    target = Target(model, evidence, prompts=["Once upon a time"], max_new_tokens=len(fill))
    x = jax.tree.map(lambda a: a[0], target.xs)
    both = jnp.concatenate([fill, evidence.suffix])
    long = Target(model, prompts=["Once upon a time"], max_new_tokens=len(both))
    expected = long.log_prior(both, x) - target.log_prior(fill, x)
    value = target.log_device_evidence(fill, x)
    assert math.isclose(float(value), float(expected), abs_tol=1e-4)
    with pytest.raises(EvidenceError, match="positions"):
        Target(model, evidence, max_new_tokens=510)
