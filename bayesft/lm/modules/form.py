"""A Flax module as static structure and arrays, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen, nnx

from bayesft.base import PyTree
from bayesft.errors import ModelError


class Form(Protocol):
    """The structure of a module, hashable; arrays come from outside."""

    def build(self, params: PyTree, rest: PyTree) -> Any:
        """The module with its arrays in place."""
        ...

    def rest_of(self, module: Any) -> PyTree:
        """What a module holds beside its parameters."""
        ...


@dataclasses.dataclass(frozen=True)
class NnxForm:
    """An NNX module; its parameters are the floating-point `nnx.Param`s."""

    graph: nnx.GraphDef

    def build(self, params: PyTree, rest: PyTree) -> nnx.Module:
        return nnx.merge(self.graph, params, rest)

    def rest_of(self, module: nnx.Module) -> PyTree:
        _, _, rest = nnx.split(module, _is_parameter, ...)
        return nnx.to_pure_dict(rest)


@dataclasses.dataclass(frozen=True)
class LinenForm:
    """A Linen module; its parameters are the collection "params"."""

    module: linen.Module

    def build(self, params: PyTree, rest: PyTree) -> linen.Module:
        return self.module.bind({"params": params, **rest})

    def rest_of(self, module: linen.Module) -> PyTree:
        return {name: tree for name, tree in module.variables.items() if name != "params"}


def take_apart(module: Any, variables: Mapping[str, Any] | None) -> tuple[Form, PyTree, PyTree]:
    """A module's structure, its parameters, and its other arrays.

    Raises ModelError for what is neither an NNX module nor a Linen module with its variables.
    """
    if isinstance(module, nnx.Module) and variables is None:
        graph, params, rest = nnx.split(module, _is_parameter, ...)
        return NnxForm(graph), nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    if isinstance(module, linen.Module) and variables is not None and "params" in variables:
        collections = dict(linen.meta.unbox(variables))
        params = jax.tree.map(jnp.asarray, collections.pop("params"))
        return LinenForm(module), params, jax.tree.map(jnp.asarray, collections)
    raise ModelError(
        f"{type(module).__name__} with variables={type(variables).__name__} is no model.",
        cause="a Linen module keeps its arrays outside, an NNX module holds them itself",
        remedy='give an nnx.Module alone, or a linen.Module with variables={"params": …}',
    )


def _is_parameter(path: Any, variable: Any) -> bool:
    return isinstance(variable, nnx.Param) and jnp.issubdtype(variable.dtype, jnp.inexact)
