"""Python functions named on the command line: `module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import typer


def load_function(spec: str, option: str) -> Callable[..., Any]:
    """The function; what cannot be found or imported is a usage error that says why."""

    def refuse(why: str) -> typer.BadParameter:
        return typer.BadParameter(f"{spec!r}: {why}.", param_hint=f"--{option}")

    source, colon, name = spec.rpartition(":")
    if not (colon and source and name):
        raise refuse("write module:function or file.py:function")
    try:
        module = _from_file(Path(source)) if source.endswith(".py") else _from_path(source)
    except FileNotFoundError:
        raise refuse(f"there is no file {source}") from None
    except Exception as error:  # whatever the user's module raises when it is imported
        raise refuse(f"importing it raised {type(error).__name__}: {error}") from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise refuse(f"{source} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise refuse(f"{name} is a {type(found).__name__}, not a function")
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look a module up by name
    sys.path.append(str(path.parent.resolve()))  # so that it can import what lies beside it
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)
