"""Functions that are called again: what each attempt gets, and settings that make none."""

import math
import threading
from typing import Any

import numpy as np
import pytest

from bayesft.base import Rows
from bayesft.errors import EvidenceError, EvidenceWarning
from bayesft.evidence import retry, reward

ROWS = Rows(["", ""], ["ab", "b"], [[0, 1, 2], [1, 2]], {})


def evaluated(fn, **settings):
    with pytest.warns(EvidenceWarning):
        return reward(retry(fn, wait=0.0, **settings), beta=1.0).evaluate(ROWS).tolist()


@pytest.mark.parametrize("timeout", [None, 30.0, math.inf])
def test_an_attempt_does_not_see_what_the_last_did_to_its_lists(timeout):
    calls = []

    def flaky(completion_ids):
        calls.append(0)
        lengths = [float(len(ids)) for ids in completion_ids]
        completion_ids[0].clear()
        completion_ids.pop()
        if len(calls) == 1:
            raise ConnectionError("try again")
        return lengths

    assert evaluated(flaky, timeout=timeout) == [3.0, 2.0]


def test_a_thread_left_behind_shares_no_list():
    first, second, cleared = threading.Event(), threading.Event(), threading.Event()

    def slow(completion_ids):
        if not first.is_set():
            first.set()
            second.wait(30)  # beyond the timeout
            completion_ids[0].clear()
            cleared.set()
        second.set()
        cleared.wait(30)
        return [float(len(ids)) for ids in completion_ids]

    assert evaluated(slow, attempts=2, timeout=0.5) == [3.0, 2.0]


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_generator_that_raises_is_called_again(timeout):
    calls = []

    def lazy(completions):
        calls.append(0)
        for text in completions:
            yield float(len(text))
            if len(calls) == 1:
                raise ConnectionError("try again")

    assert evaluated(lazy, timeout=timeout) == [2.0, 1.0]


def test_many_attempts_without_a_pause():
    calls = []

    def stubborn(completions):
        calls.append(0)
        if len(calls) < 1100:  # 2.0**1100 is no float
            raise ConnectionError("try again")
        return [0.0, 0.0]

    assert evaluated(stubborn, attempts=2000) == [0.0, 0.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"attempts": 0},
        {"attempts": 2.5},
        {"attempts": "3"},
        {"timeout": "60"},
        {"timeout": 0},
        {"timeout": math.nan},
        {"wait": "1"},
        {"wait": -1.0},
        {"wait": math.inf},
        {"wait": None},
    ],
)
def test_settings_that_leave_no_attempt_are_refused_when_made(settings):
    (name,) = settings
    with pytest.raises(EvidenceError, match=rf"{name}={settings[name]!r}.* never calls score"):
        retry(score, **settings)


def test_settings_may_be_numbers_of_any_kind():
    numpy: dict[str, Any] = {"attempts": np.int64(2), "timeout": np.float32(1), "wait": 0}
    assert retry(score, **numpy)([""]) == [0.0]


def score(completions):
    return [0.0 for _ in completions]
