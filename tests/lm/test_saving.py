"""Saving: export after import and import after export are exact, and nothing foreign is lost."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import bayesft.lm
from bayesft.errors import ModelError
from bayesft.lm.families import FAMILIES


@pytest.mark.parametrize("name", [*FAMILIES, "llama3_scaled"])
def test_export_gives_the_tensors_that_were_imported(golden: Path, tmp_path: Path, name: str):
    bayesft.lm.load(golden / name, tokenizer=False).save(tmp_path / "out")
    found, expected = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (tmp_path / "out", golden / name)
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, strict=True)
    for file in ("config.json", "generation_config.json"):
        texts = [(folder / file).read_text() for folder in (tmp_path / "out", golden / name)]
        assert json.loads(texts[0]) == json.loads(texts[1])


@pytest.mark.parametrize("fixture", ["tiny", "tied"])
def test_import_gives_the_arrays_that_were_exported(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
):
    lm = request.getfixturevalue(fixture)
    lm.trainable().save(tmp_path / "out")
    found = bayesft.lm.load(tmp_path / "out", tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, found.weights, lm.weights)
    assert found.card.architecture == lm.card.architecture and found.eos == lm.eos


def test_the_tokenizer_goes_along(folder: Path, tmp_path: Path):
    bayesft.lm.load(folder).save(tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert bayesft.lm.load(tmp_path / "out").encode("a b") == [1, 3, 4]


def test_the_config_says_the_dtype_that_was_saved(folder: Path, tmp_path: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    bayesft.lm.load(folder).save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_a_saved_model_replaces_an_older_one_completely(folder: Path, tiny):
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    tiny.save(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_foreign_files_are_not_replaced(folder: Path, tiny):
    (folder / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        tiny.save(folder)
    assert (folder / "thesis.txt").exists() and (folder / "tokenizer.json").exists()


def test_transformers_reads_the_config(tiny, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    tiny.save(tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.hidden_size, config.num_key_value_heads) == ("llama", 16, 2)
