"""Metrics as TensorBoard's event files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesft.errors import RunError
from bayesft.fitting.info import StepInfo
from bayesft.sharding import is_writer
from bayesft.track.config import config_of
from bayesft.track.folder import require_folder
from bayesft.track.lines import warn_unwritten

VERSION = "brain.Event:2"
TRY_EVERY = 100
"""Where a file could not be written, another is tried every so many steps."""
_COUNTER = itertools.count()
"""Files are named by the second, the process and this: none takes the place of another."""


class Events:
    """One event file, written at once: tensorboardX's own writer has a queue that nobody empties
    any more once its thread has met a full disk."""

    def __init__(self, folder: Path, purge_step: int):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        place = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_COUNTER)}"
        messages: Any = event_pb2  # made when it is imported: type checkers see no members
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{place}"))
        self._event, log = messages.Event, messages.SessionLog
        # What a killed process wrote past the checkpoint that the run goes on from is hidden.
        self._write(purge_step, file_version=VERSION)
        self._write(purge_step, session_log=log(status=log.START))

    def text(self, name: str, text: str, step: int) -> None:
        from tensorboardX import summary

        self._write(step, summary=summary.text(name, text))

    def scalars(self, scalars: Mapping[str, float], step: int) -> None:
        from tensorboardX import summary

        for name, value in scalars.items():
            self._write(step, summary=summary.scalar(name, value))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **what: Any) -> None:
        event = self._event(step=step, wall_time=time.time(), **what)
        self._file.write(event.SerializeToString())


class TensorBoard:
    """A callback of `bft.fit` that writes event files."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self.folder, self.config = folder, config
        self._events: Events | None = None
        self._failing = False

    def __call__(self, info: StepInfo) -> None:
        if not is_writer() or (self._failing and not info.due(TRY_EVERY)):
            return
        try:
            self._write(info)
        except OSError as error:
            if not self._failing:
                warn_unwritten(self.folder, error)
            self._failing = True
            self._close()  # it may end in half an event: what follows goes into another
            return
        self._failing = False
        if info.last:
            self._close()

    def _write(self, info: StepInfo) -> None:
        if self._events is None:
            self._events = Events(self.folder, info.step)
            if self.config:
                text = json.dumps(self.config, indent=4, ensure_ascii=False)
                self._events.text("config", "    " + text.replace("\n", "\n    "), info.step)
        self._events.scalars(info.scalars, info.step)

    def _close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):
                events.close()


def tensorboard(folder: str | Path, config: Mapping[str, Any] | None = None) -> TensorBoard:
    """A callback that writes every metric of every step for `tensorboard --logdir FOLDER`.

    Raises RunError where the folder cannot be written, the config is none, or tensorboardX is not
    installed. Where a full disk shows during the fit, a RunWarning says so and the fit goes on.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise RunError(
            "TensorBoard's files cannot be written: tensorboardX does not import.",
            cause="it is an extra of bayesft that is not installed.",
            remedy="pip install 'bayesft[track]'.",
        ) from error
    found = config_of(config)
    return TensorBoard(require_folder(folder), found)
