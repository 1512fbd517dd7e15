"""Model folders in Hugging Face format, written all or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesft.io.files import to_json, write_folder
from bayesft.io.tensors import write_tensors
from bayesft.lm.card import Card
from bayesft.lm.tokenizer import FILES
from bayesft.lm.weights import write_weights

OWN = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *FILES,
)
"""Files that saving a model may replace."""


def save_model(path: str | os.PathLike[str], weights: Mapping[str, Any], card: Card) -> None:
    """Writes `config.json`, `model.safetensors` and what was loaded beside them."""
    tensors = write_weights(weights, card.architecture)
    dtype = str(next(iter(tensors.values())).dtype)
    texts = {"config.json": to_json(_with_dtype(card.config, dtype))}
    if card.generation_config is not None:
        texts["generation_config.json"] = to_json(card.generation_config)
    if card.tokenizer is not None:
        texts |= card.tokenizer.files

    def write(folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
        write_tensors(folder / "model.safetensors", tensors)

    write_folder(path, write, OWN)


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with the dtype of the saved tensors: transformers casts to what it finds here."""
    return {k: dtype if k in ("dtype", "torch_dtype") else v for k, v in config.items()}
