"""NumPyro's sites under bayesft: a guide's become choices, a model's are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions.util import scale_and_mask
from numpyro.primitives import _PYRO_STACK, Messenger

from bayesft.base import Estimator, Key, PyTree
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.estimators import Reparameterize, reparameterize
from bayesft.program import draw
from bayesft.program.choices import innermost
from bayesft.program.logits import differentiable
from bayesft.program.scope import require_scope

type Message = dict[str, Any]
type Rows = dict[str, Array]
"""The rows that each subsampled plate has drawn."""


@dataclasses.dataclass(frozen=True)
class Site:
    """A sample site that has run: its value, and its log-prob [*batch] with scale and mask."""

    name: str
    value: PyTree
    log_prob: Float[Array, "..."]
    frames: tuple[Any, ...]
    observed: bool
    auxiliary: bool
    drawn: bool
    """Whether it is a choice of the program."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.log_prob.shape


def latent_values(sites: list[Site]) -> dict[str, PyTree]:
    """The values of a guide that its model has sites for."""
    return {site.name: site.value for site in sites if not site.observed and not site.auxiliary}


def run_guide(
    guide: Callable[..., Any], params: dict[str, PyTree], args: tuple, kwargs: dict
) -> tuple[list[Site], Rows]:
    """Run a guide whose sites are choices, and whose subsampled plates draw their rows."""
    choices = _Choices("guide", params, {})
    return choices.run(guide, args, kwargs), choices.rows


def run_model(
    model: Callable[..., Any],
    params: dict[str, PyTree],
    args: tuple,
    kwargs: dict,
    values: dict[str, PyTree],
    rows: Rows,
    role: str = "model",
) -> list[Site]:
    """Run a model with values for its latent sites, all of which it must have."""
    choices = _Choices(role, params, rows, values)
    sites = choices.run(handlers.substitute(model, data=values), args, kwargs)
    if extra := sorted(set(values) - {site.name for site in sites if not site.observed}):
        raise ChoiceError(
            f"The guide has the sites {extra}, which the {role} has not.",
            cause="a misspelt name, or a site that only helps to draw the others.",
            remedy='mark helpers by infer={"is_auxiliary": True}.',
        )
    return sites


class _Choices(Messenger):
    """The outermost handler: gives params their values and makes a guide's choices.

    What a model lacks is drawn only where it is no latent site: rows of plates and random keys.
    """

    def __init__(
        self,
        role: str,
        params: dict[str, PyTree],
        rows: Rows,
        values: dict[str, PyTree] | None = None,
    ):
        super().__init__()
        self.role, self.params, self.rows = role, params, dict(rows)
        self.values = values
        self.drawn: dict[str, Array] = {}
        self.control_flow = ""

    def run(self, fn: Callable[..., Any], args: tuple, kwargs: dict) -> list[Site]:
        with self, handlers.trace() as trace:
            fn(*args, **kwargs)
        return [self._site(site) for site in trace.values() if site["type"] == "sample"]

    def process_message(self, msg: Message) -> None:
        kind = msg["type"]
        if kind == "control_flow":
            self.control_flow = msg["fn"].__name__.removesuffix("_wrapper")
        elif kind == "mutable":
            raise ChoiceError(
                f"The {self.role} has the numpyro mutable site {msg['name']!r}.",
                cause="a state that changes with every run.",
                remedy="use numpyro.param, or layers without a state.",
            )
        elif msg["value"] is not None:
            return
        elif kind == "sample":
            self._choose(msg)
        elif kind == "param":
            msg["value"] = self._param(msg["name"])
        elif kind == "plate":
            msg["value"] = self._rows(msg["name"], *msg["args"])
        elif kind == "prng_key":
            self._require_outside("A random key")
            self._require_seen()
            name = require_scope("A random key").number(f"{self.role}/key")
            msg["value"] = draw(name, _Key(), reparameterize())

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "control_flow":
            self.control_flow = ""

    def _choose(self, msg: Message) -> None:
        name, fn = msg["name"], msg["fn"]
        self._require_outside(f"The site {name!r}")
        if self.values is not None:
            raise ChoiceError(
                f"The {self.role} has the latent site {name!r}, and no value for it is given.",
                cause="the guide has no such site, or it is to be summed out "
                '(infer={"enumerate": "parallel"}).',
                remedy="add it to the guide, observe it, or sum it out in the model "
                "(numpyro.distributions.MixtureSameFamily).",
            )
        if shape := msg["kwargs"].get("sample_shape"):
            fn = msg["fn"] = fn.expand(shape + fn.batch_shape)
            msg["kwargs"]["sample_shape"] = ()
        sampled, mask = _unmasked(name, differentiable(fn))
        estimator = _estimator(name, sampled, msg["infer"])
        if isinstance(estimator, Reparameterize) and sampled.has_rsample:
            sampled = _Forward(sampled)
        msg["value"] = draw(name, sampled, estimator)
        # Not with_log_prob: that is the sum, and costs are local.
        self.drawn[name] = scale_and_mask(estimator.log_prob(sampled, msg["value"]), None, mask)

    def _param(self, name: str) -> PyTree:
        if name not in self.params:
            raise ChoiceError(
                f"The {self.role} has the param {name!r}, which is not among {[*self.params]}.",
                cause="parameters of another model and guide.",
                remedy="start from bft.interop.numpyro.parameters(key, model, guide, *args).",
            )
        return self.params[name]

    def _rows(self, name: str, size: int, num_rows: int) -> Array:
        self._require_outside(f"A subsampled plate {name!r}")
        if name not in self.rows:
            choice = f"{name}/rows" if self.role == "guide" else f"{self.role}/{name}/rows"
            self.rows[name] = draw(choice, _Subsample(size, num_rows), reparameterize())
        return self.rows[name]

    def _require_outside(self, what: str) -> None:
        if self.control_flow:
            raise ChoiceError(
                f"{what} of the {self.role} is drawn inside numpyro's {self.control_flow}.",
                cause="credit cannot be assigned through it; values that are given pass.",
                remedy="draw a guide's sites before it, as one site in a plate, or write the guide "
                "as a bayesft program with bft.scan and bft.cond.",
            )

    def _require_seen(self) -> None:
        """A hidden site asks for a key and draws by itself, so that its score would be missing."""
        if any(isinstance(handler, handlers.block) for handler in _PYRO_STACK):
            raise ChoiceError(
                f"The {self.role} draws under numpyro.handlers.block.",
                cause="a hidden site is no choice of the program, and its gradient would be lost.",
                remedy="show the site, or mark a helper by infer={'is_auxiliary': True}.",
            )

    def _site(self, site: Message) -> Site:
        name, fn, value = site["name"], differentiable(site["fn"]), site["value"]
        expected = tuple(site["kwargs"].get("sample_shape") or ()) + tuple(fn.shape())
        given = self.values is not None and name in self.values and not site["is_observed"]
        if given and jnp.shape(value) != expected:
            raise ChoiceError(
                f"The site {name!r} has shape {jnp.shape(value)} in the guide and {expected} in "
                f"the {self.role}.",
                cause="another plate, or event dimensions that only one of them has.",
                remedy="give both the same plates and to_event.",
            )
        log_prob = self.drawn[name] if name in self.drawn else fn.log_prob(value)
        return Site(
            name,
            value,
            scale_and_mask(jnp.asarray(log_prob), site["scale"]),
            tuple(site["cond_indep_stack"]),
            site["is_observed"],
            bool(site["infer"].get("is_auxiliary")),
            name in self.drawn,
        )


def _estimator(name: str, fn: dist.Distribution, infer: dict[str, Any]) -> Estimator:
    """The site's own estimator, the default of the program, or the pathwise one."""
    estimator = infer.get("estimator")
    if isinstance(estimator, Estimator):
        return estimator
    if estimator is not None or infer.get("enumerate"):
        raise EstimatorError(
            f"The guide's site {name!r} has infer={infer}.",
            cause="an estimator that is not one of bft.estimators, or numpyro's enumeration, which "
            "TraceEnum_ELBO alone does.",
            remedy='use infer={"estimator": bft.estimators.enumerate()}.',
        )
    default = require_scope(f"The choice {name!r}").context.estimator
    if isinstance(innermost(fn), dist.Delta) or (default is None and fn.has_rsample):
        return reparameterize()  # a Delta is a function of what was drawn: it has no score
    if default is None:
        raise EstimatorError(
            f"The guide's site {name!r} ({type(fn).__name__}) has no estimator.",
            cause="it has no reparameterised sample, through which its gradient would be 0.",
            remedy='pass infer={"estimator": bft.estimators.leave_one_out(8)} to numpyro.sample, '
            "enumerate() where the support is small, or a default to the expectation or loss.",
        )
    return default


def _unmasked(name: str, fn: dist.Distribution) -> tuple[dist.Distribution, Array | bool | None]:
    """What is sampled: the distribution without its mask, and the mask.

    A masked element is sampled all the same, so its score counts where its value is used.
    """
    batch_shape, mask = fn.batch_shape, None
    while isinstance(fn, dist.MaskedDistribution | dist.ExpandedDistribution):
        if isinstance(fn, dist.MaskedDistribution):
            mask = fn._mask if mask is None else mask & fn._mask
        fn = fn.base_dist
    if isinstance(innermost(fn), dist.MaskedDistribution):
        raise ChoiceError(
            f"The guide's site {name!r} has a mask under to_event.",
            cause="its log-prob is then not that of what it samples.",
            remedy="mask the site after to_event, or by numpyro.handlers.mask.",
        )
    return (fn if fn.batch_shape == batch_shape else fn.expand(batch_shape)), mask


class _Forward:
    """A distribution that scores its one sample by what it was transformed from, as NumPyro does:
    a flow may have no inverse."""

    def __init__(self, fn: dist.Distribution):
        self.fn, self.has_rsample = fn, fn.has_rsample
        self.intermediates: list[Any] = []

    def sample(self, key: Key) -> PyTree:
        value, self.intermediates = self.fn.sample_with_intermediates(key)
        return value

    def log_prob(self, value: PyTree) -> Float[Array, "..."]:
        if self.intermediates:
            return self.fn.log_prob(value, self.intermediates)  # pyright: ignore
        return jnp.asarray(self.fn.log_prob(value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Subsample:
    """Some rows of a plate, all subsets as likely; nothing in it is differentiated."""

    size: int = dataclasses.field(metadata={"static": True})
    num_rows: int = dataclasses.field(metadata={"static": True})

    has_rsample = True

    def sample(self, key: Key) -> Array:
        return jax.random.choice(key, self.size, (self.num_rows,), replace=False)

    def log_prob(self, value: Array) -> Float[Array, ""]:
        return jnp.zeros(())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Key:
    """A random key that a model or guide asks for, e.g. for dropout; nothing depends on params."""

    has_rsample = True

    def sample(self, key: Key) -> Key:
        return key

    def log_prob(self, value: Key) -> Float[Array, ""]:
        return jnp.zeros(())
