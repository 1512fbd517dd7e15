"""Folders and tensors: complete or not at all, the same bits back."""

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
