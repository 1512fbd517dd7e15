"""A fit whose states two processes keep together: it is killed, ended, refused and damaged."""

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

import bayesft as bft
from bayesft.errors import CheckpointError, FitInterrupted
from bayesft.io import archive

NUM_STEPS = 5
VOCAB = 64
"""The least of which a table is split."""
OPTIMIZER = optax.adam(0.05)
ESTIMATOR = bft.estimators.moving_average()
"""One that learns."""

type Results = dict[str, np.ndarray]


def even(completion_ids: list[list[int]]) -> list[float]:
    return [float(sum(token % 2 == 0 for token in row)) for row in completion_ids]


def _fit(mesh, checkpoint=None, callback=lambda info: None, num_steps=NUM_STEPS) -> bft.Fitted:
    logits = jax.random.normal(jax.random.key(3), (VOCAB + 1, VOCAB))
    rows = jax.nn.log_softmax(logits)
    prior = bft.priors.markov(rows[0], rows[1:], eos=0)
    evidence = bft.evidence.reward(even, beta=1.0)
    target = bft.Target(prior, evidence, prompts=[[1], [2], [3], [4]], max_new_tokens=3)
    return bft.fit(
        target,
        bft.trainable(prior),
        objective=bft.objectives.reverse_kl,
        estimator=ESTIMATOR,
        optimizer=OPTIMIZER,
        num_steps=num_steps,
        prompts_per_step=4,
        key=jax.random.key(5),
        callbacks=[callback],
        checkpoint=checkpoint,
        mesh=mesh,
    )


def _outcome(fitted: bft.Fitted) -> np.ndarray:
    """Parameters, and the objective and gradient norm of every step."""
    leaves = [bft.sharding.to_host(leaf).ravel() for leaf in jax.tree.leaves(fitted.guide.params)]
    norms = [info.metrics["grad_norm"] for info in fitted.history]
    return np.concatenate([*leaves, fitted.values, norms])


def _checkpoint(name: str):
    return bft.io.checkpoint(Path(os.environ["BAYESFT_FOLDER"]) / name, every=1)


def _mesh():
    """Tables are split over the devices of both processes."""
    return jax.make_mesh((jax.device_count(),), ("fsdp",))


def killed(_) -> Results:
    """In the third step, when the state after two of them is whole."""

    def callback(info):
        if info.step == 2:
            multihost_utils.sync_global_devices("here")
            time.sleep(0.5)  # until the other has left, too
            os.kill(os.getpid(), signal.SIGKILL)

    _fit(_mesh(), _checkpoint("killed"), callback)
    return {}


def kept(_) -> Results:
    mesh, steps = _mesh(), []
    found = {"whole": _outcome(_fit(mesh))}
    fitted = _fit(mesh, _checkpoint("killed"), lambda info: steps.append(info.step))
    found["killed"], found["killed/steps"] = _outcome(fitted), np.array(steps)
    leaves = jax.tree.leaves(fitted.guide.params)
    found["split"] = np.array([not leaf.is_fully_replicated for leaf in leaves])
    return found | _ended(mesh) | _refused(mesh)


def _ended(mesh) -> Results:
    """By SIGTERM in one process, by an error in both; then with the newest state damaged."""
    checkpoint, steps = _checkpoint("ended"), []

    def terminate(info):
        if info.step == 1 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def fail(info):
        if info.step == 3:
            raise OSError("the tracker is gone")

    with pytest.raises(FitInterrupted) as interrupted:
        _fit(mesh, checkpoint, terminate)
    with pytest.raises(OSError) as failed:
        _fit(mesh, checkpoint, fail)
    if jax.process_index() == 0:
        _damage(checkpoint.folder / "step-00000004")
    multihost_utils.sync_global_devices("damaged")
    mended = _fit(mesh, checkpoint, lambda info: steps.append(info.step))
    return {
        "interrupted": np.array(interrupted.value.happened),
        "failed": np.array(failed.value.__notes__[-1]),
        "mended": _outcome(mended),
        "mended/steps": np.array(steps),
        "files": np.array(sorted(path.name for path in checkpoint.folder.iterdir())),
    }


def _damage(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def _refused(mesh) -> Results:
    """What process 0 is refused, both are; a process that comes alone does not wait for ever."""
    found, checkpoint = {}, _checkpoint("ended")
    with (checkpoint.folder / "lock").open("a+") as lock:
        if jax.process_index() == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
        multihost_utils.sync_global_devices("locked")
        found["in use"] = _refusal(lambda: _fit(mesh, checkpoint))
        multihost_utils.sync_global_devices("refused")
    found["fewer"] = _refusal(lambda: _fit(mesh, checkpoint, num_steps=1))
    found["alone"] = _refusal(lambda: _fit(None, checkpoint))
    archive.SECONDS = 0.2
    with bft.sharding.on(mesh), checkpoint.opened() as opened:
        found["met"] = np.array([opened.meet(f"here, {jax.process_index()}"), opened.meet("here")])
    return found


def _refusal(act: Callable[[], object]) -> np.ndarray:
    with pytest.raises(CheckpointError) as refused:
        act()
    return np.array(refused.value.happened)


CASES = {case.__name__: case for case in (killed, kept)}
