"""Multi-sample bounds: the logarithm of a mean of weights, over lanes with choices inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import MultiSampleEstimator
from bayesft.errors import ChoiceError
from bayesft.program.context import Mode, MultiSample
from bayesft.program.control import merge, opened
from bayesft.program.scope import Outcome, run_scope


def log_mean_exp(
    body: Callable[[Int[Array, ""]], Float[Array, ""]], size: int, *, name: str | None = None
) -> Float[Array, ""]:
    """log (1/K) Σ_k exp(body(k)) for K = `size` independent lanes, each with a log-weight in nats.

    The plate of IWAE (Burda et al. 2016): with log-weights log p(y, x) − log q(y), its negative is
    the cost of a bound on log Z. Every choice is credited with the whole bound. Unlike in a
    `bft.plate`, `vimco` and `doubly_reparameterize` apply inside, since the lanes' weights are
    known. `bft.cost` is refused inside: the log-weight is all that leaves a lane.

    Raises ChoiceError where a lane returns anything else than a scalar.
    """
    scope, name, key, replay, given = opened("log_mean_exp", name)
    traced = scope.frame.trace is not None
    asked: set[str] = set()
    outermost = scope.context.multi_sample is None

    def lane(
        i: Array,
        weight: Array,
        replay: Mapping[str, Any] | None,
        given: Mapping[str, Any] | None,
    ) -> Outcome:
        asked.clear()
        multi_sample = MultiSample(weight if outermost else None, asked)
        context = dataclasses.replace(scope.context, multi_sample=multi_sample)
        lane_key = jax.random.fold_in(key, i)
        return run_scope(lambda: body(i), lane_key, context, replay, traced=traced, given=given)

    def lanes(weights: Float[Array, " K"]) -> Outcome:
        return jax.vmap(lane)(jnp.arange(size), weights, replay, given)

    outcome = lanes(jnp.ones(size))
    if outcome.request is not None:
        merge(scope, name, outcome, {})
    log_weights = outcome.value
    if jnp.shape(log_weights) != (size,):
        raise ChoiceError(
            f"A lane of the {name!r} returned no scalar.",
            cause="a body that returns nothing, several values, or a log-weight per element.",
            remedy="return one log-weight per lane: sum over its elements.",
        )
    if asked and scope.context.mode is not Mode.RECORD:  # the paths' weights are known only now
        outcome = lanes(jax.nn.softmax(jax.lax.stop_gradient(log_weights)))
        log_weights = outcome.value
    credits = {}
    for inner, term in outcome.terms.items():
        credits[inner] = term.credited
        if isinstance(term.estimator, MultiSampleEstimator):
            credit = term.estimator.credit(jax.lax.stop_gradient(log_weights))
            credits[inner] += credit.reshape(-1, *(1,) * (term.credited.ndim - 1))
    merge(scope, name, outcome, credits)
    return jax.nn.logsumexp(log_weights) - jnp.log(size)
