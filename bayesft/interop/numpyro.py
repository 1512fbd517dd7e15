"""NumPyro: a model and a guide as a program, and bayesft's objectives as losses of its SVI."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.elbo import ELBO
from numpyro.infer.util import transform_fn

from bayesft.base import Estimator, Key, PyTree
from bayesft.errors import ChoiceError
from bayesft.interop.plates import pay
from bayesft.interop.sites import Rows, latent_values, run_guide, run_model
from bayesft.program import SubProgram, expectation
from bayesft.program.context import Requirement

type Params = dict[str, PyTree]
type Objective = Callable[[Any, Any, Any], Float[Array, ""]]


def program(
    model: Callable[..., Any], guide: Callable[..., Any], objective: Objective | None = None
) -> Callable[..., Float[Array, ""]]:
    """The program `(params, *args, **kwargs) -> cost` of a NumPyro model and guide.

    Without an objective its expectation is the negative evidence lower bound in nats,

        E_q[log q(z) − log p(z, data)],

    and with one, any of `bft.objectives` that has an estimator, that objective of q = guide and of
    log p(·, data). `params` holds the values of every `numpyro.param` of both, in their constrained
    space, as `numpyro.infer.SVI` calls a loss with them; `parameters` gives first ones.

    A guide's site is differentiated by the estimator in its `infer={"estimator": ...}`, else by the
    default of the surrounding expectation, else by `reparameterize` where it has such a sample.
    Sites in a plate are independent given what is outside, by declaration: an element is credited
    with the costs of its own place in the plate, unless the guide goes on to draw outside of it.
    Scales, masks, factors and subsampled plates count as they do in NumPyro; the score of a choice
    is that of what was sampled, without scale and mask. NumPyro's scan and cond are kept where
    every site inside is observed or has a value from the guide.

    Raises EstimatorError for a site without an estimator, ChoiceError for draws inside NumPyro's
    scan and cond, for a latent site that only one of model and guide has, for shapes that differ
    between them, for missing params, and for subsampled plates under an objective.
    """

    def negative_elbo(params: Params, *args: Any, **kwargs: Any) -> Float[Array, ""]:
        guide_sites, rows = run_guide(guide, params, args, kwargs)
        model_sites = run_model(model, params, args, kwargs, latent_values(guide_sites), rows)
        pay(guide_sites, model_sites)
        return jnp.zeros(())

    def any_objective(params: Params, *args: Any, **kwargs: Any) -> Float[Array, ""]:
        def q(x: Any) -> _Guide:
            return _Guide(guide, params, *x)

        return objective(q, _Density(model, params), (args, kwargs))  # pyright: ignore

    return negative_elbo if objective is None else any_objective


class Loss(ELBO):
    """A bayesft objective as SVI evaluates and differentiates it; see `loss`."""

    can_infer_discrete = True

    def __init__(
        self,
        objective: Objective | None,
        estimator: Estimator | None,
        require: Requirement | None,
    ):
        super().__init__()
        self.objective, self.estimator = objective, estimator
        self.require: Requirement | None = require

    def loss(self, rng_key, param_map, model, guide, *args, **kwargs):
        run = program(model, guide, self.objective)
        expected = expectation(
            lambda params: run(params, *args, **kwargs),
            estimator=self.estimator,
            require=self.require,
        )
        return expected.estimate(rng_key, param_map)

    def loss_with_mutable_state(self, rng_key, param_map, model, guide, *args, **kwargs):
        raise ChoiceError(
            "A model or guide with mutable sites has no bayesft loss.",
            cause="a state that changes with every run, such as that of batch normalisation.",
            remedy="use numpyro.param, or layers without a state.",
        )


def loss(
    objective: Objective | None = None,
    *,
    estimator: Estimator | None = None,
    require: Requirement | None = None,
) -> Loss:
    """An objective as the `loss` of `numpyro.infer.SVI`; the negative ELBO where none is given.

    SVI differentiates one `estimate` of `program(model, guide, objective)`, so its gradient is
    under the claims of the estimators, for discrete guides too. `estimator` is the default of the
    sites without one and `require` the least they must claim. Raises as `program` does, ChoiceError
    for `numpyro.mutable`, and EstimatorError for estimators that keep a state.
    """
    return Loss(objective, estimator, require)


def parameters(
    key: Key, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Params, Callable[[Params], Params]]:
    """First parameters of a model and guide, unconstrained, and the function that constrains them.

    Values are those of the `numpyro.param` sites at these arguments, mapped to the reals by
    `biject_to` of their constraints: what an optimiser should step on.
    """
    model_key, guide_key = jax.random.split(key)
    guide_trace = handlers.trace(handlers.seed(guide, guide_key)).get_trace(*args, **kwargs)
    replayed = handlers.replay(handlers.seed(model, model_key), guide_trace)
    model_trace = handlers.trace(replayed).get_trace(*args, **kwargs)
    transforms, values = {}, {}
    for site in (*model_trace.values(), *guide_trace.values()):
        if site["type"] == "param":
            constraint = site["kwargs"].get("constraint", constraints.real)
            transforms[site["name"]] = biject_to(constraint)
            values[site["name"]] = site["value"]
    unconstrained = transform_fn(transforms, values, invert=True)
    return jax.tree.map(jnp.asarray, unconstrained), functools.partial(transform_fn, transforms)


class _Guide(SubProgram):
    """The guide at its parameters and arguments, as an objective draws from it."""

    def __init__(self, guide: Callable[..., Any], params: Params, args: tuple, kwargs: dict):
        self.guide, self.params, self.args, self.kwargs = guide, params, args, kwargs

    def propose(self) -> tuple[PyTree, Float[Array, ""]]:
        sites, rows = run_guide(self.guide, self.params, self.args, self.kwargs)
        _refuse_rows(rows)
        return latent_values(sites), sum((jnp.sum(s.log_prob) for s in sites), jnp.zeros(()))

    def assess(self, value: PyTree) -> Float[Array, ""]:
        sites = run_model(self.guide, self.params, self.args, self.kwargs, value, {}, "guide")
        return sum((jnp.sum(site.log_prob) for site in sites), jnp.zeros(()))


class _Density:
    """log p(·, data) of the model at its parameters, as an objective scores it."""

    def __init__(self, model: Callable[..., Any], params: Params):
        self.model, self.params = model, params

    def log_density(self, y: PyTree, x: Any) -> Float[Array, ""]:
        args, kwargs = x
        sites = run_model(self.model, self.params, args, kwargs, y, {})
        return sum((jnp.sum(site.log_prob) for site in sites), jnp.zeros(()))


def _refuse_rows(rows: Rows) -> None:
    if rows:
        raise ChoiceError(
            f"The plates {sorted(rows)} are subsampled under an objective.",
            cause="the log-density of some rows, scaled up, is unbiased, and what an objective "
            "makes of it in general is not.",
            remedy="use all rows, or program(model, guide) and loss() without an objective, whose "
            "cost is linear in log-densities.",
        )
