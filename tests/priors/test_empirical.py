"""Given completions, as a prior and as the target of maximum likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Prior
from bayesft.errors import PromptError, TargetError
from bayesft.priors import empirical, markov, ngram, trainable
from bayesft.priors.empirical import Empirical
from bayesft.target import Target
from bayesft.testing import enumerate_target

TEXTS = ["ab", "a", "ab", "bba", ""]
VOCABULARY = ("a", "b", "")

EXAMPLES = [
    (empirical(TEXTS, vocabulary=VOCABULARY), ["", "bb"]),
    (empirical([[0, 1], [1], [0, 0, 0, 1]], vocab_size=3, eos=2), None),
    (
        empirical(
            ["a", "b", "ba", "ab", ""], ["b", "b", "b", "aab", "a" * 9], vocabulary=VOCABULARY
        ),
        ["aab", "b"],
    ),
]


def toy():
    return markov(jnp.zeros(3), jnp.zeros((3, 3)), eos=2, vocabulary=VOCABULARY)


def law(prior, prompt, max_new_tokens=4):
    exact = enumerate_target(Target(prior, prompts=[prompt], max_new_tokens=max_new_tokens))
    return {
        tuple(row): round(float(np.exp(p)), 6)
        for row, p in zip(exact.tokens.tolist(), exact.log_prior, strict=True)
        if p > -np.inf
    }


def test_probabilities_are_frequencies():
    assert law(EXAMPLES[0][0], "") == {
        (0, 1, 2, 2): 0.4,
        (0, 2, 2, 2): 0.2,
        (1, 1, 0, 2): 0.2,
        (2, 2, 2, 2): 0.2,
    }
    assert law(EXAMPLES[0][0], "", 2) == {(0, 1): 0.4, (0, 2): 0.2, (1, 1): 0.2, (2, 2): 0.2}


def test_prompts_match_by_content():
    prior = EXAMPLES[2][0]
    third = round(1 / 3, 6)
    assert law(prior, "b", 2) == {(0, 2): third, (1, 2): third, (1, 0): third}
    assert law(prior, "aab", 2) == {(0, 1): 1.0}
    assert law(prior, "a" * 9, 2) == {(2, 2): 1.0}
    with pytest.raises(PromptError, match="No completion was given for the prompt 'ab'"):
        Target(prior, prompts=["ab"], max_new_tokens=2)


def test_weights_are_trainable():
    guide = trainable(EXAMPLES[0][0])
    assert [leaf.shape for leaf in jax.tree.leaves(guide.params)] == [(5,)]
    moved = guide.with_params(jax.tree.map(lambda a: a.at[1].add(jnp.log(2.0)), guide.params))
    exact = enumerate_target(Target(EXAMPLES[0][0], max_new_tokens=4))
    probs = dict(zip(map(tuple, exact.tokens.tolist()), exact.log_probs_of(moved), strict=True))
    np.testing.assert_allclose(np.exp(probs[(0, 2, 2, 2)]), 2 / 6, atol=1e-6)


def test_only_with_a_vocabulary_is_it_a_prior():
    assert not isinstance(empirical(TEXTS), Prior)
    assert isinstance(empirical(TEXTS), Empirical)
    assert isinstance(EXAMPLES[0][0], Empirical)
    with pytest.raises(TargetError, match="needs a prior"):
        Target(empirical(TEXTS), max_new_tokens=2)


# ---- the target of mle ---------------------------------------------------------------------------


def test_bound_rows_end_with_eos():
    bound = empirical(TEXTS, ["a", "b", "", "", "ab"]).bind(toy())
    assert bound.xs.observed.tokens.tolist() == [
        [0, 1, 2, 2],
        [0, 2, 2, 2],
        [0, 1, 2, 2],
        [1, 1, 0, 2],
        [2, 2, 2, 2],
    ]
    assert bound.xs.observed.weight.tolist() == [1.0] * 5
    assert bound.xs.length.tolist() == [1, 1, 0, 0, 2]
    assert len(bound.prompts) == 5
    assert bound.horizon.max_new_tokens == 4
    assert len(set(bound.xs.id.tolist())) == 5


def test_long_completions_are_cut_without_eos():
    bound = empirical(TEXTS, max_new_tokens=2).bind(toy())
    assert bound.xs.observed.tokens.tolist() == [[0, 1], [0, 2], [0, 1], [1, 1], [2, 2]]
    assert empirical(["a"], max_new_tokens=50).bind(toy()).horizon.max_new_tokens == 2


def test_token_ids_are_taken_as_they_are():
    bound = empirical([[0, 1, 2], [1]], [[0], [1, 1]]).bind(toy())
    assert bound.xs.observed.tokens.tolist() == [[0, 1, 2], [1, 2, 2]]
    with pytest.raises(PromptError, match="Sequence 0 has EOS"):
        empirical([[2, 0]]).bind(toy())


def test_mean_score_is_the_cross_entropy():
    """Bound to a guide, mean −log q over rows is KL(data ‖ q) plus the entropy of the data."""
    prior = empirical(TEXTS, vocabulary=VOCABULARY)
    guide = trainable(ngram(TEXTS, vocabulary=VOCABULARY, smoothing=0.5))
    bound = prior.bind(guide)
    scores = jax.vmap(lambda x: -guide.token_log_probs(x.observed.tokens, x, bound.horizon).sum())(
        bound.xs
    )
    exact = enumerate_target(Target(prior, max_new_tokens=4))
    entropy = -exact.mean(exact.log_probs)
    np.testing.assert_allclose(scores.mean(), exact.forward_kl(guide) + entropy, atol=1e-5)


def test_context_of_the_model_is_respected():
    class Short(type(toy())):
        max_length = 4

    short = Short(toy().initial_logits, toy().transition_logits, (2,), VOCABULARY)
    empirical(["ab"], ["a"]).bind(short)
    with pytest.raises(PromptError, match="need 5 positions; the model has 4"):
        empirical(["ab", "aba"], ["a", "a"]).bind(short)
    empirical(["ab", "aba"], ["a", "a"], max_new_tokens=3).bind(short)


def test_inside_jit_only_the_horizon_is_left():
    bound = empirical(TEXTS).bind(toy())
    assert jax.jit(lambda b: b.horizon.max_new_tokens)(bound) == 4
    assert jax.tree.leaves(bound) == []


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("ab",), {}, "completions is not a list"),
        (([],), {}, "completions is not a list"),
        (([[0], [None]],), {}, r"completions\[1\] is neither a text nor"),
        (([None],), {}, "neither a text nor"),
        (([[0.5, 1]],), {}, "neither a text nor"),
        (([[True]],), {}, "neither a text nor"),
        (([[0, [1]]],), {}, "neither a text nor"),
        ((TEXTS, ["a"]), {}, "5 completions and 1 prompts"),
        ((TEXTS, "aaaaa"), {}, "prompts is not a list"),
        ((TEXTS,), {"max_new_tokens": 0}, "max_new_tokens=0"),
        ((TEXTS,), {"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ((TEXTS,), {"eos": 2}, "do not declare a vocabulary"),
        ((TEXTS,), {"eos": 2, "vocab_size": 3}, "without the vocabulary"),
    ],
)
def test_bad_input_is_refused(arguments, options, said):
    with pytest.raises(TargetError, match=said):
        empirical(*arguments, **options)
