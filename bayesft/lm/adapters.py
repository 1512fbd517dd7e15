"""Factors of an adapter from a PEFT folder, and back, exactly."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesft.errors import ModelError
from bayesft.io.files import to_json, write_folder
from bayesft.io.peft import CONFIG, STEM, PeftConfig, factor_names, peft_options
from bayesft.io.tensors import TensorFiles, write_tensors
from bayesft.lm.architecture import Architecture, Slot
from bayesft.lm.card import Card
from bayesft.lm.decoder import structure
from bayesft.lm.linear import Adapter
from bayesft.lm.targets import shortest_names
from bayesft.sharding import to_host

OWN = (CONFIG, f"{STEM}.safetensors")
"""Files that saving an adapter may replace."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One adapted module: its name in the checkpoint, and where its arrays are."""

    module: str
    layer: int
    projection: tuple[str, str]
    index: int
    slot: Slot
    inputs: int

    def linear_of(self, tree: Any) -> dict[str, Any]:
        """The arrays of the projection that the module is part of."""
        part, name = self.projection
        return tree["layers"][self.layer][part][name]

    def factors_of(self, tree: Any) -> dict[str, Any]:
        """The module's factors "a" [in, rank] and "b" [rank, out]."""
        return self.linear_of(tree)["factors"][self.index]


def places(architecture: Architecture, adapter: Adapter) -> Iterator[Place]:
    """The adapted modules of every layer."""
    for layer in range(architecture.num_layers):
        prefix = architecture.names.layer.format(layer)
        for place, projection in architecture.projections.items():
            for index, slot in enumerate(projection.slots):
                if slot.name in adapter.slots:
                    name = f"{prefix}.{slot.name}"
                    yield Place(name, layer, place, index, slot, projection.inputs)


def read_factors(files: TensorFiles, architecture: Architecture, adapter: Adapter) -> Any:
    """The factors of an adapter; every name and shape is checked before any tensor is read.

    Raises ModelError naming the tensor that is missing, unexpected, or of another shape.
    """
    found = list(places(architecture, adapter))
    expected: dict[str, tuple[int, ...]] = {}
    for place in found:
        a, b = factor_names(place.module)
        expected |= {a: (adapter.rank, place.inputs), b: (place.slot.size, adapter.rank)}
    for name, shape in expected.items():
        if name not in files.shapes:
            raise _mismatch(f"The adapter has no tensor {name}")
        if files.shapes[name] != shape:
            raise _mismatch(
                f"Tensor {name} has shape {list(files.shapes[name])}, "
                f"the base model implies {list(shape)}"
            )
    unexpected = sorted(set(files.shapes) - set(expected))
    if unexpected:
        raise _mismatch(f"The adapter holds {unexpected[0]}, which its configuration does not name")
    _, _, shapes = structure(architecture, adapter)
    factors = jax.tree.map(lambda shape: shape, shapes)
    for place in found:
        names = dict(zip("ab", factor_names(place.module), strict=True))
        arrays = {key: jnp.array(files.read(name).T, jnp.float32) for key, name in names.items()}
        place.factors_of(factors).update(arrays)
    return factors


def save_adapter(
    path: str | os.PathLike[str], factors: Mapping[str, Any], card: Card, adapter: Adapter
) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, the format of PEFT."""
    config = PeftConfig(
        rank=adapter.rank,
        alpha=adapter.alpha,
        rank_stabilised=adapter.rank_stabilised,
        target_modules=shortest_names(adapter.slots, card.architecture),
        fan_in_fan_out=not card.architecture.names.kernels_are_transposed,
        base_model=card.source,
    )
    tensors: dict[str, np.ndarray] = {}
    for place in places(card.architecture, adapter):
        for key, name in zip("ab", factor_names(place.module), strict=True):
            tensors[name] = to_host(place.factors_of(factors)[key]).T

    def write(folder: Path) -> None:
        (folder / CONFIG).write_text(to_json(peft_options(config)), encoding="utf-8")
        write_tensors(folder / f"{STEM}.safetensors", tensors)

    write_folder(path, write, OWN)


def _mismatch(happened: str) -> ModelError:
    return ModelError(
        f"{happened}.",
        cause="the adapter belongs to another base model, or its folder is incomplete",
        remedy="load it on the model that adapter_config.json names as its base",
    )
