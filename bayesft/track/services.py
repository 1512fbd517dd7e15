"""Metrics sent to Weights & Biases and to trackio, which has its interface."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from bayesft.errors import RunError
from bayesft.fitting.info import StepInfo
from bayesft.sharding import is_writer
from bayesft.track.config import config_of


class Service:
    """A callback of `bft.fit` that logs to a service's run and finishes it with the last step."""

    def __init__(self, run: Any):
        self.run = run

    def __call__(self, info: StepInfo) -> None:
        if self.run is None:
            return
        self.run.log(info.scalars, step=info.step)
        if info.last:
            self.run.finish()


def weights_and_biases(
    project: str, name: str | None = None, config: Mapping[str, Any] | None = None, **options: Any
) -> Service:
    """A callback that logs every metric to a new run of Weights & Biases, in `.run`.

    `options` go to `wandb.init`: `mode="offline"` keeps the run on this machine, `id=` and
    `resume="allow"` go on with an older one (steps that it has already are ignored there).
    Raises RunError where wandb is not installed or the config is none, and what `wandb.init`
    raises.
    """
    return _service("wandb", project, name, config, options)


def trackio(
    project: str, name: str | None = None, config: Mapping[str, Any] | None = None, **options: Any
) -> Service:
    """A callback that logs every metric to a new run of trackio, in `.run`.

    `options` go to `trackio.init`: `space_id=` sends the run to a Space, `resume="allow"` goes on
    with the one of that name. Raises RunError where trackio is not installed or the config is none.
    """
    return _service("trackio", project, name, config, options)


def _service(module: str, project: str, name: Any, config: Any, options: dict[str, Any]) -> Service:
    found = config_of(config)
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        raise RunError(
            f"Nothing can be sent to {module}: it does not import.",
            cause="bayesft does not install it.",
            remedy=f"pip install {module}.",
        ) from error
    if not is_writer():
        return Service(None)
    return Service(library.init(project=project, name=name, config=found, **options))
