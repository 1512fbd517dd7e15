"""Models from folders, from configurations, and adapters on top of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from bayesft import sharding
from bayesft.base import Key, require_key
from bayesft.errors import GuideError, ModelError
from bayesft.io.files import read_json
from bayesft.io.hub import find_folder, is_name
from bayesft.io.peft import CONFIG, STEM, read_peft_config
from bayesft.io.tensors import open_tensors
from bayesft.lm.adapters import OWN as ADAPTER_FILES
from bayesft.lm.adapters import read_factors
from bayesft.lm.card import make_card
from bayesft.lm.decoder import Decoder
from bayesft.lm.language_model import LanguageModel
from bayesft.lm.linear import Adapter
from bayesft.lm.lora import LoraGuide
from bayesft.lm.saving import OWN as MODEL_FILES
from bayesft.lm.settings import Settings
from bayesft.lm.targets import resolve
from bayesft.lm.tokenizer import Tokenizer, read_tokenizer
from bayesft.lm.weights import read_weights


def load(
    path: str | os.PathLike[str],
    dtype: Any = jnp.float32,
    *,
    tokenizer: bool = True,
    mesh: Mesh | None = None,
) -> LanguageModel:
    """The language model in a folder of Hugging Face format, or of a name "org/model", as a prior.

    Reads `config.json`, `*.safetensors` (one file or an index of shards, in any float type),
    `tokenizer.json` with what lies beside it, and `generation_config.json` where there is one.
    Weights are converted to `dtype`, float32 for exact work. `tokenizer=False` loads a folder
    without a tokenizer; prompts are then token ids. Of several EOS tokens the tokenizer's own comes
    first: it is what completions without one are given. Nothing in the folder is executed. Where
    there is no folder "org/model", these files of the model of that name are taken from Hugging
    Face's cache, or downloaded into it. With a `mesh`, each of its devices gets its share of every
    tensor (docs/many_devices.md).

    Raises ModelError, before any tensor is read, for a folder that is missing, incomplete or
    corrupt, and for models whose forward pass is not implemented exactly.
    """
    folder = find_folder(path, (*MODEL_FILES, CONFIG))
    if not (folder / "config.json").exists() and (folder / CONFIG).exists():
        raise ModelError(
            f"{folder} holds an adapter, not a model.",
            remedy=f"load its base model, then bft.lm.load_adapter(lm, {str(path)!r})",
        )
    dtype = _floating(dtype)
    config = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    generation_config = read_json(generation) if generation.exists() else None
    reader = read_tokenizer(folder) if tokenizer else None
    source = str(path) if is_name(path) else str(folder)
    card = make_card(Path(source).name, source, config, generation_config, reader)
    with sharding.on(mesh):
        weights = read_weights(open_tensors(folder), card.architecture, dtype)
    return LanguageModel(weights, card)


def load_adapter(lm: LanguageModel, path: str | os.PathLike[str]) -> LoraGuide:
    """The LoRA adapter in a PEFT folder or of a name on the Hub, as a guide over its base model.

    Raises ModelError for an adapter of another model, and for options beyond plain LoRA.
    """
    if not isinstance(lm, LanguageModel):
        raise GuideError(
            f"An adapter is loaded over a language model, not a {type(lm).__name__}.",
            remedy="give what bft.lm.load returns",
        )
    folder = find_folder(path, ADAPTER_FILES)
    config = read_peft_config(folder)
    architecture = lm.card.architecture
    slots, unknown, partial = resolve(config.target_modules, architecture)
    if partial:
        raise ModelError(
            f"The adapter in {folder} targets {partial[0]!r}, which names modules of some layers "
            f"of {lm.name} only.",
            cause="the adapter leaves the other layers as they are, or belongs to another model",
            remedy="merge the adapter into its base model with PEFT, then load that folder",
        )
    if unknown:
        raise ModelError(
            f"The adapter in {folder} targets {unknown[0]!r}, which {lm.name} does not have or "
            "bayesft does not adapt.",
            cause="the adapter belongs to another model, or adapts embeddings",
            remedy=f"use adapters of {', '.join(architecture.modules)}",
        )
    if config.fan_in_fan_out == architecture.names.kernels_are_transposed:
        raise ModelError(
            f"The adapter in {folder} sets fan_in_fan_out to {config.fan_in_fan_out}, but "
            f"{lm.name} stores its kernels the other way round.",
            cause="the adapter belongs to another model",
            remedy="load it on the model that adapter_config.json names as its base",
        )
    adapter = Adapter(config.rank, config.alpha, config.rank_stabilised, slots)
    factors = read_factors(open_tensors(folder, STEM), architecture, adapter)
    return LoraGuide(factors, lm.weights, lm.card, adapter)


def initialise(
    config: Mapping[str, Any],
    key: Key,
    tokenizer: str | os.PathLike[str] | None = None,
    dtype: Any = jnp.float32,
) -> LanguageModel:
    """A language model with random weights, for training from scratch and for benchmarks.

    `config` is what `config.json` would hold; kernels and embeddings are normal with standard
    deviation `initializer_range` (0.02), norms are 1. `tokenizer` is the path of a
    tokenizer.json; the files beside it are read too. Raises ModelError as `load` does, and for a
    deviation that is no positive number.
    """
    require_key(key, ModelError)
    dtype, config = _floating(dtype), _plain(config)
    reader = _tokenizer_at(Path(tokenizer)) if tokenizer is not None else None
    name = str(config.get("model_type"))
    card = make_card(name, name, config, None, reader)
    deviation = Settings(config).number("initializer_range", 0.02)
    decoder = Decoder(card.architecture, deviation=deviation, rngs=nnx.Rngs(key))
    weights = nnx.to_pure_dict(nnx.state(decoder))
    return LanguageModel(jax.tree.map(lambda array: array.astype(dtype), weights), card)


def _floating(dtype: Any) -> Any:
    """The type of floating-point numbers that is meant, by itself or by its name."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ModelError(
            f"Weights cannot be of dtype {dtype!r}.",
            cause="a type of integers, or a name that NumPy does not know, such as auto or bf16",
            remedy='use jnp.float32, jnp.bfloat16, jnp.float16 or a name such as "bfloat16"',
        )
    return found


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as config.json would give it back."""
    try:
        return json.loads(json.dumps(dict(config)))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The configuration is not plain data: {error}.",
            cause="a path, a configuration of transformers, or a NumPy number among the settings",
            remedy="give a dict such as json.load gives of a config.json, or config.to_dict()",
        ) from error


def _tokenizer_at(path: Path) -> Tokenizer:
    return read_tokenizer(path if path.is_dir() else path.parent)
