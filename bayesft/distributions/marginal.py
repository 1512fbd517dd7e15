"""The density of some choices of a program, the others integrated out by importance sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from bayesft.base import PyTree
from bayesft.distributions.slots import log_mean_weight, require_slots
from bayesft.errors import ChoiceError
from bayesft.program import ModelDistribution, StochasticDensity, draw, estimate_log_prob

type Trace = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Joint(StochasticDensity):
    """A model whose log-prob may itself be an estimate: some choice in it is a marginal."""

    model: ModelDistribution

    def propose(self) -> tuple[Trace, Float[Array, ""]]:
        return self.model.propose()

    def assess(self, value: Trace) -> Float[Array, ""]:
        return self.model.assess(value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marginal(StochasticDensity):
    """q(kept) = Σ_u p(kept, u) with K importance samples of u."""

    model: ModelDistribution
    keep: str | tuple[str, ...] = dataclasses.field(metadata={"static": True})
    proposal: Callable[[Any], Any] = dataclasses.field(metadata={"static": True})
    num_samples: int = dataclasses.field(metadata={"static": True})

    def propose(self) -> tuple[PyTree, Float[Array, ""]]:
        trace, log_joint = draw("joint", _Joint(self.model), with_log_prob=True)
        kept, sampled = self._split(trace)
        # The auxiliaries that the kept values were drawn with hold a slot: a fresh sample in
        # their place would make the estimate too small on average.
        first = log_joint - estimate_log_prob("reverse", self._reverse(kept), sampled)
        return kept, log_mean_weight(first, lambda: self._log_weight(kept), self.num_samples)

    def assess(self, value: PyTree) -> Float[Array, ""]:
        return log_mean_weight(None, lambda: self._log_weight(value), self.num_samples)

    def _log_weight(self, kept: PyTree) -> Float[Array, ""]:
        """log p(kept, u) − log r(u | kept) of one u ~ r."""
        sampled, log_reverse = draw("reverse", self._reverse(kept), with_log_prob=True)
        named = {self.keep: kept} if isinstance(self.keep, str) else kept
        return estimate_log_prob("joint", _Joint(self.model), {**named, **sampled}) - log_reverse

    def _reverse(self, kept: PyTree) -> Any:
        proposal = self.proposal(kept)
        return _Joint(proposal) if isinstance(proposal, ModelDistribution) else proposal

    def _split(self, trace: Trace) -> tuple[PyTree, Trace]:
        names = (self.keep,) if isinstance(self.keep, str) else self.keep
        if missing := sorted(set(names) - set(trace)):
            raise ChoiceError(
                f"marginal keeps {missing}, which are no choices of the model.",
                cause=f"its choices are {sorted(trace)}.",
                remedy="name choices of the model, or whole plates and scans, in keep=.",
            )
        kept = {name: trace[name] for name in names}
        rest = {name: value for name, value in trace.items() if name not in kept}
        return kept[self.keep] if isinstance(self.keep, str) else kept, rest


def marginal(
    model: ModelDistribution,
    keep: str | Sequence[str],
    proposal: Callable[[Any], Any],
    num_samples: int = 1,
) -> Marginal:
    """The distribution of the choices `keep` of a model, with the others u integrated out:

        q̂ = (1/K) Σ_k p(kept, u_k) / r(u_k | kept),   u_k ~ r(· | kept),

    where `proposal(kept)` is r: a `bft.model` with the model's other choices, or a stochastic
    density over them; with an `smc` for a choice of it, q̂ is an estimate by SMC. A value that is
    drawn keeps its own u as u_1. More samples are tighter, and
    q̂ is exact where r is the model's conditional. `keep="z"` is the distribution of the value of
    one choice, a tuple of names that of a trace. Any estimators; of several paths only where K = 1
    and the value is drawn, since the samples of r leave a plate.

    Raises ChoiceError for names that are no choices of the model and K < 1. (Salimans, Kingma and
    Welling 2015; Sobolev and Vetrov 2019; Lew et al. 2023, "Probabilistic programming with
    stochastic probabilities", for the nesting.)
    """
    names = keep if isinstance(keep, str) else tuple(keep)
    return Marginal(model, names, proposal, require_slots("marginal", num_samples))
