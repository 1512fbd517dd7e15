"""Protocols that every room speaks, and the arrays that pass between them.

Dimension key: **P** prompts, **N** particles, **K** lanes, **T** new tokens, **S** prompt tokens,
**V** vocabulary. Arguments run (tokens, x): what is scored, then what it is conditioned on.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

type PyTree = Any
type Key = jax.Array
type EosPolicy = Literal["truncate", "condition", "force"]


# ---- what is conditioned on -------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observation:
    """A completion known from data or from a sampler, for objectives that score given values.

    `weight` is its share of the expectation (they sum to the number of rows in a batch) and
    `log_target` the normalised log-probability of the completion under what it was drawn from, in
    nats, or 0 where that is unknown.
    """

    tokens: Int[Array, "*batch T"]
    weight: Float[Array, "*batch"]
    log_target: Float[Array, "*batch"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a sequence is conditioned on, as arrays; `id` finds its text and columns on the host.

    Tokens are padded on the right to a bucketed length S; `length` counts the real ones.
    The id depends on the prompt's content alone, and keys fold it in, so a prompt in a batch draws
    what the same prompt alone would draw.
    """

    tokens: Int[Array, "*batch S"]
    length: Int[Array, "*batch"]
    id: Int[Array, "*batch"]
    observed: Observation | None = None


@dataclasses.dataclass(frozen=True)
class Horizon:
    """When a sequence ends: at EOS, or at `max_new_tokens` as the policy says (static under jit).

    `truncate`: a cut sequence is an outcome of its own. `condition`: only ended sequences count
    (a matter of the target's density; as a distribution it samples as `truncate`). `force`: the
    last position is EOS (`eos[0]`) with probability 1.
    """

    max_new_tokens: int
    eos_policy: EosPolicy = "truncate"

    def constrain(
        self, logits: Float[Array, "*batch V"], t: int | Int[Array, ""], eos: tuple[int, ...]
    ) -> Float[Array, "*batch V"]:
        """Logits of the token at position t under the policy."""
        if self.eos_policy != "force":
            return logits
        only_eos = jnp.where(jnp.arange(logits.shape[-1]) == eos[0], 0.0, -jnp.inf)
        last = t == self.max_new_tokens - 1
        return jnp.where(last, jnp.broadcast_to(only_eos, logits.shape), logits)

    def finish(
        self,
        token_log_probs: Float[Array, "*batch T"],
        tokens: Int[Array, "*batch T"],
        eos: tuple[int, ...],
    ) -> Float[Array, "*batch T"]:
        """Per-token log-probs under the policy: 0 on padding, the forced EOS scored as certain."""
        if tokens.shape[-1] != self.max_new_tokens:
            raise ValueError(f"{tokens.shape[-1]} tokens given, the horizon is {self}")
        position = jnp.arange(self.max_new_tokens)
        live = position < sequence_lengths(tokens, eos)[..., None]
        if self.eos_policy == "force":
            forced = jnp.where(tokens == eos[0], 0.0, -jnp.inf)
            last = jnp.broadcast_to(position == self.max_new_tokens - 1, tokens.shape)
            token_log_probs = jnp.where(last, forced, token_log_probs)
        return jnp.where(live, token_log_probs, 0.0)


def is_eos(tokens: Int[Array, "*shape"], eos: tuple[int, ...]) -> Array:
    """Whether each token ends a sequence, as bool [*shape]."""
    ends = tokens == eos[0]
    for token in eos[1:]:
        ends = ends | (tokens == token)
    return ends


def sequence_lengths(tokens: Int[Array, "*batch T"], eos: tuple[int, ...]) -> Int[Array, "*batch"]:
    """Number of tokens up to and with the first EOS; T where there is none."""
    ends = is_eos(tokens, eos)
    first = jnp.argmax(ends, axis=-1).astype(jnp.int32)
    return jnp.where(ends.any(-1), first + 1, jnp.int32(tokens.shape[-1]))


def pad_after_end(tokens: Int[Array, "*batch T"], eos: tuple[int, ...]) -> Int[Array, "*batch T"]:
    """The same sequences with everything after their end replaced by `eos[0]`."""
    live = jnp.arange(tokens.shape[-1]) < sequence_lengths(tokens, eos)[..., None]
    return jnp.where(live, tokens, jnp.asarray(eos[0], tokens.dtype))


# ---- distributions ----------------------------------------------------------------------------


@runtime_checkable
class Distribution(Protocol):
    """Anything that `draw` accepts, numpyro's distributions among them: normalised, in nats."""

    def sample(self, key: Key) -> PyTree: ...

    def log_prob(self, value: PyTree) -> Array: ...


@runtime_checkable
class TokenDistribution(Distribution, Protocol):
    """A distribution over sequences: its log-prob comes as one number per token, 0 on padding."""

    def token_log_probs(self, value: Int[Array, " T"]) -> Float[Array, " T"]: ...

    def sample_and_token_log_probs(
        self, key: Key
    ) -> tuple[Int[Array, " T"], Float[Array, " T"]]: ...


class Prior(abc.ABC):
    """Normalised distribution over token sequences given a prompt; a pytree whose leaves are arrays.

    Samplers see the batched form below: states and logits lead with [P, N]. `SteppedPrior` (in
    `bayesft.priors`) lifts a prior written for one sequence to it.
    """

    vocab_size: int
    """V."""
    eos: tuple[int, ...]
    """The tokens that end a sequence; the first one is also the padding."""

    @property
    def max_length(self) -> int | None:
        """Longest prompt plus completion in tokens, or None where there is no limit."""
        return None

    @abc.abstractmethod
    def start(
        self, xs: Prompt, num_particles: int, max_new_tokens: int
    ) -> tuple[PyTree, Float[Array, "P N V"]]:
        """State after the prompts and the logits of the first new token."""

    @abc.abstractmethod
    def advance(
        self, state: PyTree, tokens: Int[Array, "P N"]
    ) -> tuple[PyTree, Float[Array, "P N V"]]:
        """State after one more token of each particle and the logits of the next."""

    @abc.abstractmethod
    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        """State in which particle n of prompt p continues what particle ancestors[p, n] was."""

    @abc.abstractmethod
    def token_log_probs(
        self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon
    ) -> Float[Array, " T"]:
        """Teacher-forced log-probs of one completion, 0 on padding; they sum to its log-prob."""

    @abc.abstractmethod
    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt (text, or chat messages where the prior knows a template)."""

    @abc.abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    @abc.abstractmethod
    def trainable(self) -> Guide:
        """A guide that starts as this prior, all of its parameters trainable."""


class Guide(Prior):
    """A prior with trainable parameters: `params` holds the arrays that gradients are taken for."""

    params: PyTree
    """Trainable arrays only."""

    @abc.abstractmethod
    def with_params(self, params: PyTree) -> Guide:
        """The same guide with other parameters."""

    def trainable(self) -> Guide:
        return self


@runtime_checkable
class Enumerable(Protocol):
    """A prior whose sequences can be listed."""

    def enumerate(self, max_new_tokens: int) -> Int[np.ndarray, "M T"]:
        """Every sequence that ends by EOS within T tokens or is cut there, padded with EOS."""
        ...


# ---- evidence ---------------------------------------------------------------------------------


class Evidence(abc.ABC):
    """A log-potential in nats; adds up with `+`, scales with `*`.

    Concrete evidence is one of three kinds, by where it can be evaluated: `Potential` (JAX, whole
    sequences), `PrefixEvidence` (JAX, token by token), `HostEvidence` (Python, on text).
    """

    bounds: tuple[float, float]
    """Smallest and largest value that the log-potential can take; infinite where unknown."""
    terms: tuple[Term, ...]
    """The evidence as a flat sum of scaled leaves."""

    def __add__(self, other: Evidence) -> Evidence:
        return Sum(self.terms + other.terms) if isinstance(other, Evidence) else NotImplemented

    def __mul__(self, scale: float | Array) -> Evidence:
        return Sum(tuple(Term(term.scale * scale, term.evidence) for term in self.terms))

    __rmul__ = __mul__


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """One leaf of a sum of evidence with its scale."""

    scale: float | Array
    evidence: LeafEvidence

    def scaled(self, value: Array) -> Array:
        """scale · value, where a scale of 0 switches even -inf off."""
        return jnp.where(self.scale == 0, 0.0, self.scale * value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Evidence):
    """Sum of scaled evidence; empty, it is no evidence at all."""

    terms: tuple[Term, ...] = ()  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def bounds(self) -> tuple[float, float]:
        low = high = 0.0
        for term in self.terms:
            scale = float(term.scale)
            if scale:
                a, b = sorted(scale * bound for bound in term.evidence.bounds)
                low, high = low + a, high + b
        return low, high


class LeafEvidence(Evidence):
    """Evidence that is not a sum of other evidence."""

    name: str
    """What errors, metrics and recordings call it."""

    @property
    def terms(self) -> tuple[Term, ...]:
        return (Term(1.0, self),)


class Potential(LeafEvidence):
    """Evidence in JAX on a whole sequence."""

    @abc.abstractmethod
    def log_potential(
        self, tokens: Int[Array, " T"], x: Prompt, length: Int[Array, ""]
    ) -> Float[Array, ""]:
        """log φ(y, x) in [-inf, +inf); tokens from `length` on are padding."""


class PrefixEvidence(LeafEvidence):
    """Evidence in JAX that is a sum of increments, one per token, EOS included."""

    @abc.abstractmethod
    def init(self, x: Prompt) -> PyTree:
        """State before the first new token."""

    @abc.abstractmethod
    def step(self, state: PyTree, token: Int[Array, ""]) -> tuple[PyTree, Float[Array, ""]]:
        """State after a token and the increment of the log-potential that it brings."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """What Python evidence sees of R sequences: text, token ids (EOS included), data columns."""

    prompts: list[Any]
    completions: list[str]
    completion_ids: list[list[int]]
    columns: Mapping[str, list[Any]]


class HostEvidence(LeafEvidence):
    """Evidence in Python on text, called once for many rows, outside jit."""

    @abc.abstractmethod
    def evaluate(self, rows: Rows) -> Float[np.ndarray, " R"]:
        """log φ of every row; raises EvidenceError naming the function and the offending row."""


# ---- estimators -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Claim:
    """A stated guarantee; tests hold every member of a room to it.

    `kind` is one of `exact`, `unbiased`, `biased` (estimators and objectives), or `proper weights`,
    `exact draws`, `another law` (samplers); `detail` says the law, or what biases.
    """

    kind: Literal["exact", "unbiased", "biased", "proper weights", "exact draws", "another law"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class Estimator(abc.ABC):
    """How a random choice is differentiated; concrete estimators derive from one of the three kinds
    below. `num_samples` = K replicates the whole program into K lanes, the outermost axis."""

    claim: Claim
    num_samples: int = 1


class PathwiseEstimator(Estimator):
    """Differentiates through the value itself."""

    @abc.abstractmethod
    def sample(self, name: str, distribution: Any, key: Key) -> PyTree:
        """A value through which gradients flow to the distribution's parameters."""


class ScoreEstimator(Estimator):
    """Differentiates the choice's log-probability, weighted by the cost credited to it."""

    @abc.abstractmethod
    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        """What to store with a recording, elementwise on credited cost: the baseline of each lane,
        which must not depend on that lane's own choice."""

    def surrogate(
        self,
        credited: Float[Array, "*shape"],
        log_prob: Float[Array, "*shape"],
        stored: Float[Array, "*shape"],
    ) -> Float[Array, ""]:
        """A scalar of value 0 whose gradient is the choice's part of the gradient estimate."""
        advantage = jax.lax.stop_gradient(credited - stored)
        return jnp.sum(advantage * (log_prob - jax.lax.stop_gradient(log_prob)))


class Continuation(Protocol):
    """The rest of the program as a function of one choice's value."""

    def __call__(self, values: PyTree) -> tuple[Float[Array, " B"], Any]:
        """Costs of B values (stacked on the leading axis), and their score terms likewise."""
        ...


class MultiPathEstimator(Estimator):
    """Replays the rest of the program for several values of the choice."""

    @abc.abstractmethod
    def expand(
        self, name: str, distribution: Any, key: Key
    ) -> tuple[PyTree, Float[Array, " B"]]:
        """B values, stacked on the leading axis, and their differentiable weights: the program's
        cost is Σ_b weight_b · cost_b."""


# ---- samplers ---------------------------------------------------------------------------------


class Sampler(abc.ABC):
    """Turns a target into draws, under a stated claim."""

    claim: Claim

    @abc.abstractmethod
    def run(self, target: Any, key: Key) -> Any:
        """Draws of the target: `run(target, key) -> Draws`."""
