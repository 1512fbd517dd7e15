"""Callbacks hear of every step that is taken."""

import pytest
from fitting.tiny import fit

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


@pytest.mark.parametrize("given", [None, print, [None]])
def test_what_is_no_list_of_functions_is_refused(given):
    with pytest.raises(TargetError, match=r"callbacks="):
        fit(1, callbacks=given)
