"""The mesh that is set, and what its axes mean."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from bayesft.errors import MeshError

ROWS = ("data", "fsdp")
"""The axes that rows are split over, outermost first."""
PARAMETERS = "fsdp"
"""The axis that parameters are split over."""


@contextlib.contextmanager
def on(mesh: Mesh | None) -> Iterator[None]:
    """Run what is inside over the devices of a mesh; None changes nothing.

    Raises MeshError for what is no mesh, for axes other than "data" and "fsdp", and for a mesh that
    leaves out a process.
    """
    if mesh is None:
        yield
        return
    _check(mesh)
    # Collectives are left to the partitioner whichever way the mesh was made.
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    with jax.set_mesh(Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)):
        yield


def axis_sizes() -> dict[str, int]:
    """Sizes of the axes of the mesh that is set, in the order of `ROWS`; empty where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or any(kind is not AxisType.Auto for kind in mesh.axis_types):
        return {}
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    return {axis: sizes[axis] for axis in ROWS if axis in sizes}


def is_set() -> bool:
    return bool(axis_sizes())


def num_shares() -> int:
    """How many shares rows are split into."""
    return math.prod(axis_sizes().values())


def _check(mesh: Any) -> None:
    if not isinstance(mesh, Mesh):
        raise MeshError(
            f"mesh={mesh!r} is no mesh of devices.",
            cause="a list of devices, the name of an axis, or a mesh without devices.",
            remedy='make it as jax.make_mesh((8,), ("data",)).',
        )
    names = tuple(map(str, mesh.axis_names))
    if not names or not set(names) <= set(ROWS):
        raise MeshError(
            f"A mesh with the axes {names} says nothing about rows and parameters.",
            cause='axes of other names: bayesft knows "data" (rows) and "fsdp" (rows and '
            "parameters).",
            remedy='make it as jax.make_mesh((2, 4), ("data", "fsdp")), or with one of the two.',
        )
    if names != tuple(axis for axis in ROWS if axis in names):
        raise MeshError(
            f"The axes {names} of the mesh are in another order than {ROWS}.",
            cause="neighbouring devices, which are connected best, belong to the last axis.",
            remedy='put "data" first: jax.make_mesh((2, 4), ("data", "fsdp")).',
        )
    processes = {device.process_index for device in mesh.devices.flat}
    if len(processes) < jax.process_count():
        raise MeshError(
            f"The mesh has devices of {len(processes)} of {jax.process_count()} processes.",
            cause="every process runs the same program, so each takes part.",
            remedy="make the mesh of jax.devices(), or start fewer processes.",
        )
