"""Folders that trackers write to, tried before the fit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bayesft.errors import RunError
from bayesft.track.config import text


def require_folder(folder: str | Path, files: Sequence[str] = ()) -> Path:
    """Make the folder and try it and those files that it has already; its path.

    Raises RunError where one of them cannot be written, and for what is no path.
    """
    what = f"The folder {folder}"
    try:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        for what in map(str, map(path.joinpath, files)):
            if os.path.lexists(what):
                with open(what, "ab"):
                    pass
    except (OSError, TypeError, ValueError) as error:
        raise RunError(
            f"{text(what)} cannot be written: {getattr(error, 'strerror', None) or error}.",
            cause="a file or folder of that name, a place without permission, or no path at all.",
            remedy="name another folder.",
        ) from error
    return path
