"""Metrics as TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesft.errors import RunError
from bayesft.fitting.info import StepInfo
from bayesft.sharding import is_writer
from bayesft.track.run import described


class TensorBoard:
    """A callback of `bft.fit` that writes event files."""

    def __init__(self, folder: Path, config: Mapping[str, Any], make: Any):
        self.folder, self.config, self._make = folder, config, make
        self._writer: Any = None

    def __call__(self, info: StepInfo) -> None:
        if not is_writer():
            return
        if self._writer is None:
            # What a killed process wrote past the checkpoint that the run goes on from is hidden.
            self._writer = self._make(str(self.folder), purge_step=info.step)
            if self.config:
                text = json.dumps(described(self.config), indent=4, ensure_ascii=False)
                self._writer.add_text("config", "    " + text.replace("\n", "\n    "), info.step)
        for name, value in info.scalars.items():
            self._writer.add_scalar(name, value, info.step)
        self._writer.flush()
        if info.last:
            self._writer.close()
            self._writer = None


def tensorboard(folder: str | Path, config: Mapping[str, Any] | None = None) -> TensorBoard:
    """A callback that writes every metric of every step for `tensorboard --logdir FOLDER`.

    Raises RunError where the folder cannot be written, or tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise RunError(
            "TensorBoard's files cannot be written: tensorboardX does not import.",
            cause="it is an extra of bayesft that is not installed.",
            remedy="pip install 'bayesft[track]'.",
        ) from error
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"The folder {folder} cannot be written: {error.strerror}.",
            remedy="name another folder.",
        ) from error
    return TensorBoard(folder, config or {}, SummaryWriter)
