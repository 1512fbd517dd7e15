"""The loop that learns twists: reproducible, one trace, and clear about what cannot be learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from samplers.language import IN_JAX, NOTHING, replicated
from twists.learning import blank

from bayesft._sample import sample
from bayesft.errors import FitError, SamplerError, TargetError
from bayesft.samplers import rejection, twisted
from bayesft.twists import contrastive, fit, tabular
from bayesft.twists.contrastive import Contrastive
from bayesft.twists.objective import TwistObjective

KEY = jax.random.key(0)
SETTINGS = dict(optimizer=optax.adam(0.1), num_steps=3, num_particles=16, key=KEY)
TRACES = []


@dataclasses.dataclass(frozen=True)
class Counted(TwistObjective):
    """Contrastive learning that counts its traces."""

    def __call__(self, paths, positives):
        TRACES.append(paths.log_twists.shape)
        return contrastive()(paths, positives)


def test_same_key_same_numbers_one_trace_and_the_twist_given_survives():
    target, twist, seen = replicated(IN_JAX, 2), blank(), []
    first = fit(target, twist, objective=Counted(), callbacks=[seen.append], **SETTINGS)
    second = fit(target, twist, objective=Counted(), **SETTINGS)
    assert len(TRACES) == 1
    assert (first.values == second.values).all()
    assert (first.twist.params == second.twist.params).all()
    assert not np.asarray(twist.params).any()
    assert seen == first.history and [info.step for info in seen] == [0, 1, 2]
    assert set(seen[0].metrics) == {"grad_norm", "ess_share", "log_z"}


def test_some_prompts_per_step():
    fitted = fit(
        replicated(IN_JAX, 5), blank(), objective=Counted(), prompts_per_step=2, **SETTINGS
    )
    assert np.isfinite(fitted.values).all()


def test_posterior_draws_may_be_given_or_come_from_a_sampler():
    target = replicated(IN_JAX, 2)
    exact = sample(target, rejection(8, log_bound=4.0), KEY)
    for positives in (exact, lambda twist: twisted(twist, 16)):
        fitted = fit(target, blank(), objective=contrastive(), positives=positives, **SETTINGS)
        assert np.abs(np.asarray(fitted.twist.params)).max() > 0.1


def test_what_cannot_be_learned_is_refused():
    target = replicated(IN_JAX, 1)
    with pytest.raises(SamplerError, match="weight 0"):
        fit(replicated(NOTHING, 1), blank(), objective=contrastive(), **SETTINGS)
    with pytest.raises(SamplerError, match="shape"):
        fit(target, tabular(5, 4), objective=contrastive(), **SETTINGS)
    with pytest.raises(SamplerError, match="not a twist"):
        fit(target, target.prior, objective=contrastive(), **SETTINGS)
    with pytest.raises(TargetError, match="not an objective"):
        fit(target, blank(), objective=contrastive, **SETTINGS)
    with pytest.raises(TargetError, match="num_steps"):
        fit(target, blank(), objective=contrastive(), **{**SETTINGS, "num_steps": 0})
    broken = blank().with_params(jnp.full_like(blank().params, jnp.nan))
    with pytest.raises((FitError, SamplerError), match="NaN"):
        fit(target, broken, objective=contrastive(), **SETTINGS)


@dataclasses.dataclass(frozen=True)
class NotANumber(Contrastive):
    def __call__(self, paths, positives):
        return super().__call__(paths, positives) * jnp.nan


def test_a_loss_of_nan_stops_the_fit():
    with pytest.raises(FitError, match="step 0"):
        fit(replicated(IN_JAX, 2), blank(), objective=NotANumber(), **SETTINGS)
