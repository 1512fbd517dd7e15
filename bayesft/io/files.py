"""Reading and writing small files of a model folder: JSON with good errors, folders all or nothing.

Every file is read as data: nothing in a model folder is ever executed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bayesft.errors import ModelError
from bayesft.sharding import is_writer


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ModelError where it is missing, corrupt or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}.",
            cause="the path is not a model folder in Hugging Face format, or its download stopped",
            remedy=f"give the folder that holds {path.name}",
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is not valid JSON: {error}.",
            cause="the file was truncated or edited by hand",
            remedy="download or write it again",
        ) from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path} holds a JSON {type(value).__name__}, not an object.",
            remedy="give a folder in Hugging Face format",
        )
    return value


def to_json(value: Mapping[str, Any]) -> str:
    """JSON as transformers and peft write it."""
    return json.dumps(dict(value), indent=2, sort_keys=True) + "\n"


def require_folder(path: str | os.PathLike[str]) -> Path:
    """The path of a folder that exists; raises ModelError otherwise."""
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelError(
            f"The model folder {folder} {what}.",
            remedy="give the path of a local folder with config.json and *.safetensors, or the "
            "name of a model on the Hugging Face Hub, org/model",
        )
    return folder


def write_folder(
    path: str | os.PathLike[str], write: Callable[[Path], None], own: Iterable[str]
) -> None:
    """Fills a new folder by `write(folder)` and moves it to `path` in one rename.

    A reader never sees half a folder. An existing folder is replaced only if it holds nothing but
    files whose names match the patterns `own`, and is not the working directory; raises ModelError
    otherwise. A link is followed. Of several processes one writes.
    """
    if not is_writer():
        return
    target = Path(path).resolve()
    if Path.cwd().is_relative_to(target):
        raise ModelError(
            f"{target} holds the working directory, which saving would replace.",
            remedy="save to a folder in it",
        )
    _refuse_foreign(target, tuple(own))
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = secrets.token_hex(4)
    fresh = target.with_name(f".{target.name}.new-{suffix}")
    stale = target.with_name(f".{target.name}.old-{suffix}")
    fresh.mkdir()
    try:
        write(fresh)
        if target.exists():
            target.rename(stale)
        try:
            fresh.rename(target)
        except OSError:
            if stale.exists():
                stale.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)


def _refuse_foreign(target: Path, own: tuple[str, ...]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ModelError(f"{target} is a file, not a folder.", remedy="save to another path")
    foreign = [
        entry.name
        for entry in sorted(target.iterdir())
        if entry.is_dir() or not any(entry.match(pattern) for pattern in own)
    ]
    if foreign:
        raise ModelError(
            f"{target} already holds {', '.join(foreign[:5])}, which saving would remove.",
            cause="the folder belongs to something else",
            remedy="save to a new or empty folder",
        )
