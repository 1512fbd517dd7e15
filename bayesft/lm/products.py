"""Products of rows with a matrix, one product however many `vmap`s the rows stand under."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike
from jaxtyping import Array, Float

rows_product_p = Primitive("rows_product")


def rows_product(
    x: Float[Array, "rows in"],
    matrix: Float[Array, "in out"],
    *,
    axis: int = 0,
    dtype: DTypeLike | None = None,
) -> Float[Array, "rows out"]:
    """Σ_i x[r, i]·matrix[i, o], or matrix[o, i] for `axis=1`; summed in `dtype`, if one is given.

    Under a `vmap` over x alone, lanes are more rows. So the gradient of a sum over lanes along the
    matrix sums over one axis, as of one long x: over two, lanes and rows, which `x @ matrix` would
    leave there, XLA transposes every operand first.
    """
    # Read here, where the call stands: lowering may come after its context.
    precision = jax.config.jax_default_matmul_precision
    return _bind(x, matrix, axes=(1, axis), dtype=dtype, precision=precision)


@dataclasses.dataclass(frozen=True)
class AsDots:
    """A policy of `jax.checkpoint` to which these products are `dot_general`, as they become."""

    policy: Callable[..., Any]

    def __call__(self, primitive: Primitive, *avals: Any, **params: Any) -> Any:
        if primitive is rows_product_p:
            return self.policy(lax.dot_general_p, *avals, **_as_dot(**params))
        return self.policy(primitive, *avals, **params)


def _bind(a: Array, b: Array, **settings: Any) -> Array:
    common = jnp.result_type(a, b)
    return rows_product_p.bind(a.astype(common), b.astype(common), **settings)


def _as_dot(axes: tuple[int, int], dtype: Any, precision: Any) -> dict[str, Any]:
    """Parameters of the `dot_general` that sums over these axes of two matrices."""
    return {
        "dimension_numbers": ((axes[:1], axes[1:]), ((), ())),
        "preferred_element_type": dtype,
        "precision": precision,
    }


def _product(a: Array, b: Array, **settings: Any) -> Array:
    return lax.dot_general(a, b, **_as_dot(**settings))


def _shape(a: Any, b: Any, **settings: Any) -> Any:
    dot = _as_dot(**settings) | {"precision": None}  # which moves no shape
    aval, _ = lax.dot_general_p.abstract_eval(a, b, **dot, out_sharding=None)
    return aval


# A cotangent may be wider than the operands, where sums are: it is rounded after the product alone.


def _along_first(
    cotangent: Array, a: Any, b: Array, *, axes: tuple[int, int], dtype: Any, precision: Any
) -> Array:
    free = 1 - axes[1]
    order = ((cotangent, 1), (b, free)) if axes[0] == 1 else ((b, free), (cotangent, 1))
    return _summed(*order, precision).astype(a.aval.dtype)


def _along_second(
    cotangent: Array, a: Array, b: Any, *, axes: tuple[int, int], dtype: Any, precision: Any
) -> Array:
    free = 1 - axes[0]
    order = ((a, free), (cotangent, 0)) if axes[1] == 0 else ((cotangent, 0), (a, free))
    return _summed(*order, precision).astype(b.aval.dtype)


def _summed(first: tuple[Array, int], second: tuple[Array, int], precision: Any) -> Array:
    """The product of two matrices over these axes of theirs, in the wider of their dtypes."""
    (a, axis), (b, other) = first, second
    return _bind(a, b, axes=(axis, other), dtype=None, precision=precision)


def _over_lanes(
    operands: tuple[Array, Array],
    dims: tuple[int | None, int | None],
    *,
    axes: tuple[int, int],
    **settings: Any,
) -> tuple[Array, int]:
    a, b = operands
    if dims[0] is None or dims[1] is not None or axes[0] != 1:
        return jax.vmap(lambda a, b: _product(a, b, axes=axes, **settings), dims)(a, b), 0
    lanes = jnp.moveaxis(a, dims[0], 0)
    rows = rows_product_p.bind(lanes.reshape(-1, lanes.shape[2]), b, axes=axes, **settings)
    return rows.reshape(*lanes.shape[:2], rows.shape[1]), 0


rows_product_p.def_impl(_product)
rows_product_p.def_abstract_eval(_shape)
mlir.register_lowering(rows_product_p, mlir.lower_fun(_product, multiple_results=False))
ad.defbilinear(rows_product_p, _along_first, _along_second)
batching.primitive_batchers[rows_product_p] = _over_lanes
