"""Folders by path, or by the name of a model on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from bayesft.errors import ModelError
from bayesft.io.files import require_folder

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""An organisation and a model, as the Hub spells them."""


def is_name(path: str | os.PathLike[str]) -> bool:
    """Whether this names a model on the Hub: "org/model", and no folder of that path exists."""
    return isinstance(path, str) and NAME.fullmatch(path) is not None and not Path(path).exists()


def find_folder(path: str | os.PathLike[str], patterns: Sequence[str]) -> Path:
    """The local folder at the path, or the snapshot of the model of that name in the Hub's cache.

    Of a model that is not in the cache, files that match the patterns are downloaded, and nothing
    else. `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to huggingface_hub. Raises
    ModelError where there is neither a folder nor a model.
    """
    if not is_name(path):
        return require_folder(path).resolve()
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(
            f"There is no folder {path}, and huggingface_hub, which would download the model "
            "of that name, is not installed.",
            remedy="pip install huggingface_hub, or give the path of a local folder",
        ) from error
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"There is no folder {path}, and no model of that name could be had from the "
            f"Hugging Face Hub: {error}",
            cause="the name is misspelled, the model is private or gated, or the Hub cannot be "
            "reached",
            remedy="correct the name, accept the model's terms and log in, or download it once "
            "and give its folder",
        ) from error
