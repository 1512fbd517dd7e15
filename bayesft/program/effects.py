"""The effects of a program: random choices, costs, and numbers that a recording keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from bayesft.base import (
    Estimator,
    MultiPathEstimator,
    MultiSampleEstimator,
    PathwiseEstimator,
    Proposable,
    PyTree,
    ScoreEstimator,
    StatefulEstimator,
    TokenDistribution,
)
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.program import jumps
from bayesft.program.choices import (
    applied,
    path_weight,
    refuse_after_weighted_path,
    require_density,
    require_distribution,
    require_shape,
)
from bayesft.program.context import Mode
from bayesft.program.scope import (
    Branch,
    Frame,
    HostRequest,
    Scope,
    Scored,
    ScoreTerm,
    current,
    require_scope,
)
from bayesft.program.seeded import adopted
from bayesft.program.subprogram import StochasticDensity, SubProgram


def draw(
    name: str,
    distribution: Any,
    estimator: Estimator | None = None,
    *,
    with_log_prob: bool = False,
) -> Any:
    """Make the random choice `name`: a value, or (value, log-prob in nats) with `with_log_prob`.

    `distribution` has `sample(key)` and `log_prob(value)`: any numpyro distribution, a guide at a
    prompt; those of TensorFlow Probability are taken as well. The estimator says how the choice is
    differentiated; without one, the default of the surrounding `expectation` or `fit` applies. A
    `bft.model`, `marginal` or `normalize` runs as a sub-program: its choices are choices of this
    program, with `name/` before their names, and the estimator is their default. Raises ChoiceError
    for a duplicate name or a choice inside raw control flow, EstimatorError where the estimator
    does not apply.
    """
    scope = require_scope(f"The choice {name!r}")
    distribution = adopted(distribution)
    if scope.frame.given is not None:
        value = scope.frame.take(name)
        require_shape(scope.qualified(name), distribution, value)
        log_prob = estimate_log_prob(name, distribution, value, estimator)
    elif isinstance(distribution, SubProgram):
        exact = with_log_prob and not isinstance(distribution, StochasticDensity)
        with _subprogram(scope, name, distribution, estimator, exact=exact):
            value, log_prob = distribution.propose()
    else:
        scored = with_log_prob or scope.frame.trace is not None
        value, log_prob = _choice(scope, name, distribution, estimator, scored)
    if scope.frame.trace is not None:
        scope.frame.trace[name] = Scored(value, jnp.sum(log_prob))
    return (value, jnp.sum(log_prob)) if with_log_prob else value


def estimate_log_prob(
    name: str, distribution: Any, value: PyTree, estimator: Estimator | None = None
) -> Float[Array, ""]:
    """log q(value) in nats; of a stochastic density an estimate q̂ with E[q̂] = q(value).

    The choices that the estimate takes are choices of this program, with `name/` before their
    names, differentiated like those of `draw`: what is estimated is also credited. An objective in
    which log q̂ is a reward has a lower bound, since E[log q̂] ≤ log q. Raises like `draw`.
    """
    scope = require_scope(f"The log-prob {name!r}")
    if isinstance(distribution, SubProgram):
        with _subprogram(scope, name, distribution, estimator):
            return distribution.assess(value)
    full = scope.reserve(name, f"The log-prob {scope.qualified(name)!r}")
    distribution = adopted(distribution)
    require_density(full, distribution)
    return jnp.sum(_log_prob(distribution, value))


@contextlib.contextmanager
def _subprogram(
    scope: Scope,
    name: str,
    distribution: SubProgram,
    estimator: Estimator | None,
    *,
    exact: bool = False,
) -> Iterator[None]:
    """Run a distribution's own program under a prefix, its choices those of the caller."""
    context = scope.context
    full = scope.reserve(name, f"The choice {scope.qualified(name)!r}")
    if isinstance(distribution, StochasticDensity) and not context.allows_estimates:
        raise ChoiceError(
            f"The choice {full!r} has a stochastic density, inside a model whose log-prob is asked "
            "for.",
            cause=f"{type(distribution).__name__} only estimates its density, in a direction that "
            "depends on whether the value was drawn or given.",
            remedy="draw from bft.distributions.marginal(model, keep=...) in place of the model.",
        )
    changes = {
        "estimator": estimator or context.estimator,
        "allows_estimates": context.allows_estimates and not exact,
    }
    with scope.inside(Frame(f"{full}/"), **changes):
        yield


def _choice(
    scope: Scope, name: str, distribution: Any, estimator: Estimator | None, scored: bool
) -> tuple[PyTree, Array]:
    """A choice of this program itself, and its log-prob if it is asked for."""
    key = scope.claim(name, "choice")
    name = scope.qualified(name)
    require_distribution(name, distribution)
    if scope.context.mode is Mode.MODEL:
        if scored:
            require_density(name, distribution)
        value = distribution.sample(key)
        return value, _log_prob(distribution, value) if scored else jnp.zeros(())
    estimator = applied(scope.context, name, estimator)
    if scored or not isinstance(estimator, PathwiseEstimator):
        require_density(name, distribution)
    if name in scope.fixed:
        value = scope.fixed[name]
    elif isinstance(estimator, MultiPathEstimator):
        raise Branch(name, distribution, estimator, key)
    elif isinstance(estimator, PathwiseEstimator):
        value = estimator.sample(name, distribution, key)
        if isinstance(estimator, MultiSampleEstimator):
            value = estimator.weigh(value, path_weight(scope.context, name, estimator))
        if scope.context.mode is Mode.SCOUT and estimator.claim.kind != "biased":
            scope.context.findings.reparameterised = True
            value = jumps.marked(name, value)
    elif isinstance(estimator, ScoreEstimator):
        refuse_after_weighted_path(scope.context, name, estimator)
        return _score_choice(scope, name, distribution, estimator, key)
    else:
        raise EstimatorError(
            f"{type(estimator).__name__} at the choice {name!r} is of no known kind.",
            cause="an estimator that derives from Estimator itself.",
            remedy="derive from PathwiseEstimator, ScoreEstimator or MultiPathEstimator.",
        )
    return value, estimator.log_prob(distribution, value) if scored else jnp.zeros(())


def cost(
    value: Float[Array, "..."] | float,
    *,
    along: str | None = None,
    shares: Mapping[str, Array] | None = None,
) -> None:
    """Add to the program's cost where it stands: later choices are not credited with it.

    `along="y"` lines a [T] cost up with the tokens of the sequence choice "y": a token is credited
    with the costs from its position on (return-to-go); their sum counts where "y" has no score (it
    is enumerated, or scored by a model). `shares={"z": c}` credits the elements of
    the choice "z" with those of c, of the shape of its log-prob, in place of the whole cost: right
    where the rest of the cost does not depend on the element. Other choices are credited as ever.
    """
    scope = require_scope("A cost")
    value = jnp.asarray(value, float)
    if along is None and value.shape != ():
        raise ChoiceError(
            f"A cost of shape {value.shape} is not a scalar.",
            cause="a cost per element, without saying of what.",
            remedy="sum it, or name the sequence choice it lines up with: along='y'.",
        )
    if scope.context.multi_sample is not None:
        raise ChoiceError(
            "A cost stands inside a bft.log_mean_exp.",
            cause="what leaves a lane is its log-weight.",
            remedy="subtract it from the log-weight, or pay it outside.",
        )
    if not scope.context.allows_cost:
        raise ChoiceError(
            "A model with costs is used where a distribution is needed.",
            cause="bft.cost takes away from its log-density, which is then not normalised.",
            remedy="use its log_density, or score the part of it without costs.",
        )
    scope.context.findings.pays = True
    named = {scope.qualified(name): share for name, share in (shares or {}).items()}
    scope.add_cost(value, None if along is None else scope.qualified(along), shares=named)


def stored(compute: Callable[[], PyTree]) -> PyTree:
    """A number that no trainable parameter reaches: computed once per recording, then replayed."""
    scope = current()
    if scope is None:
        return compute()
    scope.guard("A stored value")
    name = scope.reserve(scope.number("stored"), "A stored value")
    value = scope.replay[name] if name in scope.replay else compute()
    if scope.context.mode is Mode.RECORD and scope.context.recording:
        scope.record[name] = jax.lax.stop_gradient(value)
    return value


def host(
    arrays: tuple[Array, Array, Array],
    names: tuple[str, ...],
    evaluate: Callable[..., dict[str, np.ndarray]],
) -> dict[str, Float[Array, ""]]:
    """Evidence in Python for one row (id, tokens [T], length), by name.

    Under a recording the row becomes part of one call for all lanes; outside any program it is
    evaluated at once.
    """
    scope = current()
    if scope is None:
        if any(isinstance(a, Tracer) for a in arrays):
            raise _no_host("inside jit, vmap or grad, outside any program")
        rows = evaluate(*(np.asarray(a)[None] for a in arrays))
        return {name: jnp.asarray(values[0], jnp.float32) for name, values in rows.items()}
    scope.guard("Evidence in Python")
    scope.context.findings.needs_recording = True
    name = scope.reserve(scope.number("host"), "Evidence in Python")
    if scope.context.mode is Mode.SCOUT and scope.context.allows_host:
        return {term: jnp.zeros(()) for term in names}
    if name in scope.replay:
        values = scope.replay[name]
        if scope.context.recording:
            scope.record[name] = values
        return values
    if not scope.context.allows_host:
        raise _no_host("inside bft.scan or bft.cond, or after an enumerated choice")
    if scope.context.mode is not Mode.RECORD:
        raise _no_host("in a program that is not recorded")
    raise HostRequest({name: arrays})


def _no_host(where: str) -> ChoiceError:
    return ChoiceError(
        f"Evidence in Python cannot be evaluated {where}.",
        cause="it is called once for all lanes on the host, which needs a recording.",
        remedy="use bft.fit or bft.program.record, or write the evidence in JAX "
        "(bft.evidence.potential, prefix_potential).",
    )


def _log_prob(distribution: Any, value: PyTree) -> Array:
    """Log-prob, one per token for sequences and one per element of a batch shape elsewhere."""
    if isinstance(distribution, TokenDistribution):
        return distribution.token_log_probs(value)
    return jnp.asarray(distribution.log_prob(value))


def _score_choice(
    scope: Scope, name: str, distribution: Any, estimator: ScoreEstimator, key: Array
) -> tuple[PyTree, Array]:
    scope.context.findings.needs_recording = True
    entry = scope.replay.get(name)
    recording = scope.context.mode is Mode.RECORD
    proposal, own = scope.context.proposal, None
    if isinstance(distribution, Proposable) and not scope.context.in_branch:
        scope.context.findings.proposable = True
    if entry is not None and not recording:
        value, recorded = entry["value"], entry["log_prob"]
        log_prob = _log_prob(distribution, value)
    elif entry is not None:
        value, recorded = entry["value"], entry["log_prob"]
        log_prob = recorded
        if "own_log_prob" in entry:  # it was drawn from something else
            own = entry["own_log_prob"]
            log_prob = own = _log_prob(distribution, value) if own is None else own
            recorded = own if recorded is None else recorded
    elif scope.context.recording and proposal is not None and isinstance(distribution, Proposable):
        proposed = distribution.proposed_by(proposal)
        value, recorded = proposed.sample_and_token_log_probs(key)
        log_prob = own = _log_prob(distribution, value)
    elif recording and isinstance(distribution, TokenDistribution):
        # One pass: no gradient is needed before the replay, so the tokens are not scored again.
        value, log_prob = distribution.sample_and_token_log_probs(key)
        recorded = log_prob
    else:
        value = jax.lax.stop_gradient(distribution.sample(key))
        log_prob = _log_prob(distribution, value)
        recorded = jax.lax.stop_gradient(log_prob)
    if scope.context.recording:
        kept = {"value": value, "log_prob": recorded}
        kept |= {} if own is None else {"own_log_prob": own}
        scope.record[name] = jax.lax.stop_gradient(kept)
    described = None
    if isinstance(estimator, StatefulEstimator):
        described = estimator.describe(name, distribution, value, jax.random.fold_in(key, 1))
    nothing = jnp.zeros(log_prob.shape)
    scope.add_term(name, ScoreTerm(log_prob, recorded, nothing, described, estimator))
    return value, log_prob
