"""Which distributions, values and estimators fit a choice; others are refused by its name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from bayesft.base import Estimator, MultiSampleEstimator, PyTree
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.program.context import Context


def applied(context: Context, name: str, given: Estimator | None) -> Estimator:
    """The estimator of a choice: its own, or the default."""
    estimator = given or context.estimator
    if estimator is None:
        raise EstimatorError(
            f"The choice {name!r} has no estimator.",
            cause="neither draw nor the surrounding expectation or fit names one.",
            remedy="pass one, e.g. bft.draw(name, d, bft.estimators.leave_one_out(8)).",
        )
    _require_claim(context.require, name, estimator)
    if isinstance(estimator, MultiSampleEstimator) and context.multi_sample is None:
        raise EstimatorError(
            f"{type(estimator).__name__} at the choice {name!r} stands outside bft.log_mean_exp.",
            cause="it weighs the lanes of a multi-sample bound against each other.",
            remedy="draw in bft.log_mean_exp(lambda k: log_weight, K), or use leave_one_out or "
            "reparameterize.",
        )
    if estimator.num_samples > 1:
        context.findings.lane_counts.add(estimator.num_samples)
    if len(context.findings.lane_counts) > 1:
        raise EstimatorError(
            f"The choice {name!r} asks for {estimator.num_samples} lanes; the program already has "
            f"one that asks for {min(context.findings.lane_counts - {estimator.num_samples})}.",
            cause="num_samples replicates the whole program, so it has one value.",
            remedy="give all estimators of the program the same num_samples.",
        )
    return estimator


def require_distribution(name: str, distribution: Any) -> None:
    """Refuse what cannot be sampled."""
    if not callable(getattr(distribution, "sample", None)):
        raise ChoiceError(
            f"The choice {name!r} is drawn from a {type(distribution).__name__}, which cannot be "
            "sampled.",
            cause="a guide without its prompt, a function, or an array in place of a distribution.",
            remedy="pass a numpyro distribution, guide(x), or an object with sample(key) and "
            "log_prob(value).",
        )


def require_density(name: str, distribution: Any) -> None:
    """Refuse what has no log-prob, or not that of what it samples."""
    if not callable(getattr(distribution, "log_prob", None)):
        raise ChoiceError(
            f"The choice {name!r} is drawn from a {type(distribution).__name__}, which has no "
            "density.",
            cause="a sampler without log_prob(value), whose score or weight is asked for.",
            remedy="give it a log_prob, reparameterize it, or describe it as a program: "
            "bft.distributions.marginal(bft.model(fn)(...), keep, proposal).",
        )
    inner = innermost(distribution)
    if isinstance(inner, dist.MaskedDistribution):
        raise ChoiceError(
            f"The choice {name!r} is drawn from a masked {type(inner.base_dist).__name__}.",
            cause="numpyro's mask makes log-probs 0: they are not those of what is sampled, so "
            "scores would be lost and sums over the support would not be expectations.",
            remedy="draw it without the mask, and multiply what the cost makes of it by the mask.",
        )


def innermost(distribution: Any) -> Any:
    """What stands under numpyro's to_event and expand, down to a mask if there is one."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def require_shape(name: str, distribution: Any, value: PyTree) -> None:
    """Refuse a given value that a log-prob would be broadcast over, as far as shapes are known."""
    if not isinstance(distribution, dist.Distribution):
        return
    expected = distribution.batch_shape + distribution.event_shape
    if jnp.shape(value) != expected:
        raise ChoiceError(
            f"The choice {name!r} is given a value of shape {jnp.shape(value)}; it has {expected}.",
            cause="several values for one choice, or one for several.",
            remedy="draw as many as there are: in a bft.plate, or from distribution.expand(...).",
        )


def path_weight(context: Context, name: str, estimator: Estimator) -> Array:
    """The share of the weights of the lane that a choice whose path is weighted stands in."""
    lane = context.multi_sample
    assert lane is not None
    lane.asked.add(name)
    if lane.weight is None or len(lane.asked) > 1:
        raise EstimatorError(
            f"{type(estimator).__name__} at the choice {name!r} is not alone in its lane.",
            cause="a second choice, or one in a plate, scan, cond or inner bound; in a chain their "
            "weights would multiply.",
            remedy="draw one vector, or give the other choices reparameterize.",
        )
    return lane.weight


def refuse_after_weighted_path(context: Context, name: str, estimator: Estimator) -> None:
    """Refuse a score behind a choice whose path is weighted."""
    lane = context.multi_sample
    if lane is not None and lane.asked:
        raise EstimatorError(
            f"The choice {name!r} with {type(estimator).__name__} follows {min(lane.asked)!r}, "
            "which is doubly reparameterised.",
            cause="where it depends on that choice, its score would be weighted like a path.",
            remedy="draw it before, use reparameterize for it, or reparameterize for the other.",
        )


def _require_claim(required: str | None, name: str, estimator: Estimator) -> None:
    claim = estimator.claim
    if required is None or claim.kind == "exact" or claim.kind == required:
        return
    raise EstimatorError(
        f"The choice {name!r} has the estimator {type(estimator).__name__}, which is {claim}.",
        cause=f"the expectation requires estimators that are {required}.",
        remedy="use an estimator whose claim is at least that (docs/estimators.md lists them), or "
        "leave out require=.",
    )
