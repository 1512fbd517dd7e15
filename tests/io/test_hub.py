"""Models by name: found in a cache laid out by hand, offline; nothing but data is asked for."""

import sys
from pathlib import Path

import jax
import pytest

import bayesft.lm
from bayesft.errors import ModelError
from bayesft.io.hub import is_name

huggingface_hub = pytest.importorskip("huggingface_hub")

CONFIG = {
    "model_type": "llama",
    "vocab_size": 7,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 4,
    "eos_token_id": 2,
}


@pytest.fixture
def lm() -> bayesft.lm.LanguageModel:
    return bayesft.lm.initialise(CONFIG, jax.random.key(0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with the network switched off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def snapshot(cache: Path, name: str) -> Path:
    """Where the cache keeps the files of a model."""
    model = cache / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "snapshots").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    return model / "snapshots" / ("0" * 40)


def test_a_cached_model_loads_by_name(cache: Path, lm):
    lm.save(snapshot(cache, "org/tiny"))
    found = bayesft.lm.load("org/tiny", tokenizer=False)
    assert (found.name, found.card.source) == ("tiny", "org/tiny")
    jax.tree.map(lambda a, b: (a == b).all() or pytest.fail("differs"), found.weights, lm.weights)


def test_a_cached_adapter_loads_by_name(cache: Path, lm):
    guide = bayesft.lm.lora(lm, rank=1, key=jax.random.key(1))
    guide.save(snapshot(cache, "org/adapter"))
    assert bayesft.lm.load_adapter(lm, "org/adapter").adapter == guide.adapter
    with pytest.raises(ModelError, match="holds an adapter"):
        bayesft.lm.load("org/adapter")


def test_a_local_folder_goes_first(cache: Path, lm):
    lm.save(Path("org/tiny"))
    found = bayesft.lm.load("org/tiny", tokenizer=False)
    assert found.card.source == str(Path("org/tiny").resolve())


def test_only_data_is_asked_for(cache: Path, lm, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        folder = snapshot(cache, name)
        lm.save(folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    bayesft.lm.load("org/tiny", tokenizer=False)
    kinds = {Path(pattern).suffix for pattern in asked}
    assert kinds <= {".json", ".safetensors", ".txt", ".jinja"} and "config.json" in asked


def test_a_model_that_is_not_there_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ModelError, match="no folder org/none, and no model of that name"):
        bayesft.lm.load("org/none")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="huggingface_hub, which would download"):
        bayesft.lm.load("org/none")


def test_what_a_name_is(cache: Path):
    assert is_name("org/model-1.5b_x")
    others = ("model", "./a/b", "../a", "/a/b", "a/b/c", "a/", "~/a", Path("org/model"))
    assert not any(is_name(path) for path in others)
