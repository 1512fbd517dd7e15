"""Callbacks hear of every step that is taken."""

import pytest
from fitting.tiny import fit

import bayesft as bft
from bayesft.errors import TargetError


def test_callbacks_may_come_from_a_generator():
    seen = []
    fit(2, callbacks=(call for call in [lambda info: seen.append(info.step)]))
    assert seen == [0, 1]


def test_a_callback_that_raises_keeps_the_step_from_no_other():
    seen = []

    def raises(info):
        if info.step == 1:
            raise RuntimeError("the service is down")

    with pytest.raises(RuntimeError, match="service is down"):
        fit(4, callbacks=[raises, lambda info: seen.append(info.step)])
    assert seen == [0, 1]


class Fails:
    """A callback that raises at the last of two steps."""

    def __init__(self):
        self.heard: list[object] = []

    def before_fit(self):
        self.heard.append("before")

    def __call__(self, info):
        self.heard.append(info.step)
        if info.last:
            raise RuntimeError("the service is down")


def test_of_a_last_step_that_was_taken_none_hears_again(tmp_path):
    callback = Fails()
    with pytest.raises(RuntimeError, match="service is down"):
        fit(2, callbacks=[callback], checkpoint=bft.io.checkpoint(tmp_path))
    fitted = fit(2, callbacks=[callback], checkpoint=bft.io.checkpoint(tmp_path))
    assert callback.heard == ["before", 0, 1]
    assert [info.step for info in fitted.history] == [0, 1]


@pytest.mark.parametrize("given", [None, print, [None], [lambda: 0]])
def test_what_is_no_list_of_functions_of_a_step_is_refused(given):
    with pytest.raises(TargetError, match=r"callbacks="):
        fit(1, callbacks=given)
