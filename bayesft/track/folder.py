"""Folders that trackers write to, tried before the fit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bayesft.errors import RunError


def require_folder(folder: Path, files: Sequence[str] = ()) -> None:
    """Make the folder and try it and those files that it has already.

    Raises RunError where one of them cannot be written.
    """
    what = f"The folder {folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for what in map(str, map(folder.joinpath, files)):
            if os.path.lexists(what):
                with open(what, "ab"):
                    pass
    except OSError as error:
        raise RunError(
            f"{what} cannot be written: {error.strerror}.",
            cause="a file or folder of that name, or a place without permission.",
            remedy="name another folder.",
        ) from error
