"""What is no argument of a fit is refused before anything is drawn or compiled."""

import jax
import optax
import pytest
from fitting.tiny import LOO, OPTIMIZER, language, target

import bayesft as bft
from bayesft.errors import EstimatorError, GuideError, MeshError, TargetError

PRIOR = language()
GUIDE = bft.trainable(PRIOR)


def never(completion_ids):
    raise AssertionError("asked for evidence")


def fit(**options):
    given = {
        "target": target(never),
        "guide": GUIDE,
        "objective": bft.objectives.reverse_kl,
        "estimator": LOO,
        "optimizer": OPTIMIZER,
        "num_steps": 1,
        "key": jax.random.key(0),
    }
    return bft.fit(**{**given, **options})


@pytest.mark.parametrize(
    ("name", "least", "values"),
    [
        ("num_steps", 1, (0, -1, 2.5, True, "2", None)),
        ("prompts_per_step", 1, (0, 2.5, True)),
        ("steps_per_recording", 1, (0, 2.5, True)),
        ("micro_batch", 1, (0, 2.5, True)),
        ("max_nan_steps", 0, (-1, 0.5, True, None)),
    ],
)
def test_counts_are_whole_numbers(name, least, values):
    for value in values:
        with pytest.raises(TargetError, match=f"{name}=.* is not a count of at least {least}"):
            fit(**{name: value})


@pytest.mark.parametrize(
    ("name", "values", "error", "said"),
    [
        ("target", (None, "x", PRIOR), TargetError, "was given as target"),
        ("guide", (None, PRIOR), GuideError, "is not a guide"),
        ("objective", (None, "kl", bft.objectives.iwae), TargetError, "is no objective"),
        ("estimator", (4, bft.estimators.leave_one_out), TargetError, "is no estimator"),
        ("optimizer", (0.1, optax.adam, PRIOR), TargetError, "is no optimizer"),
        ("key", (None, 0, jax.random.PRNGKey(0)), TargetError, "single typed JAX key"),
        ("proposal", (GUIDE, 0, lambda: GUIDE), GuideError, "no function of a guide"),
        ("proposal", (lambda guide: 1,), GuideError, "makes a int of a guide"),
        ("mesh", ("data", [], False), MeshError, "is no mesh"),
        ("require", ("x", True), EstimatorError, "no claim that can be required"),
    ],
)
def test_what_is_no_argument_is_refused(name, values, error, said):
    for value in values:
        with pytest.raises(error, match=said):
            fit(**{name: value})


def test_data_asks_for_a_guide_too():
    with pytest.raises(GuideError, match="NoneType is not a guide"):
        fit(target=bft.empirical([[0]]), guide=None)
