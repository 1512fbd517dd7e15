"""Which prompts a step sees: each once per epoch, whatever step is asked for first."""

import jax
import numpy as np
import pytest

from bayesft.fitting.order import Order


def order(num_prompts, size):
    return Order(num_prompts, size, jax.random.key(0))


@pytest.mark.parametrize("num_prompts, size", [(5, 3), (6, 4), (4, 4), (3, 8), (7, 1)])
def test_a_step_has_its_rows_wherever_a_walk_starts(num_prompts, size):
    walked = order(num_prompts, size)
    rows = [walked.rows(step) for step in range(20)]
    for step in (19, 3, 12, 0):
        np.testing.assert_array_equal(order(num_prompts, size).rows(step), rows[step])
        np.testing.assert_array_equal(walked.rows(step), rows[step])
    drawn = np.concatenate(rows)
    for epoch in range(len(drawn) // num_prompts):
        seen = drawn[epoch * num_prompts :][:num_prompts]
        assert sorted(seen) == list(range(num_prompts))


def test_a_late_step_walks_through_none_before_its_cycle(monkeypatch):
    shuffles = []
    shuffled = Order._shuffled
    monkeypatch.setattr(
        Order, "_shuffled", lambda self, epoch: shuffles.append(epoch) or shuffled(self, epoch)
    )
    order(6, 4).rows(100_000)
    assert shuffles == [66_666, 66_667]
