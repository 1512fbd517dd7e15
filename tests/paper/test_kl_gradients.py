"""The table of KL gradients is what enumeration says, and ours have no error but rounding."""

import dataclasses

import jax
import numpy as np
import pytest
from paper.scripts import committed, experiment

import bayesft as bft
from bayesft.testing import ROUNDING

KL_GRADIENTS = experiment("kl_gradients")
TRUTH = KL_GRADIENTS.gradients()["KL"]


def test_scores_are_gradients_of_log_probs():
    a, b = KL_GRADIENTS.POLICY

    def whole(a, b):
        first, second = KL_GRADIENTS.SEQUENCES.T
        return jax.nn.log_softmax(a)[first] + jax.nn.log_softmax(b)[first, second]

    in_a, in_b = jax.jacobian(whole, argnums=(0, 1))(a, b)
    found = np.concatenate([in_a, np.reshape(in_b, (9, 9))], 1)
    np.testing.assert_allclose(KL_GRADIENTS.scores(a, b).sum(1), found, atol=ROUNDING)


def test_committed_results_are_those_of_the_experiment():
    found, known = KL_GRADIENTS.results(), committed("kl_gradients")
    ours = found.pop("relative_error_of_reverse_kl")
    assert ours.keys() == known.pop("relative_error_of_reverse_kl").keys()
    assert all(error < ROUNDING for error in ours.values())
    assert found["relative_error"].keys() == known["relative_error"].keys()
    for name, error in found.pop("relative_error").items():
        assert error == pytest.approx(known["relative_error"][name], abs=1e-12)
    assert found == {name: pytest.approx(known[name], rel=1e-12) for name in found}


def test_a_planted_bug_is_caught():
    """A baseline that contains the lane's own cost halves the gradient of two lanes."""

    @dataclasses.dataclass(frozen=True)
    class MeanOfAll(bft.estimators.LeaveOneOut):
        def prepare(self, credited):
            return 0 * credited + credited.mean(0, keepdims=True)

    gradient = KL_GRADIENTS.mean_gradient(MeanOfAll(2))
    assert KL_GRADIENTS.relative_error(gradient, TRUTH) == pytest.approx(0.5, abs=1e-5)
