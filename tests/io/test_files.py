"""Folders and tensors: complete or not at all, the same bits back."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bayesft.errors import ModelError
from bayesft.io.files import read_json, require_folder, to_json, write_folder
from bayesft.io.tensors import open_tensors, write_tensors


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path):
    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "out", fail, ["a.txt"])
    assert list(tmp_path.iterdir()) == []

    write_folder(tmp_path / "out", lambda f: (f / "a.txt").write_text("old"), ["a.txt"])
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "out", fail, ["a.txt"])
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_own_files_are_replaced(tmp_path: Path):
    write = lambda folder: (folder / "a.txt").write_text("new")
    (tmp_path / "out" / "nested").mkdir(parents=True)
    with pytest.raises(ModelError, match="nested"):
        write_folder(tmp_path / "out", write, ["*"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        write_folder(tmp_path / "file", write, ["*"])


def test_parents_are_made(tmp_path: Path):
    write_folder(tmp_path / "a" / "b", lambda folder: None, [])
    assert (tmp_path / "a" / "b").is_dir()


def test_json_round_trip_and_errors(tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_text(to_json({"b": [1, None], "a": "é"}))
    assert read_json(file) == {"a": "é", "b": [1, None]}
    file.write_bytes(b'"\xff"')
    with pytest.raises(ModelError, match="not valid JSON"):
        read_json(file)
    with pytest.raises(ModelError, match="is a file, not a folder"):
        require_folder(file)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_tensors_come_back_with_the_same_bits(tmp_path: Path, dtype):
    value = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
    write_tensors(tmp_path / "model.safetensors", {"a": value, "b": value.T})
    files = open_tensors(tmp_path)
    assert files.shapes == {"a": (3, 4), "b": (4, 3)}
    np.testing.assert_array_equal(files.read("a"), value, strict=True)
    np.testing.assert_array_equal(files.read("b"), value.T, strict=True)


def test_a_link_is_followed_and_the_working_directory_stays(tmp_path: Path, monkeypatch):
    write = lambda folder: (folder / "a.txt").write_text("new")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "scratch")
    write_folder(tmp_path / "out", write, ["a.txt"])
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "scratch" / "a.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scratch"]
    monkeypatch.chdir(tmp_path / "scratch")
    with pytest.raises(ModelError, match="working directory"):
        write_folder(".", write, ["a.txt"])


def sharded(folder: Path, weight_map: dict[str, str], **shards) -> Path:
    for name, tensors in shards.items():
        write_tensors(folder / f"{name}.safetensors", tensors)
    files = {name: f"{shard}.safetensors" for name, shard in weight_map.items()}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    return folder


def test_shards_that_contradict_their_index_are_refused(tmp_path: Path):
    one = np.ones(2, np.float32)
    right = {"a": "first", "b": "second"}
    shards = {"first": {"a": one}, "second": {"b": one}}
    assert set(open_tensors(sharded(tmp_path, right, **shards)).files) == {"a", "b"}
    with pytest.raises(ModelError, match=r"lists a in second.*first.safetensors holds it"):
        open_tensors(sharded(tmp_path, {"a": "second", "b": "first"}, **shards))
    with pytest.raises(ModelError, match="both hold a"):
        open_tensors(sharded(tmp_path, right, first={"a": one}, second={"a": 2 * one, "b": one}))
