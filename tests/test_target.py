"""Targets: prompts, horizons, densities, and what crosses into jit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.errors import HardConstraintError, PromptError, TargetError
from bayesft.evidence import constraint, potential, prefix_potential, reward
from bayesft.priors import markov
from bayesft.target import Target

VOCABULARY = ("a", "b", "")


def language(cls=None):
    rows = np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    prior = markov(np.log([0.5, 0.3, 0.2]), rows, eos=2, vocabulary=VOCABULARY)
    return prior if cls is None else cls(*vars(prior).values())


def at(target, row=0):
    return jax.tree.map(lambda a: a[row], target.xs)


def length_of(completions):
    return [len(text) for text in completions]


def count_b(tokens, length):
    return 1.0 * ((tokens == 1) & (jnp.arange(tokens.shape[0]) < length)).sum()


# ---- prompts -------------------------------------------------------------------------------------


def test_ids_depend_on_content_alone():
    one = Target(language(), prompts=["a", "ab", "a"], max_new_tokens=2).xs
    two = Target(language(), prompts=["ab", "b" * 20, "a"], max_new_tokens=2).xs
    assert one.id[1] == two.id[0]
    assert one.id[0] == two.id[2]
    assert len({*one.id.tolist()}) == 3  # equal prompts draw independently


def test_lengths_are_bucketed():
    for longest, width in [(0, 0), (1, 1), (2, 2), (3, 4), (8, 8), (9, 16)]:
        xs = Target(language(), prompts=["", "a" * longest], max_new_tokens=2).xs
        assert xs.tokens.shape == (2, width)
        assert xs.length.tolist() == [0, longest]


def test_columns_reach_rewards():
    def matches(prompts, completions, answer):
        assert prompts == ["a", "b"]
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    prompts = [{"prompt": "a", "answer": "b"}, {"prompt": "b", "answer": "b"}]
    target = Target(language(), reward(matches, beta=1.0), prompts=prompts, max_new_tokens=2)
    values = target.evaluate_host(
        np.asarray(target.xs.id), np.array([[1, 2], [0, 1]]), np.array([2, 2])
    )
    assert values["matches"].tolist() == [1.0, 0.0]


def test_selected_prompts_keep_their_ids_and_columns():
    prompts = [{"prompt": p, "answer": p + "!"} for p in ("a", "b", "ab")]
    seen = []
    target = Target(
        language(),
        reward(lambda completions, answer: [seen.extend(answer)] and [0.0] * len(answer), 1.0),
        prompts=prompts,
        max_new_tokens=2,
    )
    some = target.select([2, 0])
    assert some.xs.id.tolist() == [target.xs.id[2], target.xs.id[0]]
    some.evaluate_host(np.asarray(some.xs.id), np.array([[2, 2]] * 2), np.array([1, 1]))
    assert seen == ["ab!", "a!"]
    assert len(some.prompts) == 2
    assert target.select([-1]).xs.id == target.xs.id[2]
    for rows in ([], [3], [0.5], [True, False, True], 0, None):
        with pytest.raises(PromptError, match="rows chosen"):
            target.select(rows)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "empty"),
        ("ab", "single str"),
        (b"ab", "single bytes"),
        (3, "single int"),
        ({"prompt": "a"}, "single dict"),
        ([{"prompt": "a"}, "b"], "Prompt 1 is not a dict"),
        ([{"prompt": "a", "x": 1}, {"prompt": "b"}], "Prompt 1 is not a dict"),
        ([{"text": "a"}], "Prompt 0 is not a dict"),
        ([{"prompt": "a", 3: 1}], "Prompt 0 is not a dict"),
        ([[0.5]], "not a list of token ids"),
        ([[True]], "not a list of token ids"),
        (["abc"], "cannot be written"),
    ],
)
def test_bad_prompts_are_refused(prompts, said):
    with pytest.raises(PromptError, match=said):
        Target(language(), prompts=prompts, max_new_tokens=2)


def test_context_is_respected():
    class Short(type(language())):
        max_length = 5

    Target(language(Short), prompts=["aaa"], max_new_tokens=2)
    with pytest.raises(PromptError, match="need 6 positions; the model has 5"):
        Target(language(Short), prompts=["a", "aaa"], max_new_tokens=3)


# ---- declaration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        *(
            ((language(),), {"max_new_tokens": count}, "max_new_tokens=.* is not a count")
            for count in (0, -1, 2.5, True, "4", None)
        ),
        ((language(),), {"max_new_tokens": 2, "eos": "drop"}, "eos='drop' is no policy"),
        ((language(), count_b), {"max_new_tokens": 2}, "needs a prior and evidence"),
        ((potential(count_b), language()), {"max_new_tokens": 2}, "needs a prior and evidence"),
    ],
)
def test_what_declares_no_distribution_is_refused(arguments, options, said):
    with pytest.raises(TargetError, match=said):
        Target(*arguments, **options)


def test_terms_of_one_name_are_told_apart():
    short = reward(length_of, beta=1.0)
    long = reward(
        lambda completions: [10.0 * len(text) for text in completions], 1.0, None, "length_of"
    )
    taken = reward(lambda completions: [0.0] * len(completions), 1.0, None, "length_of#2")
    target = Target(language(), short + taken + long + 0.5 * short, max_new_tokens=3)
    names = [term.evidence.name for term in target.host_terms]
    assert names == ["length_of", "length_of#2", "length_of#3", "length_of#4"]
    alone = Target(language(), max_new_tokens=3)
    y = jnp.array([0, 1, 2])
    difference = target.log_density(y, at(target)) - alone.log_density(y, at(alone))
    assert math.isclose(float(difference), 2 + 20 + 1, rel_tol=1e-6)


def test_other_evidence_keeps_prompts_and_horizon():
    first = Target(language(), reward(length_of, 1.0), prompts=["a", "b"], max_new_tokens=2)
    other = first.with_evidence(constraint(lambda completions: [True] * len(completions)))
    assert other.prompts is first.prompts and other.horizon == first.horizon
    assert other.hard and not first.hard and len(other.terms) == 1
    assert not first.with_evidence(None).terms
    with pytest.raises(TargetError, match="needs a prior and evidence"):
        first.with_evidence(length_of)


def test_hard_constraints():
    hard = constraint(lambda completions: [True] * len(completions))
    assert Target(language(), hard, max_new_tokens=2).hard
    assert Target(language(), max_new_tokens=2, eos="condition").hard
    assert not Target(language(), 0.0 * hard, max_new_tokens=2).hard
    assert not Target(language(), reward(length_of, 1.0), max_new_tokens=2).hard
    with pytest.raises(HardConstraintError, match="some objective is infinite"):
        Target(language(), hard, max_new_tokens=2).require_finite("some objective")


# ---- densities -----------------------------------------------------------------------------------


def test_log_density_is_prior_plus_evidence():
    evidence = (
        potential(count_b)
        + 2.0 * prefix_potential(lambda state, token: (state, 0.25 * (token == 0)), ())
        + reward(length_of, beta=0.5)
    )
    target = Target(language(), evidence, max_new_tokens=4)
    for row, log_prior, log_evidence in [
        ([0, 1, 2, 2], np.log(0.5 * 0.6 * 0.3), 1 + 0.5 + 4),
        ([1, 1, 0, 0], np.log(0.3 * 0.2 * 0.5 * 0.1), 2 + 1.0 + 8),
        ([2, 2, 2, 2], np.log(0.2), 0.0),
    ]:
        value = target.log_density(jnp.array(row), at(target))
        assert math.isclose(float(value), log_prior + log_evidence, rel_tol=1e-5, abs_tol=1e-5)


@pytest.mark.parametrize("eos", ["truncate", "condition", "force"])
def test_policies(eos):
    target = Target(language(), max_new_tokens=2, eos=eos)
    density = {
        row: float(np.exp(target.log_density(jnp.array(row), at(target))))
        for row in [(2, 2), (0, 2), (0, 1)]
    }
    expected = {
        "truncate": {(2, 2): 0.2, (0, 2): 0.15, (0, 1): 0.3},
        "condition": {(2, 2): 0.2, (0, 2): 0.15, (0, 1): 0.0},
        "force": {(2, 2): 0.2, (0, 2): 0.5, (0, 1): 0.0},
    }[eos]
    for row, value in expected.items():
        assert math.isclose(density[row], value, rel_tol=1e-5)


def test_padding_never_changes_a_number():
    evidence = potential(count_b) + reward(length_of, beta=0.5)
    target = Target(language(), evidence, max_new_tokens=4)
    values = {
        float(target.log_density(jnp.array([0, 2, *rest]), at(target)))
        for rest in [(2, 2), (1, 1), (0, 2)]
    }
    assert len(values) == 1


def test_wrong_length_is_an_error():
    target = Target(language(), max_new_tokens=4)
    with pytest.raises(ValueError, match="3 tokens given"):
        target.log_density(jnp.array([0, 1, 2]), at(target))


# ---- jit ----------------------------------------------------------------------------------------


def test_new_prompts_scales_and_strengths_do_not_retrace():
    traces = []

    @jax.jit
    def use(target, x, tokens):
        traces.append(1)
        return target.log_density(tokens, x)

    tokens = jnp.array([0, 1, 2])
    for scale, prompt in [(1.0, "a" * 5), (0.5, "bb" * 3), (2.0, "ab" * 4)]:
        target = Target(language(), scale * potential(count_b), prompts=[prompt], max_new_tokens=3)
        value = use(target, at(target), tokens)
        np.testing.assert_allclose(value, target.log_density(tokens, at(target)), rtol=1e-5)
    assert len(traces) == 1


def test_text_stays_outside():
    target = Target(language(), prompts=["a"], max_new_tokens=3)
    with pytest.raises(TargetError, match="inside jit"):
        jax.jit(lambda target: target.xs.tokens)(target)
