"""A fit that ends early goes on to the same bits, whatever happened to its folder meanwhile."""

import errno
import json
import os
import pickle
import threading

import jax
import numpy as np
import optax
import pytest
from fitting.tiny import LOO, count, fit, language, outcome

import bayesft as bft
from bayesft.errors import CheckpointError, CheckpointWarning
from bayesft.fitting.settings import settings_of
from bayesft.io import archive, sealed

MODES = {
    "in order": {},
    "one step ahead": {"overlap": True},
    "ahead, with states": {"overlap": True, "estimator": bft.estimators.moving_average()},
    "two steps a recording": {"steps_per_recording": 2, "estimator": LOO},
}


@pytest.fixture(scope="module")
def whole():
    """What a fit of 6 steps gives that nothing interrupts."""
    return outcome(fit(6))


@pytest.fixture
def folder(tmp_path):
    """The folder of a fit of 4 steps, with the states after steps 2, 3 and 4."""
    fit(4, checkpoint=bft.io.checkpoint(tmp_path / "run", every=1))
    return tmp_path / "run"


def resumed(folder, num_steps=6, **options):
    return fit(num_steps, checkpoint=bft.io.checkpoint(folder, every=1), **options)


@pytest.mark.parametrize("mode", MODES)
def test_a_fit_goes_on_to_the_same_bits(mode, tmp_path):
    options = MODES[mode]
    folder = bft.io.checkpoint(tmp_path, every=2)
    fit(3, checkpoint=folder, **options)
    fitted = fit(6, checkpoint=folder, **options)
    np.testing.assert_array_equal(outcome(fitted), outcome(fit(6, **options)))
    assert [info.step for info in fitted.history] == list(range(6))
    assert {info.num_steps for info in fitted.history} == {6}
    again = fit(6, checkpoint=folder, **options)  # nothing is left to do
    np.testing.assert_array_equal(outcome(again), outcome(fitted))


def test_a_state_that_lacks_a_part_is_noticed(tmp_path, whole, monkeypatch):
    """Planted bug: the optimiser's moments do not come back."""
    restore = archive.FolderArchive.restore

    def forgetful(self, like, settings):
        state, history = restore(self, like, settings)
        return type(state)(**{**vars(state), "optimizer": like.optimizer}), history

    fit(3, checkpoint=bft.io.checkpoint(tmp_path, every=1))
    monkeypatch.setattr(archive.FolderArchive, "restore", forgetful)
    assert (outcome(resumed(tmp_path)) != whole).any()


def test_the_newest_states_are_kept(folder):
    found = sorted(path.name for path in folder.iterdir())
    steps = [f"step-{step:08d}{end}" for step in (2, 3, 4) for end in ("", ".json")]
    assert found == ["lock", *steps]


def largest_file(folder, step):
    files = [path for path in (folder / f"step-{step:08d}").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def harm(folder, how):
    if how == "a flipped bit":
        flip(largest_file(folder, 4))
    elif how == "a cut file":
        path = largest_file(folder, 4)
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "a missing file":
        largest_file(folder, 4).unlink()
    elif how == "another history":
        path = folder / "step-00000004" / "history.jsonl"
        path.write_text(path.read_text().replace('"value": -', '"value": ', 1))
    else:
        flip(folder / "step-00000004.json")


@pytest.mark.parametrize(
    "how",
    ["a flipped bit", "a cut file", "a missing file", "another history", "a flipped bit of JSON"],
)
def test_a_damaged_state_is_set_aside_for_the_one_before(how, folder, whole):
    harm(folder, how)
    with pytest.warns(CheckpointWarning, match="after step 4 .* damaged .* step 3 is used"):
        fitted = resumed(folder)
    np.testing.assert_array_equal(outcome(fitted), whole)
    assert (folder / "damaged-step-00000004").is_dir()


@pytest.mark.parametrize("digests", ["checked", "ignored"])
def test_a_flipped_bit_of_an_array_is_noticed_by_its_digest(digests, tmp_path, monkeypatch):
    """Planted bug: without digests Orbax reads the array as it is, and it is another one."""
    if digests == "ignored":
        monkeypatch.setattr(sealed, "digests", lambda path: {})
    states = [{"w": jax.random.normal(jax.random.key(i), (64, 64))} for i in (0, 1)]
    with bft.io.checkpoint(tmp_path).opened() as opened:
        for step, state in enumerate(states):
            opened.save(step, state, {}, "")
        opened.wait()
        flip(largest_file(tmp_path, 1))
        if digests == "ignored":
            found, _ = opened.restore(states[0], {})
            assert (found["w"] != states[1]["w"]).any() and (found["w"] != states[0]["w"]).any()
        else:
            with pytest.warns(CheckpointWarning, match="damaged"):
                found, _ = opened.restore(states[0], {})
            np.testing.assert_array_equal(found["w"], states[0]["w"])


def test_what_a_killed_save_leaves_is_removed(folder, whole):
    (folder / "step-00000004.json").rename(folder / "step-00000004.json.new")
    (folder / "step-00000005.orbax-checkpoint-tmp").mkdir()
    with pytest.warns(CheckpointWarning, match="not finished") as said:
        fitted = resumed(folder)
    assert len([w for w in said if w.category is CheckpointWarning]) == 2
    np.testing.assert_array_equal(outcome(fitted), whole)


@pytest.mark.parametrize(
    ("name", "error"), [("digests", PermissionError("denied")), ("read_json", MemoryError("full"))]
)
def test_a_state_that_cannot_be_read_is_not_called_damaged(name, error, folder, whole, monkeypatch):
    def fail(path):
        raise error

    with monkeypatch.context() as broken, pytest.raises(type(error)):
        broken.setattr(sealed, name, fail)
        resumed(folder)
    np.testing.assert_array_equal(outcome(resumed(folder)), whole)
    assert not list(folder.glob("damaged*"))


def test_a_folder_that_may_not_be_listed_is_not_called_damaged(tmp_path, monkeypatch):
    """pathlib's rglob would find it empty."""
    (tmp_path / "inner").mkdir()
    scandir = os.scandir

    def refuse(path):
        if "inner" in str(path):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        sealed.digests(tmp_path)


def test_what_writes_is_closed(folder):
    """No thread of Orbax is left; a writer that stays open has one."""
    before = set(threading.enumerate())
    resumed(folder)
    assert set(threading.enumerate()) <= before


def test_nothing_whole_is_an_error_every_time(folder):
    for step in (2, 3, 4):
        flip(largest_file(folder, step))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="None of the states"):
            resumed(folder)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"key": 1}, r"key was \[0, 0\] and is \[0, 1\] now"),
        ({"overlap": True}, "overlap was False and is True"),
        ({"steps_per_recording": 2}, "steps_per_recording was 1 and is 2"),
        ({"fn": lambda completions: [0.0 for _ in completions]}, r"1 · count \(1\).*<lambda>"),
        ({"num_steps": 3}, "4 steps, and num_steps=3"),
    ],
)
def test_states_of_another_fit_are_refused(other, said, folder):
    with pytest.raises(CheckpointError, match=said):
        resumed(folder, **other)


def test_another_penalty_or_other_completions_are_another_fit():
    def penalised(penalty):
        return bft.evidence.constraint(lambda completions: [True for _ in completions], penalty)

    key = jax.random.key(0)
    lm = language()
    data = lambda *rows: bft.empirical([list(row) for row in rows], max_new_tokens=3).bind(lm)
    targets = [
        bft.Target(lm, penalised(-1.0), max_new_tokens=3),
        bft.Target(lm, penalised(-2.0), max_new_tokens=3),
        data((0, 1), (1,)),
        data((0, 1), (0,)),
    ]
    settings = [settings_of(key, target) for target in targets]
    assert settings[0]["evidence"] != settings[1]["evidence"]
    assert settings[2]["completions"] != settings[3]["completions"]
    assert settings[2] == settings_of(key, data((0, 1), (1,)))


def test_states_of_another_optimiser_are_refused(folder):
    with bft.io.checkpoint(folder).opened() as opened:
        like = {"a": np.zeros(2)}
        about = json.loads((folder / "step-00000004.json").read_text())["about"]
        with pytest.raises(CheckpointError, match=r"was float32.* and is absent now|was absent"):
            opened.restore(like, about["settings"])


def test_one_run_at_a_time(folder):
    held = bft.io.checkpoint(folder)
    with held.opened(), pytest.raises(CheckpointError, match=r"in use by process \d+ on"):
        resumed(folder)
    resumed(folder)


def test_a_save_that_fails_costs_a_state_and_nothing_else(tmp_path, whole, monkeypatch):
    """Said at the next step; tests/fitting/test_kill.py fills a disk."""
    digests = sealed.digests

    def full(folder):
        if folder.name.endswith("3"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return digests(folder)

    monkeypatch.setattr(sealed, "digests", full)
    with pytest.warns(CheckpointWarning, match="after step 3 is not saved .*No space left"):
        fitted = resumed(tmp_path)
    np.testing.assert_array_equal(outcome(fitted), whole)
    steps = sorted(path.name for path in tmp_path.glob("step*"))
    assert steps == [f"step-0000000{step}{end}" for step in (4, 5, 6) for end in ("", ".json")]


def test_an_error_leaves_the_last_whole_state(tmp_path, whole):
    calls = []

    def dies(completion_ids):
        calls.append(0)
        if len(calls) == 4:
            raise OSError("the service is gone")
        return count(completion_ids)

    dies.__name__ = "count"
    with pytest.raises(bft.errors.EvidenceError, match="OSError") as caught:
        fit(6, fn=dies, checkpoint=bft.io.checkpoint(tmp_path))
    assert "The state after 3 steps" in caught.value.__notes__[-1]
    np.testing.assert_array_equal(outcome(resumed(tmp_path)), whole)


def test_reading_runs_no_code(folder, whole, monkeypatch):
    def refuse(*_):
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    np.testing.assert_array_equal(outcome(resumed(folder)), whole)


def test_odd_leaves_survive(tmp_path):
    """Keys, empty arrays, half precision, flags and the states of optimisers."""
    state = {
        "key": jax.random.split(jax.random.key(3), 2),
        "empty": np.zeros((2, 0), np.int32),
        "half": jax.numpy.arange(3.0, dtype="bfloat16"),
        "flag": jax.numpy.array(True),
        "optimizer": optax.adamw(1e-3).init({"w": jax.numpy.ones(2)}),
    }
    folder = bft.io.checkpoint(tmp_path)
    with folder.opened() as opened:
        opened.save(1, state, {"a": 1}, "{}\n{}")
        opened.wait()
        other = jax.tree.map(jax.numpy.zeros_like, state | {"key": 0})
        other["key"] = jax.random.split(jax.random.key(4), 2)
        found, history = opened.restore(other, {"a": 1})
    jax.tree.map(np.testing.assert_array_equal, found | {"key": 0}, state | {"key": 0})
    np.testing.assert_array_equal(*(jax.random.key_data(s["key"]) for s in (found, state)))
    assert history == "{}\n{}"


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"pass bft\.io\.checkpoint"):
        fit(1, checkpoint=tmp_path)
    for options, said in (({"every": 0}, "every=0 is not a count"), ({"keep": 1}, "fall back")):
        with pytest.raises(CheckpointError, match=said):
            bft.io.checkpoint(tmp_path, **options)
