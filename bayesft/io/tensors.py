"""Named tensors in safetensors files, single or sharded, with errors before any long work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from bayesft.errors import ModelError
from bayesft.io.files import read_json

FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclasses.dataclass(frozen=True)
class TensorFiles:
    """Tensors of one or several files: shapes are known at once, values are read on demand."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    files: Mapping[str, Path]

    def read(self, name: str) -> np.ndarray:
        """The tensor of that name, in its stored dtype; integers are refused."""
        self.require_floats([name])
        with safe_open(self.files[name], framework="numpy") as file:
            return file.get_tensor(name)

    def require_floats(self, names: Iterable[str]) -> None:
        """Raises ModelError where one of these tensors holds integers, as quantised weights do."""
        for name in names:
            if self.dtypes[name] not in FLOATS:
                raise ModelError(
                    f"Tensor {name} in {self.files[name]} is stored as {self.dtypes[name]}.",
                    cause="the weights are quantised",
                    remedy="use the float16, bfloat16 or float32 version of the model",
                )


def open_tensors(folder: Path, stem: str = "model") -> TensorFiles:
    """Tensors of `{stem}.safetensors`, or of the shards that `{stem}.safetensors.index.json` lists.

    Raises ModelError where files are missing or truncated, or where the index and its shards
    disagree; pickled weights are never opened.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if single.exists():
        return _merge([_open(single)])
    if not index.exists():
        raise _no_weights(folder, stem)
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        raise ModelError(
            f"{index} has no weight_map of tensor names to file names.",
            remedy="download or write it again",
        )
    for name in set(listed.values()):
        if Path(name).name != name:
            raise ModelError(f"{index} points to {name!r}, which is outside the folder.")
    tensors = _merge([_open(folder / name) for name in sorted(set(listed.values()))])
    found = {name: path.name for name, path in tensors.files.items()}
    if wrong := sorted(name for name in listed if found.get(name) != listed[name]):
        where = f"{found[wrong[0]]} holds" if wrong[0] in found else "none of its files holds"
        raise ModelError(
            f"{index} lists {wrong[0]} in {listed[wrong[0]]}; {where} it.",
            cause="a shard was replaced or truncated",
            remedy="download the folder again",
        )
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file; the metadata is what transformers and peft expect."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    safetensors.numpy.save_file(contiguous, path, metadata={"format": "pt"})


def _open(path: Path) -> TensorFiles:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(entry.get_shape()) for name, entry in slices.items()}
            dtypes = {name: entry.get_dtype() for name, entry in slices.items()}
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} is missing.",
            cause="the folder was copied in part, or its download stopped",
            remedy="download the folder again",
        ) from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file: {error}.",
            cause="the file was truncated, or is a Git LFS pointer",
            remedy="download it again and compare its size with the source",
        ) from error
    return TensorFiles(shapes, dtypes, dict.fromkeys(shapes, path))


def _merge(parts: list[TensorFiles]) -> TensorFiles:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    files: dict[str, Path] = {}
    for part in parts:
        if twice := sorted(set(files) & set(part.files)):
            raise ModelError(
                f"{files[twice[0]]} and {part.files[twice[0]].name} both hold {twice[0]}.",
                cause="shards of two versions of the model",
                remedy="download the folder again",
            )
        shapes.update(part.shapes)
        dtypes.update(part.dtypes)
        files.update(part.files)
    return TensorFiles(shapes, dtypes, files)


def _no_weights(folder: Path, stem: str) -> ModelError:
    pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if pickled:
        return ModelError(
            f"{folder} has no {stem}.safetensors, only {pickled[0].name}.",
            cause="the weights were saved as a pickle, which can run code when it is opened",
            remedy="convert them to safetensors where you trust their source "
            "(model.save_pretrained in transformers does)",
        )
    return ModelError(
        f"{folder} has no {stem}.safetensors and no {stem}.safetensors.index.json.",
        cause="the weights were not downloaded, or a repository on the Hub has them only as "
        "pickles (*.bin), which are not fetched",
        remedy="download the *.safetensors files into the folder, or convert the pickles where you "
        "trust their source (model.save_pretrained in transformers does)",
    )
