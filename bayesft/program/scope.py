"""Scopes: what a running program has chosen, paid and asked for, and who is credited with what."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Float

from bayesft.base import Key, MultiPathEstimator, PyTree, ScoreEstimator
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.program.context import Context


class Scored(NamedTuple):
    """A choice of a model: its value and its log-prob in nats, an array of the same loops."""

    value: PyTree
    log_prob: Array


@dataclasses.dataclass
class Frame:
    """A part of a scope: the program itself, or a distribution that runs as a sub-program of it.

    `prefix` leads the names of its choices. Where a model runs, `trace` gathers what it chooses,
    and the values of a model that is only scored are `given`.
    """

    prefix: str = ""
    given: Mapping[str, Any] | None = None
    trace: dict[str, Any] | None = None

    def take(self, name: str) -> PyTree:
        """The value that a choice is given."""
        if self.given is None or name not in self.given:
            raise ChoiceError(
                f"The trace lacks {[name]}.",
                cause="it was made by another program, or not all choices were given.",
                remedy="give every choice of the program, and no other.",
            )
        return self.given[name]

    def require_all_taken(self) -> None:
        """Raise ChoiceError for values that are no choice of the model."""
        if extra := sorted(set(self.given or ()) - set(self.trace or ())):
            raise ChoiceError(
                f"The trace has {extra} too many.",
                cause="it was made by another program.",
                remedy="give every choice of the program, and no other.",
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreTerm:
    """One score-type choice: its log-prob, the one recorded, and the cost credited to it, of one
    shape (per token for sequences), and what an estimator that learns is told of it."""

    log_prob: Float[Array, "*shape"]
    recorded: Float[Array, "*shape"]
    credited: Float[Array, "*shape"]
    described: PyTree
    estimator: ScoreEstimator = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcome:
    """What leaves a scope, as a pytree, so that it can leave `vmap`, `scan` and `jit`.

    `request` is None, or the host evidence that stopped the run, nested by scope like `record`.
    `trace` holds a model's choices, nested by plate and scan.
    """

    value: PyTree
    cost: Float[Array, ""]
    terms: dict[str, ScoreTerm]
    record: dict[str, Any]
    request: dict[str, Any] | None
    trace: dict[str, Any]


class HostRequest(Exception):
    """Evidence in Python is needed before the run can go on; never leaves the program room."""

    def __init__(self, arrays: dict[str, Any]):
        self.arrays = arrays


class Branch(Exception):
    """A multi-path choice: the scope is run again for each of its values."""

    def __init__(self, name: str, distribution: Any, estimator: MultiPathEstimator, key: Key):
        self.name, self.distribution = name, distribution
        self.estimator, self.key = estimator, key


_CURRENT: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("scope", default=None)


class Scope:
    """The choices and costs of one body: a program, a lane of a plate, a step of a scan, or a
    branch of a cond."""

    def __init__(
        self,
        key: Key,
        context: Context,
        replay: Mapping[str, Any] | None,
        fixed: Mapping[str, PyTree],
        frame: Frame,
    ):
        self.key, self.context = key, context
        self.replay: Mapping[str, Any] = replay or {}
        self.fixed = fixed
        self.frame = frame
        self.record: dict[str, Any] = {}
        self._costs: list[tuple[int, Array, str | None, Mapping[str, Array]]] = []
        self._terms: list[tuple[int, str, ScoreTerm]] = []
        self._names: dict[str, str] = {}
        self._hashes: dict[int, str] = {}
        self._counts: dict[str, int] = {}
        self._order = 0
        self._trace_state = get_opaque_trace_state(convention="bayesft")

    def guard(self, what: str) -> None:
        """Refuse an effect inside a raw JAX transformation, where its gradient would be wrong."""
        if self._trace_state != get_opaque_trace_state(convention="bayesft"):
            raise ChoiceError(
                f"{what} stands inside a raw JAX transformation.",
                cause="jax.lax.scan, cond, while_loop, switch, map, or jit, vmap, grad, checkpoint "
                "around it inside the program; credit cannot be assigned through those.",
                remedy="use bft.scan, bft.plate or bft.cond inside the program; jit, vmap and grad "
                "are free to use around the whole estimate or value_and_grad call.",
            )

    @contextlib.contextmanager
    def inside(self, frame: Frame, **changes: Any) -> Iterator[Frame]:
        """Run a part of the scope, whose context differs by `changes`."""
        outer = self.frame, self.context
        self.frame, self.context = frame, dataclasses.replace(self.context, **changes)
        try:
            yield frame
        finally:
            self.frame, self.context = outer

    def qualified(self, name: str) -> str:
        """A name with the prefix of the sub-program it stands in."""
        return self.frame.prefix + name

    def claim(self, name: str, kind: str) -> Key:
        """Reserve a name in this scope and give its key."""
        name = self.reserve(name, f"The {kind} {self.qualified(name)!r}")
        code = zlib.crc32(f"{kind}:{name}".encode()) & 0x7FFFFFFF
        if (other := self._hashes.setdefault(code, name)) != name:
            raise ChoiceError(f"{other!r} and {name!r} share a hash.", remedy="rename one of them.")
        return jax.random.fold_in(self.key, code)

    def reserve(self, name: str, what: str) -> str:
        """The qualified name; refused if taken: recordings, traces and credit go by it alone."""
        name = self.qualified(name)
        if (other := self._names.get(name)) is not None:
            raise ChoiceError(
                f"{what} stands twice in one scope."
                if other == what
                else f"{what} has the name of something else in one scope: {other}.",
                cause="a draw in a Python loop under one name, or a choice named like a loop.",
                remedy="give every choice its own name, or use bft.plate, bft.scan or bft.cond.",
            )
        self._names[name] = what
        return name

    def number(self, stem: str) -> str:
        """The next name of the form stem/0, stem/1, …, in the order of the (sub-)program."""
        full = self.qualified(stem)
        count = self._counts[full] = self._counts.get(full, -1) + 1
        return f"{stem}/{count}"

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def add_cost(
        self,
        value: Array,
        along: str | None = None,
        order: int | None = None,
        shares: Mapping[str, Array] | None = None,
    ) -> None:
        self._costs.append((order or self.next_order(), value, along, shares or {}))

    def add_term(self, name: str, term: ScoreTerm, order: int | None = None) -> None:
        self._terms.append((order or self.next_order(), name, term))

    def close(self, value: PyTree, returned: Array | float) -> Outcome:
        """Credit every choice with the costs that come after it.

        A cost along a sequence choice credits each of its tokens with the costs from it on, where
        the choice is differentiated by its score.
        """
        for _, _, along, _ in self._costs:
            what = "" if along is None else self._names.get(along, "nothing")
            if what and not what.startswith(("The choice", "The log-prob")):  # the latter: given
                raise ChoiceError(
                    f"A cost lines up with {along!r}, which is no choice of the same scope.",
                    cause="a misspelt name, or a choice in another plate, scan or cond.",
                    remedy="name a sequence choice of this scope in bft.cost(..., along=...).",
                )
        # In the default precision: float64 where that is enabled.
        total = jnp.asarray(returned, float)
        total += sum((cost.sum() for _, cost, *_ in self._costs), jnp.zeros(()))
        terms = {}
        for order, name, term in self._terms:
            later = jnp.asarray(returned, float)
            along_this = jnp.zeros(term.log_prob.shape)
            for at, cost, along, shares in self._costs:
                if name in shares:
                    along_this += shares[name]
                elif along == name:
                    if cost.shape != term.log_prob.shape:
                        raise ChoiceError(
                            f"A cost of shape {cost.shape} lines up with {name!r}, whose log-probs "
                            f"have shape {term.log_prob.shape}.",
                            cause="along= takes one cost per token of a sequence choice.",
                            remedy="pass a [T] cost.",
                        )
                    along_this += jnp.cumsum(cost[::-1])[::-1]
                elif at > order:
                    later += cost.sum()
            credited = jnp.broadcast_to(later + along_this, term.log_prob.shape) + term.credited
            terms[name] = dataclasses.replace(term, credited=credited)
        return Outcome(value, total, terms, self.record, None, self.frame.trace or {})


def current() -> Scope | None:
    """The innermost open scope."""
    return _CURRENT.get()


def require_scope(what: str) -> Scope:
    """The innermost open scope, for effects that need one; guards against raw transformations."""
    scope = _CURRENT.get()
    if scope is None:
        raise ChoiceError(
            f"{what} stands outside any program.",
            cause="a program was called directly like a function.",
            remedy="wrap it: bft.expectation(fn).estimate(key, ...), bft.model(fn), or bft.fit.",
        )
    scope.guard(what)
    return scope


@contextlib.contextmanager
def _opened(scope: Scope) -> Iterator[None]:
    token = _CURRENT.set(scope)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def run_scope(
    body: Callable[[], PyTree],
    key: Key,
    context: Context,
    replay: Mapping[str, Any] | None = None,
    fixed: Mapping[str, PyTree] | None = None,
    *,
    returns_cost: bool = False,
    traced: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run a body in a scope of its own; with `returns_cost` its value is its last cost.

    A `traced` body is a model's, or one lane or step of it: its choices leave with their log-probs,
    and they are those `given` where any are.
    """
    frame = Frame("", given, {} if traced else None)
    scope = Scope(key, context, replay, fixed or {}, frame)
    value = branch = None
    try:
        with _opened(scope):
            value = body()
    except HostRequest as request:
        return Outcome(None, jnp.zeros(()), {}, scope.record, request.arrays, {})
    except Branch as raised:
        branch = raised
    if branch is not None:  # outside of `except`, so that errors do not mention it
        again = {"returns_cost": returns_cost, "traced": traced, "given": given}
        return _expand(branch, body, key, context, scope.fixed, again)
    frame.require_all_taken()
    if not returns_cost:
        return scope.close(value, 0.0)
    value = 0.0 if value is None else value  # all of its cost was paid by `bft.cost`
    _require_real_number(value)
    return scope.close(None, value)


def over_lanes(lane: Callable[..., Any], *inputs: Any) -> Any:
    """`vmap`; a lane on its own runs without the axis, beside which products are slower."""
    if any(len(leaf) != 1 for leaf in jax.tree.leaves(inputs)):
        return jax.vmap(lane)(*inputs)
    alone = lane(*jax.tree.map(lambda a: a[0], inputs))
    return jax.tree.map(lambda a: jnp.asarray(a)[None], alone)


def _require_real_number(value: Any) -> None:
    shape = jnp.shape(value) if isinstance(value, jax.typing.ArrayLike) else type(value).__name__
    if shape != () or not jnp.can_cast(jnp.result_type(value), jnp.float32, "same_kind"):
        dtype = "" if isinstance(shape, str) else f" and dtype {jnp.result_type(value)}"
        raise ChoiceError(
            f"The program returned a cost of shape {shape}{dtype}.",
            cause="a program is written for one sample and returns one real number.",
            remedy="sum over the value, or let an estimator's num_samples replicate the program.",
        )


MAX_PATHS = 1_000_000
"""More paths than this are taken for a mistake: each is a lane of the whole rest of a program."""
PATHS_TOGETHER = 4096
"""As many paths run at once; what they need for the gradient is computed again on the way back."""


def _expand(branch, body, key, context, fixed, again) -> Outcome:
    """Σ_b weight_b · cost_b over the branches of a multi-path choice; nothing else may leave."""
    values, weights = branch.estimator.expand(branch.name, branch.distribution, branch.key)
    num_paths = context.num_paths * len(weights)
    if num_paths > MAX_PATHS:
        raise EstimatorError(
            f"{num_paths:,} paths would run through the program, {len(weights):,} of them at the "
            f"choice {branch.name!r}.",
            cause=f"every path runs the rest of the program; at most {MAX_PATHS:,} are taken, and "
            f"{PATHS_TOGETHER:,} at once.",
            remedy="use score_function or leave_one_out for some of the choices, or put "
            "independent ones into a bft.plate, whose lanes add paths instead of multiplying them.",
        )
    inner = dataclasses.replace(context, in_branch=True, allows_host=False, num_paths=num_paths)

    def rest(value):
        return run_scope(body, key, inner, None, {**fixed, branch.name: value}, **again)

    together = max(1, PATHS_TOGETHER // context.num_paths)
    if len(weights) <= together:
        outcome = jax.vmap(rest)(values)
    else:
        outcome = jax.lax.map(jax.checkpoint(rest), values, batch_size=together)
    if jax.tree.leaves((outcome.value, outcome.trace)):
        raise EstimatorError(
            f"The choice {branch.name!r} takes several paths, but values leave its plate, scan or "
            "cond.",
            cause=f"{type(branch.estimator).__name__} replays the rest of its scope, which cannot "
            "include what comes after the plate, scan or cond.",
            remedy="let only bft.cost leave the body (return None; from a scan, None as carry and "
            "as y), or use score_function, leave_one_out or reparameterize there.",
        )
    frozen = jax.lax.stop_gradient(weights)
    times = _times if branch.estimator.lists_support else jnp.multiply

    def weighted(term: ScoreTerm) -> ScoreTerm:
        scale = frozen.reshape(-1, *(1,) * (term.credited.ndim - 1))
        return dataclasses.replace(term, credited=times(scale, term.credited))

    terms = {name: weighted(term) for name, term in outcome.terms.items()}
    cost = jnp.sum(times(weights, outcome.cost))
    return Outcome(outcome.value, cost, terms, {}, None, {})  # a value without leaves


def _times(weights: Array, costs: Array) -> Array:
    """weights · costs, where what is impossible adds nothing: its cost may be inf or NaN."""
    return weights * jnp.where((weights == 0) & ~jnp.isfinite(costs), 0.0, costs)
