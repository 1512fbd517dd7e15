"""Arrays of a decoder from the tensors of a checkpoint, and back, exactly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesft import sharding
from bayesft.errors import ModelError
from bayesft.io.tensors import TensorFiles
from bayesft.lm.architecture import Architecture
from bayesft.lm.decoder import structure

type Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint and the columns of the decoder's array that it is."""

    name: str
    path: Path
    shape: tuple[int, ...]
    columns: slice = slice(None)
    transposed: bool = False


def tensors_of(architecture: Architecture) -> Iterator[Tensor]:
    """Every tensor of a checkpoint of this architecture."""
    names = architecture.names
    vocab, width = architecture.vocab_size, architecture.width
    yield Tensor(f"{names.embedding}.weight", ("embedding",), (vocab, width))
    if names.positions is not None:
        shape = (architecture.max_positions, width)
        yield Tensor(f"{names.positions}.weight", ("positions",), shape)
    for index in range(architecture.num_layers):
        yield from _layer(architecture, index)
    yield from _norm(architecture, names.final_norm, ("final_norm",), width)
    if not architecture.tied:
        yield Tensor(f"{names.head}.weight", ("head",), (vocab, width))


def _layer(architecture: Architecture, index: int) -> Iterator[Tensor]:
    names, layer = architecture.names, ("layers", index)
    prefix = names.layer.format(index)
    for part in ("attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm"):
        name = getattr(names, part)
        if name is not None:
            path = (*layer, part)
            yield from _norm(architecture, f"{prefix}.{name}", path, architecture.width)
    if architecture.query_key_norm_widths is not None:
        widths = architecture.query_key_norm_widths
        for part, width in zip(("query_norm", "key_norm"), widths, strict=True):
            path = (*layer, "attention", part)
            yield from _norm(architecture, f"{prefix}.{getattr(names, part)}", path, width)
    transposed = names.kernels_are_transposed
    for place, projection in architecture.projections.items():
        path = (*layer, *place)
        for slot in projection.slots:
            name, shape = f"{prefix}.{slot.name}", (projection.inputs, slot.size)
            shape = shape[::-1] if transposed else shape
            yield Tensor(f"{name}.weight", (*path, "kernel"), shape, slot.columns, transposed)
            if projection.bias:
                yield Tensor(f"{name}.bias", (*path, "bias"), (slot.size,), slot.columns)


def _norm(architecture: Architecture, name: str, path: Path, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (*path, "scale"), (width,))
    if architecture.norm == "layer":
        yield Tensor(f"{name}.bias", (*path, "bias"), (width,))


def read_weights(files: TensorFiles, architecture: Architecture, dtype: Any) -> dict[str, Any]:
    """The decoder's arrays; every name and shape is checked before any tensor is read.

    Raises ModelError naming the tensor that is missing, unexpected, or of another shape, and for a
    tied head that is stored beside the embedding with other values.
    """
    tensors = list(tensors_of(architecture))
    stored = _check(files, tensors, architecture)
    if architecture.tied:
        _require_one_head(files, stored, architecture)
    _, shapes, _ = structure(architecture)
    parts: dict[Path, list[np.ndarray]] = {}
    for tensor in tensors:
        value = files.read(stored[tensor.name])
        parts.setdefault(tensor.path, []).append(value.T if tensor.transposed else value)

    def assemble(path: tuple[Any, ...], _: Any) -> jax.Array:
        # Popped, so that the copies on the host go as the arrays are made.
        pieces = parts.pop(tuple(key.key for key in path))
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, -1)
        return sharding.place(jnp.array(whole, dtype))

    return jax.tree.map_with_path(assemble, shapes)


def write_weights(weights: Mapping[str, Any], architecture: Architecture) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, the inverse of `read_weights`."""
    tensors: dict[str, np.ndarray] = {}
    for tensor in tensors_of(architecture):
        value: Any = weights
        for key in tensor.path:
            value = value[key]
        part = sharding.to_host(value)[..., tensor.columns]
        tensors[tensor.name] = part.T if tensor.transposed else part
    return tensors


def _check(files: TensorFiles, tensors: list[Tensor], architecture: Architecture) -> dict[str, str]:
    """Name of every tensor as stored: with the base model's prefix, or without."""
    names = architecture.names
    prefix = f"{names.base}."
    bare = not any(name.startswith(prefix) for name in files.shapes)
    stored = {t.name: t.name.removeprefix(prefix) if bare else t.name for t in tensors}
    for tensor in tensors:
        shape = files.shapes.get(stored[tensor.name])
        if shape is None:
            raise ModelError(
                f"The weights have no tensor {stored[tensor.name]}.",
                cause="the folder is incomplete, or config.json describes another model",
                remedy="download the folder again",
            )
        if shape != tensor.shape:
            raise ModelError(
                f"Tensor {stored[tensor.name]} has shape {list(shape)}, "
                f"config.json implies {list(tensor.shape)}.",
                cause="config.json describes another model",
                remedy="use the config.json that belongs to the weights",
            )
    # A tied head is sometimes stored a second time (see `_require_one_head`).
    known = {*stored.values(), *([f"{names.head}.weight"] if architecture.tied else [])}
    unexpected = sorted(
        name
        for name in files.shapes
        if name not in known and not any(re.fullmatch(p, name) for p in names.ignored)
    )
    files.require_floats(name for name in files.shapes if name in known)
    if unexpected:
        raise ModelError(
            f"The weights hold {unexpected[0]}, which a {architecture.num_layers}-layer model of "
            "this configuration does not have.",
            cause="config.json describes another model, or the model is a variant of its family",
            remedy="use the config.json that belongs to the weights",
        )
    return stored


def _require_one_head(
    files: TensorFiles, stored: Mapping[str, str], architecture: Architecture
) -> None:
    """Refuses a head and an embedding that config.json says are one, and the weights say are two.

    Releases of transformers differ in which of the two they then read.
    """
    names = architecture.names
    head, embedding = f"{names.head}.weight", stored[f"{names.embedding}.weight"]
    if head in files.shapes and not np.array_equal(files.read(head), files.read(embedding)):
        raise ModelError(
            f"config.json ties the head to the embedding, but the weights hold {head} with other "
            f"values than {embedding}.",
            cause="the head was trained apart from the embedding, and tie_word_embeddings was left",
            remedy="set tie_word_embeddings to false in config.json, or remove the tensor that "
            "does not belong to the model",
        )
