"""The libraries of the extra `grammar`, imported when evidence first needs one."""

from __future__ import annotations

import importlib
from types import ModuleType

from bayesft.errors import EvidenceError


def load(module: str, purpose: str) -> ModuleType:
    """The module; raises EvidenceError saying how to install it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EvidenceError(
            f"{purpose} needs the package {module}, which cannot be imported: {error}.",
            cause="only the core of bayesft is installed.",
            remedy="pip install 'bayesft[grammar]'",
        ) from error
