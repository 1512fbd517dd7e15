"""The target p*(y | x) ∝ π0(y | x)·φ(y, x): declared once, approximated by any sampler or guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import (
    EosPolicy,
    Evidence,
    Horizon,
    HostEvidence,
    Potential,
    PrefixEvidence,
    Prior,
    Prompt,
    Sum,
    Term,
    checked_count,
    is_eos,
    pad_after_end,
    sequence_lengths,
)
from bayesft.base.terms import checked_terms, free_name, known_scale
from bayesft.errors import HardConstraintError, PromptError, TargetError
from bayesft.program import effects
from bayesft.prompts import PromptSet
from bayesft.sharding import shared


@jax.tree_util.register_pytree_node_class
class Target:
    """p*(y | x) = π0(y | x)·φ(y, x) / Z(x) over completions of at most `max_new_tokens` tokens.

    `eos` names what happens at the limit: "truncate" (a cut sequence is an outcome), "condition"
    (only ended sequences count; Z sums φ·π0 over them) or "force" (EOS is forced at the limit).
    As a pytree its leaves are the arrays of prior and evidence; the prompts stay on the host.

    Raises TargetError for a horizon that is no count of at least 1 or an unknown policy,
    PromptError for prompts that are empty, malformed, or too long for the prior's context.
    """

    def __init__(
        self,
        prior: Prior,
        evidence: Evidence | None = None,
        *,
        prompts: Sequence[Any] | None = None,
        max_new_tokens: int,
        eos: EosPolicy = "truncate",
    ):
        if eos not in get_args(EosPolicy.__value__):
            raise TargetError(
                f"eos={eos!r} is no policy for what happens at the limit.",
                cause="a misspelt policy, or a token: the prior knows which tokens end a sequence.",
                remedy='use eos="truncate", "condition" or "force".',
            )
        _require_parts(prior, evidence)
        self.prior = prior
        self.horizon = Horizon(checked_count("max_new_tokens", max_new_tokens, TargetError), eos)
        self._prompts: PromptSet | None = PromptSet(prior, prompts)
        self.evidence = self._declared(evidence)
        if prior.max_length is not None and self.num_positions > prior.max_length:
            raise PromptError(
                f"The longest prompt ({self._prompts.longest} tokens) and max_new_tokens="
                f"{max_new_tokens} need {self.num_positions} positions; the model has "
                f"{prior.max_length}.",
                cause="the context of the model is shorter than prompt plus completion.",
                remedy=f"use max_new_tokens ≤ {prior.max_length - self._prompts.longest}, or "
                "shorter prompts.",
            )

    def _declared(self, evidence: Evidence | None) -> Sum:
        """The terms of evidence, checked and bound to prior, horizon and prompts."""
        terms = () if evidence is None else checked_terms(evidence)
        for term in terms:
            if known_scale(term) != 0:
                term.evidence.require_satisfiable(self.horizon)
        setting = self.prior, self.horizon, self.prompts.longest
        return Sum(tuple(Term(term.scale, term.evidence.bind(*setting)) for term in terms))

    def with_evidence(self, evidence: Evidence | None) -> Target:
        """A target of the same prior, prompts and horizon, with this evidence alone."""
        _require_parts(self.prior, evidence)
        target = self.tree_unflatten(self.horizon, (self.prior, Sum()))
        target._prompts = self.prompts
        target.evidence = target._declared(evidence)
        return target

    def placed(self, place: Callable[[Any], Any]) -> Target:
        """The same target with its arrays put elsewhere, its prompts on the host as they are."""
        target = self.tree_unflatten(self.horizon, place((self.prior, self.evidence)))
        target._prompts = self.prompts
        return target

    def select(self, rows: Sequence[int]) -> Target:
        """The same target for some of its prompts; their draws stay the same, by id."""
        target = self.tree_unflatten(self.horizon, (self.prior, self.evidence))
        target._prompts = self.prompts.select(rows)
        return target

    def tree_flatten(self):
        return (self.prior, self.evidence), self.horizon

    @classmethod
    def tree_unflatten(cls, horizon: Horizon, children):
        target = object.__new__(cls)
        target.prior, target.evidence = children
        target.horizon, target._prompts = horizon, None
        return target

    @property
    def prompts(self) -> PromptSet:
        """The prompts, on the host."""
        if self._prompts is None:
            raise TargetError(
                "The prompts of a target were asked for inside jit.",
                cause="text never enters jit; there a target has only its arrays.",
                remedy="read target.prompts and target.xs outside, and pass x along.",
            )
        return self._prompts

    @property
    def xs(self) -> Prompt:
        """The prompts' arrays, leading with [P]."""
        return self.prompts.xs

    @property
    def num_positions(self) -> int:
        """Positions of a model's context that the longest prompt and completion take."""
        return self.prompts.longest + self.horizon.max_new_tokens

    @property
    def hard(self) -> bool:
        """Whether the target declares sequences impossible that its prior can produce."""
        hard = any(t.evidence.hard and known_scale(t) != 0 for t in self.terms)
        return hard or self.horizon.eos_policy == "condition"

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.evidence.terms

    @property
    def named_terms(self) -> dict[str, Term]:
        """The terms under names of their own, "count" and "count#2", as metrics call them."""
        named: dict[str, Term] = {}
        for term in self.terms:
            named[free_name(term.evidence.name, named)] = term
        return named

    @property
    def host_terms(self) -> tuple[Term, ...]:
        """The terms that only Python can evaluate."""
        return tuple(t for t in self.terms if isinstance(t.evidence, HostEvidence))

    def require_finite(self, objective: str) -> None:
        """Raise HardConstraintError where the objective would be infinite under this target."""
        if self.hard:
            raise HardConstraintError(
                f"{objective} is infinite for this target: the guide can produce sequences of "
                "density 0.",
                cause='a hard constraint (log_penalty=-inf) or eos="condition".',
                remedy="declare another target with a finite log_penalty, mask the violations by "
                "prefix evidence in the guide, or minimise forward_kl.",
            )

    def log_prior(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, ""]:
        """log π0(y | x) in nats; -inf for a sequence that `eos` rules out."""
        value = self.prior.token_log_probs(tokens, x, self.horizon).sum()
        if self.horizon.eos_policy != "condition":
            return value
        return jnp.where(is_eos(tokens, self.prior.eos).any(), value, -jnp.inf)

    def log_device_evidence(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, ""]:
        """The part of log φ(y, x) that JAX evaluates, in nats."""
        return self._scaled(self.log_device_potentials(tokens, x))

    def log_device_potentials(
        self, tokens: Int[Array, " T"], x: Prompt
    ) -> dict[str, Float[Array, ""]]:
        """Unscaled log φ in nats of every term that JAX evaluates, by name."""
        length = sequence_lengths(tokens, self.prior.eos)
        ended = is_eos(tokens, self.prior.eos).any()
        values = {}
        for name, term in self.named_terms.items():
            match term.evidence:
                case Potential() as evidence:
                    values[name] = evidence.log_potential(tokens, x, length)
                case PrefixEvidence() as evidence:
                    values[name] = prefix_sum(evidence, tokens, x, length, ended)
                case _:
                    pass
        return values

    def _scaled(self, potentials: Mapping[str, Array]) -> Float[Array, ""]:
        """Σ scale·log φ over the terms that are there."""
        total = jnp.zeros(())
        for name, term in self.named_terms.items():
            if name in potentials:
                total += term.scaled(potentials[name])
        return total

    def log_density(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, ""]:
        """log π0(y | x) + log φ(y, x), unnormalised, in nats.

        Inside a program, evidence in Python is evaluated for all lanes at once on the host, and the
        rest, which no guide's gradient reaches, is computed once per recording.
        """
        tokens = pad_after_end(tokens, self.prior.eos)
        known = effects.stored(
            lambda: {
                "tokens": tokens,  # whose numbers these are
                "log_prior": self.log_prior(tokens, x),
                "log_potentials": self.log_device_potentials(tokens, x),
            }
        )
        total = known["log_prior"] + self._scaled(known["log_potentials"])
        return self._with_host_evidence(total, tokens, x)

    def log_evidence(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, ""]:
        """log φ(y, x) alone, in nats; inside a program like `log_density`."""
        tokens = pad_after_end(tokens, self.prior.eos)
        total = effects.stored(lambda: self.log_device_evidence(tokens, x))
        return self._with_host_evidence(total, tokens, x)

    def _with_host_evidence(self, total: Array, tokens: Array, x: Prompt) -> Float[Array, ""]:
        if not self.host_terms:
            return total
        lengths = sequence_lengths(tokens, self.prior.eos)
        names = tuple(term.evidence.name for term in self.host_terms)
        values = effects.host((x.id, tokens, lengths), names, self.evaluate_host)
        for term in self.host_terms:
            total += term.scaled(values[term.evidence.name])
        return total

    def evaluate_host(
        self,
        ids: Int[np.ndarray, " R"],
        tokens: Int[np.ndarray, "R T"],
        lengths: Int[np.ndarray, " R"],
    ) -> dict[str, Float[np.ndarray, " R"]]:
        """Unscaled log φ of every Python term by name, each called once for all rows.

        Of several processes, each calls it for its share of the rows.
        """
        terms = [t.evidence for t in self.host_terms if isinstance(t.evidence, HostEvidence)]

        def evaluate(some: slice) -> dict[str, Float[np.ndarray, " R"]]:
            rows = self.prompts.rows(self.prior, ids[some], tokens[some], lengths[some])
            return {term.name: np.asarray(term.evaluate(rows), np.float32) for term in terms}

        return shared(evaluate, [term.name for term in terms], len(ids))


def prefix_sum(
    evidence: PrefixEvidence,
    tokens: Int[Array, " T"],
    x: Prompt,
    length: Int[Array, ""],
    ended: Bool[Array, ""],
) -> Float[Array, ""]:
    """Sum of a prefix evidence's increments over the first `length` tokens, and over the cut."""

    def step(state, token):
        return evidence.step(state, token)

    last, increments = jax.lax.scan(step, evidence.init(x), tokens)
    total = jnp.where(jnp.arange(tokens.shape[-1]) < length, increments, 0.0).sum()
    # Where the sequence did not end, no step was on padding, and `last` is its own state.
    return total + jnp.where(ended, 0.0, evidence.cut(last))


def _require_parts(prior: Any, evidence: Any) -> None:
    if not isinstance(prior, Prior) or not isinstance(evidence, Evidence | None):
        raise TargetError(
            f"A target needs a prior and evidence, not {type(prior).__name__} and "
            f"{type(evidence).__name__}.",
            cause="a bare function was passed as evidence, or the arguments are swapped.",
            remedy="wrap functions: bft.evidence.reward(fn, beta=…), constraint, potential.",
        )
