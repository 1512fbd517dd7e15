"""Jumps on the path of a reparameterised value, where its gradient would be silently wrong.

The abstract pass over a program marks what is reparameterised. Marks follow the values through the
traced program, and where a user's line compares, rounds or indexes by a marked one, what comes of
it is marked as a jump; a jump that reaches the cost is refused. `stop_gradient` takes marks away:
it says that no gradient is expected there, as straight-through estimators do. Functions of JAX and
of other libraries are trusted to be as smooth as their derivatives say (`relu`, `logsumexp`, the
checks of a log-prob), unless they return integers, round, take remainders or rank.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from bayesft.base import PyTree
from bayesft.errors import EstimatorError

MARK = "bayesft reparameterised "
COMPARED = {"lt", "le", "gt", "ge", "eq", "ne"}
ROUNDED = {"floor", "ceil", "round", "around", "sign", "copysign", "rint", "trunc", "fix"}
ROUNDED |= {"heaviside", "floor_divide", "divmod", "mod", "fmod", "remainder", "rem", "modf"}
RANKED = {"rankdata", "unwrap"}
LIBRARIES = ("bayesft", "numpyro", "flax", "optax", "tensorflow_probability", "genjax", "distrax")
DIRECT = ("array_methods.py", "ufuncs.py", "lax_numpy.py", "reductions.py", "lax.py")
DIRECT += ("array_constructors.py", "scalar_types.py")
"""Files of JAX whose functions are operations by themselves: their callers are the ones to ask."""
MACHINERY = ("core.py", "partial_eval.py", "pjit.py", "source_info_util.py", "traceback_util.py")
"""Files of JAX that stand between any operation and who asks for it."""


MAKES_MARKS = {"name", "jaxpr", "branches", "body_jaxpr"}
"""Parameters of the operations that mark, or in whose bodies a mark may be made."""


class Jump(NamedTuple):
    """A place where values of reparameterised choices are compared, rounded or indexed by."""

    choices: frozenset[str]
    what: str
    place: str


type Marks = frozenset[str | Jump]
NONE: Marks = frozenset()


def marked(name: str, value: PyTree) -> PyTree:
    """The value, marked as that of a reparameterised choice; floating-point leaves only."""

    def mark(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return checkpoint_name(leaf, MARK + name) if floating else leaf

    return jax.tree.map(mark, value)


def refuse(program: ClosedJaxpr, outputs: Iterable[int]) -> None:
    """Raise EstimatorError for a jump that reaches one of these outputs of a traced program."""
    marks = _walk(program.jaxpr, [NONE] * len(program.jaxpr.invars))
    reached = NONE.union(*(marks[index] for index in outputs))
    jumps = [(jump.place, jump) for jump in reached if isinstance(jump, Jump)]
    if jumps:
        place, jump = min(jumps, key=lambda pair: pair[0])
        raise EstimatorError(
            f"The choice {min(jump.choices)!r} is reparameterised, and its value is {jump.what} at "
            f"{place}.",
            cause="a gradient along the path does not see where the result changes, so a jump of "
            "the cost would be missing from it without a word.",
            remedy="use score_function or measure_valued for the choice; where the cost does not "
            "jump there, apply jax.lax.stop_gradient to the value first.",
        )


def _walk(jaxpr: Jaxpr, given: Sequence[Marks]) -> list[Marks]:
    """The marks of a traced function's outputs, from those of its inputs."""
    marks: dict[Any, Marks] = dict(zip(jaxpr.invars, given, strict=True))

    def of(atom: Any) -> Marks:
        return NONE if isinstance(atom, Literal) else marks.get(atom, NONE)

    for equation in jaxpr.eqns:
        inputs = [of(atom) for atom in equation.invars]
        if any(inputs) or not MAKES_MARKS.isdisjoint(equation.params):
            marks.update(zip(equation.outvars, _step(equation, inputs), strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _step(equation: Any, inputs: list[Marks]) -> list[Marks]:
    """The marks of one operation's outputs."""
    name, params = equation.primitive.name, equation.params
    everything = NONE.union(*inputs)
    outputs = [everything] * len(equation.outvars)
    if name == "name" and params["name"].startswith(MARK):
        return [everything | {params["name"].removeprefix(MARK)}]
    if name == "stop_gradient":
        return [NONE] * len(outputs)
    if name == "scan":
        return _scan(equation, inputs)
    if name == "while":
        return _while(params, inputs)
    if name == "cond":
        branches = [_walk(_opened(branch), inputs[1:]) for branch in params["branches"]]
        return [NONE.union(inputs[0], *each) for each in zip(*branches, strict=True)]
    if "jaxpr" in params:  # jit, checkpoint; functions with a derivative of their own have another
        inner = _opened(params["jaxpr"])
        if not _is_library(str(inner.debug_info.func_filename)):
            return _walk(inner, inputs)
        return _jumped(equation, params.get("name", name), outputs)
    if name == "is_finite" or name.startswith("custom_"):  # the latter have their own derivative
        return outputs
    if name in COMPARED and equation.invars[0] is equation.invars[1]:  # x != x: a NaN
        return outputs
    return _jumped(equation, name, outputs)


def _jumped(equation: Any, name: str, outputs: list[Marks]) -> list[Marks]:
    """The outputs of an operation, those marked that jump where a line of the user's asks for it.

    What is rounded jumps, what is no float, and what is sorted by something else.
    """
    sorts = equation.primitive.name == "sort"  # not jnp.sort, which has one output
    own = equation.params["num_keys"] if sorts else len(outputs)
    jumps = [
        name in ROUNDED | RANKED or not _is_float(out) or at >= own
        for at, out in enumerate(equation.outvars)
    ]
    choices = frozenset(mark for mark in outputs[0] if isinstance(mark, str))
    floats = any(_is_float(atom) for atom in equation.invars)
    if not (any(jumps) and choices and floats):
        return outputs
    place = _line_of_the_user(equation.source_info.traceback)
    if place is None:
        return outputs
    kind = "compared" if name in COMPARED else "rounded" if name in ROUNDED else "made an integer"
    kind = "ordered by" if sorts or name in RANKED else kind
    jump = Jump(choices, f"{kind} ({name})", place)
    return [marks | {jump} if at else marks for marks, at in zip(outputs, jumps, strict=True)]


def _scan(equation: Any, inputs: list[Marks]) -> list[Marks]:
    inner = _opened(equation.params["jaxpr"])
    rank = lambda atom: len(atom.aval.shape)
    # What is scanned over has an axis less in the body; the rest are constants, then the carry.
    carries = sum(map(lambda out, at: rank(out) == rank(at), equation.outvars, inner.outvars))
    scanned = sum(map(lambda atom, at: rank(atom) > rank(at), equation.invars, inner.invars))
    start = len(inputs) - scanned - carries
    consts, xs = inputs[:start], inputs[start + carries :]
    body = lambda carry: _walk(inner, [*consts, *carry, *xs])
    carry = _settled(lambda carry: body(carry)[:carries], inputs[start : start + carries])
    return [*carry, *body(carry)[carries:]]


def _while(params: dict[str, Any], inputs: list[Marks]) -> list[Marks]:
    tested, looped = params["cond_nconsts"], params["body_nconsts"]
    of_test, of_body = inputs[:tested], inputs[tested : tested + looped]
    body = lambda carry: _walk(_opened(params["body_jaxpr"]), [*of_body, *carry])
    carry = _settled(body, inputs[tested + looped :])
    # How often the body runs is a jump of whatever it returns.
    (ends,) = _walk(_opened(params["cond_jaxpr"]), [*of_test, *carry])
    return [marks | ends for marks in carry]


def _settled(body: Any, carry: list[Marks]) -> list[Marks]:
    """The marks of a loop's carry, once another round adds none."""
    while True:
        after = [a | b for a, b in zip(carry, body(carry), strict=True)]
        if after == carry:
            return carry
        carry = after


def _opened(inner: Any) -> Jaxpr:
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def _is_float(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def _line_of_the_user(traceback: Any) -> str | None:
    """Where an operation was asked for; None where a library did so for purposes of its own."""
    called = None
    for frame in [] if traceback is None else traceback.frames:  # the innermost first
        if _is_within(frame.file_name, "jax"):
            if not frame.file_name.endswith(MACHINERY):
                called = frame.file_name
            continue
        asked = called is None or called.endswith(DIRECT)
        if _is_library(frame.file_name) or not asked:
            return None
        return f"{Path(frame.file_name).name}:{frame.line_num}"
    return None


def _is_library(file: str) -> bool:
    return any(_is_within(file, library) for library in ("jax", *LIBRARIES))


def _is_within(file: str, library: str) -> bool:
    root = _root_of(library) if library in sys.modules else None
    return root is not None and file.startswith(root)


@functools.cache
def _root_of(library: str) -> str | None:
    found = getattr(sys.modules[library], "__file__", None)
    return f"{Path(found).parent}/" if found else None
