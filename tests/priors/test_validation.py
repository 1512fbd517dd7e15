"""A guide, proposal or twist of too short a context is refused wherever one is taken."""

import jax
import optax
import pytest
from samplers.language import IN_JAX, LANGUAGE, guide

import bayesft as bft
from bayesft.errors import DiagnosticError, GuideError, SamplerError
from bayesft.priors.trainable import ParametricGuide


class Short(ParametricGuide):
    max_length = 4  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]


SHORT = Short(guide().params, LANGUAGE)
TARGET = bft.Target(LANGUAGE, IN_JAX, prompts=["", "ab"], max_new_tokens=3)
KEY = jax.random.key(0)


def fit(guide, proposal=None):
    return bft.fit(
        TARGET,
        guide,
        objective=bft.objectives.reverse_kl,
        estimator=bft.estimators.score_function(),
        optimizer=optax.sgd(0.1),
        num_steps=1,
        key=KEY,
        proposal=proposal,
    )


CASES = {
    "fit's guide": (lambda: fit(SHORT), GuideError, "guide"),
    "fit's proposal": (lambda: fit(guide(), lambda _: SHORT), GuideError, "proposal"),
    "certify's guide": (lambda: bft.certify(TARGET, SHORT, KEY), GuideError, "guide"),
    "certify's proposal": (
        lambda: bft.certify(TARGET, guide(), KEY, proposal=SHORT),
        GuideError,
        "proposal",
    ),
    "collapse's guide": (
        lambda: bft.diagnostics.collapse(TARGET, KEY, guides={"mine": SHORT}),
        DiagnosticError,
        "guide 'mine'",
    ),
    "a sampler's proposal": (
        lambda: bft.sample(TARGET, bft.samplers.importance(2, proposal=SHORT), KEY),
        SamplerError,
        "proposal",
    ),
    "a sampler's twist": (
        lambda: bft.sample(TARGET, bft.samplers.twisted(bft.twists.model(SHORT), 2), KEY),
        SamplerError,
        "twist",
    ),
    "a twist to be fitted": (
        lambda: bft.twists.fit(
            TARGET,
            bft.twists.model(SHORT),
            objective=bft.twists.fudge(),
            optimizer=optax.sgd(0.1),
            num_steps=1,
            key=KEY,
        ),
        SamplerError,
        "twist",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_too_short_a_context_is_refused(case):
    run, error, what = CASES[case]
    with pytest.raises(error, match=f"The {what} has 4 positions; .* need 5"):
        run()
