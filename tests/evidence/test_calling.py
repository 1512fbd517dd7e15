"""What Python evidence is given, and which answers it may give."""

import fractions

import ml_dtypes
import numpy as np
import pytest

from bayesft.base import Rows
from bayesft.errors import EvidenceError
from bayesft.evidence import classifier, constraint, reward


def rows():
    prompt = [{"role": "user", "content": "p"}]
    return Rows([prompt, prompt], ["ab", "b"], [[0, 1, 2], [1, 2]], {"answer": [["a"], ["b"]]})


def spoil(**given):
    """Edit every list in place: a prompt and its messages, token ids, columns."""
    given["prompts"][0][0]["content"] = "spoilt"
    for values in given.values():
        for value in values:
            if isinstance(value, list):
                value.clear()
        values.reverse()
    return [0.0, 0.0]


def spoil_named(prompts, completions, completion_ids, answer):
    given = {"prompts": prompts, "completions": completions}
    return spoil(**given, completion_ids=completion_ids, answer=answer)


@pytest.mark.parametrize("fn", [spoil, spoil_named])
def test_what_a_function_does_to_its_lists_no_other_sees(fn):
    given = rows()
    reward(fn, beta=1.0).evaluate(given)
    assert given == rows()


def test_rows_of_one_prompt_do_not_share_it():
    def drop(prompts):
        prompts[0].pop()
        return [float(len(prompt)) for prompt in prompts]

    assert reward(drop, beta=1.0).evaluate(rows()).tolist() == [0.0, 1.0]


def returning(value):
    return lambda completions: value


@pytest.mark.parametrize(
    "value",
    [
        [10**400] * 2,
        [10**5000] * 2,  # more digits than Python writes
        [fractions.Fraction(-(10**400))] * 2,
        np.full(2, 1 + 2j),
        np.full(2, "2020-01-01", "datetime64[s]"),
        np.full(2, 1, "timedelta64[s]"),
        np.full(2, 1, "timedelta64[ns]"),  # float() reads these
        np.zeros(2, [("a", "f4")]),
        np.full(2, b"1.0"),
        [np.ma.masked] * 2,
    ],
)
@pytest.mark.parametrize("member", [reward, constraint])
def test_what_is_no_number_is_refused(value, member):
    with pytest.raises(EvidenceError, match=r"score returned .* not a number .* row 0: 'ab'"):
        member(returning(value), -1.0 if member is constraint else 1.0, name="score").evaluate(
            rows()
        )


@pytest.mark.parametrize(
    "value", [{0.0, 1.0}, frozenset({0.0, 1.0}), np.ma.masked_all(2), b"ab", bytearray(2)]
)
def test_what_is_no_list_is_refused(value):
    with pytest.raises(EvidenceError, match=rf"score returned a {type(value).__name__}, not a li"):
        reward(returning(value), 1.0, name="score").evaluate(rows())


@pytest.mark.parametrize(
    "value",
    [
        [fractions.Fraction(1, 2)] * 2,
        np.full(2, 0.5, ml_dtypes.bfloat16),
        np.full(2, 0.5, object),
        {"a": 0.5, "b": 0.5}.values(),
    ],
)
def test_numbers_of_any_kind_are_taken(value):
    assert reward(returning(value), 1.0).evaluate(rows()).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("error", [ZeroDivisionError, TypeError])
def test_an_exception_in_a_generator_is_chained(error):
    def lazy(completions):
        yield 1.0
        raise error("late")

    with pytest.raises(EvidenceError, match=f"lazy raised {error.__name__} on 2 rows: late") as it:
        reward(lazy, beta=1.0).evaluate(rows())
    assert isinstance(it.value.__cause__, error)


@pytest.mark.parametrize(
    "value", [[10**400] * 2, np.full(2, 1 + 2j), np.full(2, 1, "timedelta64[ns]")]
)
def test_a_classifier_refuses_them_too(value):
    with pytest.raises(EvidenceError, match="holds no probabilities"):
        classifier(returning(value)).evaluate(rows())
