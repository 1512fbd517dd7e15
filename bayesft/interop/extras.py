"""The libraries of bayesft's extras, imported when interop first needs one."""

from __future__ import annotations

import importlib
from types import ModuleType

from bayesft.errors import InteropError


def load(module: str, extra: str) -> ModuleType:
    """The module; raises InteropError naming the extra where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InteropError(
            f"bft.interop.{extra} needs the package {module.split('.')[0]}, which cannot be "
            f"imported: {error}.",
            cause="only the core of bayesft is installed.",
            remedy=f"pip install 'bayesft[{extra}]'",
        ) from error
