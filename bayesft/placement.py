"""Models put on the devices of a mesh, ahead of what runs over it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from bayesft import sharding
from bayesft.base import Prior
from bayesft.target import Target


def over_mesh[**P, R](driver: Callable[P, R]) -> Callable[P, R]:
    """Give a driver with the argument `mesh` what it says: its models are placed on that mesh, and
    it runs over it."""

    @functools.wraps(driver)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        mesh: Any = kwargs.get("mesh")
        if mesh is None:
            return driver(*args, **kwargs)
        with sharding.on(mesh):
            place = _Placement()
            placed = {name: place(value) for name, value in kwargs.items() if name != "mesh"}
            return driver(*map(place, args), **placed)  # pyright: ignore[reportCallIssue]

    return run


class _Placement:
    """Places the arrays of priors, each array and each prior once: a LoRA guide shares the weights
    of its base, and a sampler asks whether its proposal is the prior itself."""

    def __init__(self):
        self._placed: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Target):
            return value.placed(self)
        return jax.tree.map(self._model, value, is_leaf=_is_prior)

    def _model(self, part: Any) -> Any:
        if not _is_prior(part):
            return part
        return self._once(part, lambda prior: jax.tree.map(self._array, prior))

    def _array(self, array: Any) -> Any:
        return self._once(array, sharding.place)

    def _once(self, value: Any, place: Callable[[Any], Any]) -> Any:
        # The value is kept beside its copy, so that its id stays its own.
        if id(value) not in self._placed:
            self._placed[id(value)] = value, place(value)
        return self._placed[id(value)][1]


def _is_prior(part: Any) -> bool:
    return isinstance(part, Prior)
