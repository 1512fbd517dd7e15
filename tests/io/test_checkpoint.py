"""A folder of states that is shared, full, locked or no folder: nothing of others' is touched."""

import errno
import fcntl
import hashlib
import json
import resource
import shutil
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import bayesft as bft
from bayesft.errors import CheckpointError, CheckpointWarning
from bayesft.io.sealed import States, plain

STATE = {"w": np.arange(3.0)}
FOREIGN = ["step-1000", "step-00000002-backup", "step-00000002.orbax-checkpoint-tmp-notes"]
FOREIGN_FILES = ["step-500.pt", "step-notes.txt", "step-7.json", "step-00000009.json.txt"]


def save(folder: Path, *steps: int, settings: bft.base.Notes | None = None) -> None:
    with bft.io.checkpoint(folder, keep=2).opened() as opened:
        for step in steps:
            opened.save(step, STATE, settings or {}, "")


def restore(folder: Path, settings: bft.base.Notes | None = None) -> list[str]:
    """What is warned of while the newest state is read."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CheckpointWarning)
        with bft.io.checkpoint(folder).opened() as opened:
            opened.restore(STATE, settings or {})
    return [str(each.message) for each in said if each.category is CheckpointWarning]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def own(*steps: int) -> set[str]:
    return {f"step-0000000{step}{end}" for step in steps for end in ("", ".json")}


def test_what_is_of_others_is_left_alone(tmp_path: Path):
    for name in FOREIGN:
        (tmp_path / name).mkdir()
    for name in FOREIGN_FILES:
        (tmp_path / name).write_text("theirs")
    assert restore(tmp_path) == []
    save(tmp_path, 2, 3, 4)  # the state after step 2 is dropped, its "backup" is not
    assert restore(tmp_path) == []
    assert names(tmp_path) == {"lock", *FOREIGN, *FOREIGN_FILES, *own(3, 4)}


def test_a_fit_that_is_refused_touches_nothing(tmp_path: Path):
    save(tmp_path, 2, settings={"key": 0})
    (tmp_path / "step-00000005").mkdir()
    (tmp_path / "step-00000006.orbax-checkpoint-tmp").mkdir()
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match="of another fit"):
        restore(tmp_path, {"key": 1})
    assert names(tmp_path) == before


@pytest.mark.parametrize("older", [True, False])
def test_arrays_without_a_seal_are_set_aside(older: bool, tmp_path: Path):
    save(tmp_path, *([2] if older else []), 4)
    (tmp_path / "step-00000004.json").unlink()
    arrays = {path.name for path in (tmp_path / "step-00000004").iterdir()}
    (said,) = restore(tmp_path)
    assert "step-00000004 in " in said and "set aside as unsealed-step-00000004;" in said
    assert ("after step 2 is used" if older else "starts at its first step") in said
    assert names(tmp_path / "unsealed-step-00000004") == arrays

    (tmp_path / "step-00000004").mkdir()  # the second time, nothing is replaced
    assert "unsealed-2-step-00000004;" in restore(tmp_path)[0]
    assert names(tmp_path / "unsealed-step-00000004") == arrays


def test_what_was_set_aside_as_damaged_stays(tmp_path: Path):
    save(tmp_path, 2)
    aside = [f"damaged{again}-step-00000004{end}" for again in ("", "-2") for end in ("", ".json")]
    for _ in range(2):
        save(tmp_path, 4)
        (tmp_path / "step-00000004.json").write_text("{")
        assert len(restore(tmp_path)) == 1
    assert set(aside) <= names(tmp_path)


def test_a_state_that_was_being_removed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 2, 4)
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", Mock(side_effect=OSError("killed")))
        save(tmp_path, 6)  # which drops the state after step 2
    (said,) = restore(tmp_path)
    assert "step-00000002" in said and "is removed; the state after step 6 is used" in said
    assert names(tmp_path) == {"lock", *own(4, 6)}


def test_a_seal_that_says_nothing_is_damage(tmp_path: Path):
    save(tmp_path, 2, 4)
    (tmp_path / "step-00000004.json").write_text(
        json.dumps({"about": {}, "sha256": hashlib.sha256(b"{}").hexdigest()})
    )
    (said,) = restore(tmp_path)
    assert "damaged and set aside" in said and "was changed, added or removed" in said


def test_an_unfinished_state_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "step-00000006.orbax-checkpoint-tmp").mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(States, "seal", lambda *_: None)
        save(tmp_path, 8)
    said = restore(tmp_path)
    assert len(said) == 2
    assert all("was not finished and is removed; the fit starts at its" in line for line in said)
    assert names(tmp_path) == {"lock"}


def test_a_lock_whose_text_cannot_be_written_locks(tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file can grow: a full disk
    try:
        with (
            bft.io.checkpoint(tmp_path).opened(),
            pytest.raises(CheckpointError, match="in use by another run"),
            bft.io.checkpoint(tmp_path).opened(),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "lock").read_text() == ""


def test_a_file_system_without_locks_is_not_called_in_use(tmp_path: Path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be locked .*No locks available") as raised:
        save(tmp_path, 1)
    assert "in use" not in str(raised.value)


@pytest.mark.parametrize("where", ["a file", "under a file", "lock is a folder", "read-only"])
def test_a_folder_that_cannot_be_one_is_refused(where: str, tmp_path: Path, monkeypatch):
    folder = tmp_path / "states"
    if where == "a file":
        folder.write_text("")
    elif where == "under a file":
        folder.write_text("")
        folder /= "run"
    elif where == "lock is a folder":
        (folder / "lock").mkdir(parents=True)
    else:  # root, as whom tests may run, can write everywhere

        def refuse(*args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

        monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match="cannot hold the states of a fit"):
        save(folder, 1)


def test_settings_that_name_no_folder_or_number_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="names no folder"):
        bft.io.checkpoint("")
    assert bft.io.checkpoint(".").folder == Path.cwd()
    for options in ({"every": 2.5}, {"every": 2.0}, {"keep": 2.5}, {"every": "2"}, {"every": True}):
        with pytest.raises(CheckpointError, match="is not a count of at least"):
            bft.io.checkpoint(tmp_path, **options)
    assert type(bft.io.checkpoint(tmp_path, every=np.int64(2)).every) is int


def test_a_seal_holds_what_was_said_in_its_order(tmp_path: Path):
    about = {"b": np.float32(0.1), "a": {2: [float("inf"), None], 10: "é"}}
    (tmp_path / "step-00000001").mkdir()
    states = States(tmp_path)
    states.seal(1, about, "{}\n{}")
    assert states.steps() == [1] and states.history(1) == "{}\n{}"
    said = states.verified(1)
    assert list(said.pop("files")) == ["history.jsonl"]
    assert json.dumps(said) == json.dumps(plain(about))
