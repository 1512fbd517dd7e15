"""What cannot be written does not end a fit, tears no line, and is refused before it where it can.

The disk is full where the limit on the size of files is reached.
"""

import argparse
import contextlib
import dataclasses
import json
import resource
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from track.test_trackers import events
from track.watched import TARGET

import bayesft as bft
from bayesft import track
from bayesft.errors import RunError, RunWarning, SamplerError, TargetError
from bayesft.report.run import run_page
from bayesft.track.config import config_of
from bayesft.track.lines import Lines, read_lines


@contextlib.contextmanager
def full_beyond(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def step(number, last=False, **scalars):
    return types.SimpleNamespace(
        step=number,
        last=last,
        due=lambda every: number % every == 0,
        completions=lambda num: [],
        scalars={"objective": 1.0, **scalars},
    )


@pytest.mark.parametrize("room", [0, 5])
def test_a_line_is_whole_or_left_out(tmp_path, room):
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    lines.append({"step": 0})
    before = path.read_bytes()
    with full_beyond(len(before) + room):
        with pytest.warns(RunWarning, match=r"metrics\.jsonl cannot be written; the fit goes on"):
            lines.append({"step": 1})
        lines.append({"step": 2})  # said once
        assert path.read_bytes() == before
    lines.append({"step": 3})
    assert [record["step"] for record in read_lines(path)] == [0, 3]


def test_a_full_disk_ends_no_run(tmp_path):
    run = track.run(tmp_path, {"beta": 1})
    with full_beyond(10), pytest.warns(RunWarning) as said:
        run(step(0))
        run(step(1))
    assert len(said) == 2, "one for each file"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    run(step(2))
    found = track.read_run(tmp_path)
    assert [record["step"] for record in found.metrics] == [2] and found.config == {"beta": 1}
    # A configuration of before is not lost where there is no room for the new one.
    with full_beyond(10), pytest.warns(RunWarning):
        track.run(tmp_path, {"beta": 2})(step(3))
    assert track.read_run(tmp_path).config == {"beta": 1}


def test_a_folder_that_is_removed_ends_no_run(tmp_path):
    run = track.run(tmp_path / "run")
    (tmp_path / "run").rmdir()
    with pytest.warns(RunWarning):
        run(step(0))


def test_a_metric_called_step_does_not_hide_the_step(tmp_path):
    track.run(tmp_path)(step(4, step=0.5, time=0.5))
    (record,) = track.read_run(tmp_path).metrics
    assert record["step"] == 4 and record["time"] > 1e9


def test_a_full_disk_ends_no_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    board = track.tensorboard(tmp_path)
    board(step(0))
    (size,) = (path.stat().st_size for path in tmp_path.iterdir())
    with full_beyond(size + 5), pytest.warns(RunWarning) as said:
        board(step(1))
        board(step(2))
    assert len(said) == 1
    board(step(100, last=True))
    later = max(tmp_path.iterdir(), key=lambda path: int(path.suffix[1:]))
    later.rename((tmp_path / "later").mkdir() or tmp_path / "later" / later.name)
    assert events(tmp_path / "later")["objective"] == {100: 1.0}


def test_event_files_of_one_second_stay_apart(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for number in range(2):
        track.tensorboard(tmp_path)(step(number, last=True))
    assert len([*tmp_path.iterdir()]) == 2
    assert events(tmp_path)["objective"] == {0: 1.0, 1: 1.0}


# ---- refused before the fit ----------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder that nobody can write to")
@pytest.mark.parametrize("make", [track.run, track.tensorboard])
def test_a_folder_that_nobody_can_write_to_is_refused(make):
    with pytest.raises(RunError, match="The folder /proc cannot be written"):
        make("/proc")


@pytest.mark.parametrize("name", ["metrics.jsonl", "completions.jsonl", "config.json"])
def test_a_folder_in_a_files_place_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"{name} cannot be written"):
        track.run(tmp_path)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, float("nan"), "0.9"])
def test_a_level_is_a_probability(level):
    with pytest.raises(SamplerError, match="not between 0 and 1"):
        track.certificates(TARGET, 1, jax.random.key(0), level=level)


@pytest.mark.parametrize("folder", ["a\0b", "\ud83d", 3, None])
def test_what_is_no_path_is_refused(folder):
    for make in (track.run, track.tensorboard):
        with pytest.raises(RunError, match="cannot be written"):
            make(folder)


@pytest.mark.parametrize("folder", [3, None, "x" * 300])
def test_no_run_is_read_from_what_is_no_path(folder):
    with pytest.raises(RunError, match="cannot be looked into"):
        track.read_run(folder)


@pytest.mark.parametrize("value", [-1, 2.5, True, "4", None])
def test_how_often_and_how_many_are_counts(tmp_path, value):
    for make in (
        lambda: track.run(tmp_path, completions_every=value),
        lambda: track.run(tmp_path, num_completions=value),
        lambda: track.completions(every=value),
        lambda: track.completions(num=value),
        lambda: track.certificates(TARGET, value, jax.random.key(0)),
    ):
        with pytest.raises(RunError, match="is not a count of at least"):
            make()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("target", "key", "error", "said"),
    [
        (bft.empirical([[0]]), jax.random.key(0), TargetError, "density, not Empirical"),
        (None, jax.random.key(0), TargetError, "density, not NoneType"),
        (TARGET, jax.random.PRNGKey(0), SamplerError, "single typed JAX key"),
        (TARGET, 0, SamplerError, "single typed JAX key"),
    ],
)
def test_certificates_are_checked_when_they_are_declared(target, key, error, said):
    with pytest.raises(error, match=said):
        track.certificates(target, 1, key)


def test_a_stream_is_no_console():
    with pytest.raises(RunError, match="no console"):
        track.completions(console=sys.stderr)


# ---- configurations ------------------------------------------------------------------------------


@dataclasses.dataclass
class Settings:
    beta: float = 0.5


class Broken:
    shape = ()

    def item(self):
        return self

    def __repr__(self):
        raise RuntimeError


def test_a_config_has_names():
    expected = {"beta": 0.5}
    for config in (expected, Settings(), argparse.Namespace(beta=0.5)):
        assert config_of(config) == expected
    assert config_of(None) == {}
    for config in ([1], "beta", 3, Settings):
        for make in (track.run, track.tensorboard):
            with pytest.raises(RunError, match="no mapping"):
                make("/no/such/folder", config)


def test_a_config_of_any_values_is_written_and_shown(tmp_path):
    itself: dict[str, object] = {"beta": 1}
    itself["me"] = itself
    deleted = jnp.zeros(())
    deleted.delete()
    config = {
        "key": jax.random.key(0),
        "text": "\ud83d",
        "\ud83d": 1,
        "itself": itself,
        "broken": Broken(),
        "deleted": deleted,
        "large": 10**5000,
        "long": np.longdouble(0.5),
    }
    run = track.run(tmp_path, config)
    itself["beta"] = 2  # what counts is what it was when the callback was made
    run(step(0))
    found = track.read_run(tmp_path)
    assert found.config["text"] == "\\ud83d" and "fry" in found.config["key"]
    assert found.config["itself"]["beta"] == 1 and found.config["broken"] == "<Broken>"
    run_page(found).encode()
    json.dumps(found.config, allow_nan=False)


def test_lone_surrogates_end_no_run(tmp_path):
    Lines(tmp_path / "a.jsonl").append({"step": 0, "\ud83d": "\ud83d"})
    assert read_lines(tmp_path / "a.jsonl") == [{"step": 0, "\\ud83d": "\\ud83d"}]
