"""Loading: what a folder may hold, what is refused and with which words, and that nothing runs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import bayesft.lm
from bayesft.errors import ModelError

TOKENS = jnp.asarray([[1, 5, 9, 14]], jnp.int32)


def edit(path: Path, **changes) -> None:
    """Sets keys of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def without_bos(folder: Path, value: object) -> None:
    """A tokenizer that names no BOS, so that config.json's is used."""
    edit(folder / "tokenizer_config.json", bos_token=None)
    edit(folder / "config.json", bos_token_id=value)


def edit_tensors(folder: Path, change: Callable[[dict], dict]) -> None:
    file = folder / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)


def shard(folder: Path) -> None:
    """Splits the weights over two files with an index."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, where = sorted(tensors), {}
    for i, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{i}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def same(a, b) -> None:
    """Bit-equal arrays in the same places."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ---- what is accepted ---------------------------------------------------------------------------


def test_a_folder_without_tokenizer_loads_on_request(folder: Path, tiny):
    (folder / "tokenizer.json").unlink()
    lm = bayesft.lm.load(folder, tokenizer=False)
    same(lm.weights, tiny.weights)
    assert lm.encode([1, 5]) == [1, 5] and lm.decode([5, 6, 2]) == "5 6"


def test_shards_load_like_one_file(folder: Path, tiny):
    shard(folder)
    same(bayesft.lm.load(folder).weights, tiny.weights)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_are_computed_in_float32(folder: Path, dtype):
    edit_tensors(folder, lambda tensors: {k: v.astype(dtype) for k, v in tensors.items()})
    lm = bayesft.lm.load(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(lm)} == {jnp.dtype("float32")}
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"].astype(np.float32)
    np.testing.assert_array_equal(lm.weights["embedding"], embedding)


def test_bfloat16_weights_on_request(folder: Path, tiny):
    lm = bayesft.lm.load(folder, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(lm)} == {jnp.dtype("bfloat16")}
    logits = lm.logits(TOKENS)
    assert logits.dtype == jnp.float32
    # bfloat16 keeps 8 bits; the logits of this model are of size 10.
    np.testing.assert_allclose(logits, tiny.logits(TOKENS), atol=10 * 2.0**-5)


def test_both_spellings_of_rope_mean_the_same(config: dict):
    scaling = dict(
        factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
    )
    new = {"rope_parameters": scaling | {"rope_type": "llama3", "rope_theta": 100.0}}
    old = {"rope_theta": 100.0, "rope_scaling": scaling | {"type": "llama3"}}
    without = {k: v for k, v in config.items() if k != "rope_theta"}
    first, second = (
        bayesft.lm.initialise(without | rope, jax.random.key(0)) for rope in (new, old)
    )
    assert first.card.architecture == second.card.architecture
    assert first.card.architecture.ropes[0].scaling is not None


def test_linear_scaling_divides_positions(config: dict, tiny):
    rope = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    scaled = bayesft.lm.initialise(config | rope, jax.random.key(0)).card.architecture
    plain = tiny.card.architecture
    np.testing.assert_allclose(scaled.ropes[0].frequencies(), plain.ropes[0].frequencies() / 2)


def test_eos_comes_from_the_generation_config_first(folder: Path):
    assert bayesft.lm.load(folder).eos == (2,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2, 7]}')
    assert bayesft.lm.load(folder, tokenizer=False).eos == (7, 2)
    assert bayesft.lm.load(folder).eos == (2, 7)  # what ends a text for the tokenizer comes first
    for none in ("null", "[]"):
        (folder / "generation_config.json").write_text(f'{{"eos_token_id": {none}}}')
        assert bayesft.lm.load(folder).eos == (2,)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_old_gpt2_checkpoints_have_no_prefix_and_hold_masks(dtype, golden: Path, tmp_path: Path):
    folder = tmp_path / "gpt2"
    shutil.copytree(golden / "gpt2", folder)
    for path in (folder, *folder.iterdir()):  # the source may be read-only
        path.chmod(0o755)
    mask = {f"h.{i}.attn.bias": np.ones((1, 1, 8, 8), dtype) for i in range(3)}
    edit_tensors(folder, lambda t: {k.removeprefix("transformer."): v for k, v in t.items()} | mask)
    found = bayesft.lm.load(folder, tokenizer=False)
    same(found.weights, bayesft.lm.load(golden / "gpt2", tokenizer=False).weights)


def test_a_tied_head_may_be_stored_again_but_not_with_other_values(tied, tmp_path: Path):
    tied.save(tmp_path)
    embedding = np.asarray(tied.weights["embedding"])
    edit_tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding})
    same(bayesft.lm.load(tmp_path, tokenizer=False).weights, tied.weights)
    edit_tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": embedding + 1})
    with pytest.raises(ModelError, match="ties the head"):
        bayesft.lm.load(tmp_path, tokenizer=False)


def test_two_loads_share_their_traces(folder: Path):
    traces = 0

    @jax.jit
    def count(lm, tokens):
        nonlocal traces
        traces += 1
        return lm.logits(tokens)

    for _ in range(2):
        count(bayesft.lm.load(folder), TOKENS)
    assert traces == 1
    edit(folder / "config.json", rope_theta=50.0)
    count(bayesft.lm.load(folder), TOKENS)
    assert traces == 2


# ---- what is refused ----------------------------------------------------------------------------

DAMAGE = {
    "no folder": (lambda f: shutil.rmtree(f), "does not exist"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer=False"),
    "corrupt config": (lambda f: (f / "config.json").write_text('{"a": '), "not valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "not an object"),
    "corrupt tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "not valid JSON"),
    "foreign tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer"),
    "unknown family": (
        lambda f: edit(f / "config.json", model_type="mamba"),
        "(?s)'mamba'.*gpt2, .*llama",
    ),
    "unknown setting": (
        lambda f: edit(f / "config.json", sliding_window=8),
        "sets sliding_window to 8",
    ),
    "unknown rope": (
        lambda f: edit(f / "config.json", rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "sets rope_type to 'yarn'",
    ),
    "unknown rope setting": (
        lambda f: edit(f / "config.json", rope_scaling={"type": "linear", "factor": 2.0, "b": 1}),
        "sets b to 1",
    ),
    "unknown activation": (lambda f: edit(f / "config.json", hidden_act="mish"), "hidden_act"),
    "quantised": (
        lambda f: edit(f / "config.json", quantization_config={"bits": 4}),
        "quantization_config",
    ),
    "wrong type": (lambda f: edit(f / "config.json", hidden_size="16"), "a positive integer"),
    "missing setting": (lambda f: edit(f / "config.json", hidden_size=None), "has no hidden_size"),
    "heads do not divide": (lambda f: edit(f / "config.json", num_key_value_heads=3), "multiple"),
    "no eos": (lambda f: edit(f / "config.json", eos_token_id=None), "no end-of-sequence token"),
    "empty eos": (lambda f: edit(f / "config.json", eos_token_id=[]), "no end-of-sequence token"),
    "eos outside": (lambda f: edit(f / "config.json", eos_token_id=99), "is no token"),
    "eos is true": (lambda f: edit(f / "config.json", eos_token_id=[2, True]), "eos_.* True is no"),
    "eos of generation": (
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": "2"}'),
        "(?s)eos_token_id '2' is no token.*generation_config.json",
    ),
    "bos outside": (lambda f: without_bos(f, 23), "bos_token_id 23 is no"),
    "bos is negative": (lambda f: without_bos(f, -1), "bos_.* -1 is no"),
    "bos is true": (lambda f: without_bos(f, True), "bos_.* True is no"),
    "bos is a list": (lambda f: without_bos(f, [1]), r"bos_.* \[1\] is no"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-9]
        ),
        "not a readable safetensors",
    ),
    "LFS pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/"),
        "not a readable safetensors",
    ),
    "integers": (
        lambda f: edit_tensors(f, lambda t: {k: v.astype(np.int8) for k, v in t.items()}),
        "stored as I8",
    ),
    "missing tensor": (
        lambda f: edit_tensors(f, lambda t: {k: v for k, v in t.items() if "head" not in k}),
        "have no tensor lm_head.weight",
    ),
    "unexpected tensor": (
        lambda f: edit_tensors(f, lambda t: t | {"model.layers.2.x": np.zeros(1, np.float32)}),
        "hold model.layers.2.x",
    ),
    "wrong shape": (
        lambda f: edit(f / "config.json", vocab_size=24),
        r"model.embed_tokens.weight has shape \[23, 16\].* \[24, 16\]",
    ),
    "missing shard": (
        lambda f: (shard(f), (f / "model-00002-of-00002.safetensors").unlink()),
        "model-00002-of-00002.safetensors is missing",
    ),
    "index without map": (
        lambda f: (shard(f), (f / "model.safetensors.index.json").write_text("{}")),
        "no weight_map",
    ),
    "index leaves the folder": (
        lambda f: (
            shard(f),
            edit(f / "model.safetensors.index.json", weight_map={"a": "../x.safetensors"}),
        ),
        "outside the folder",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_refused(folder: Path, damage: str):
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(ModelError, match=message):
        bayesft.lm.load(folder)


@pytest.mark.parametrize("dtype", ["auto", "bf16", None, 3, "int8", jnp.int8, bool, complex])
def test_weights_are_of_a_floating_type(golden: Path, config: dict, dtype):
    for make in (
        lambda: bayesft.lm.load(golden / "llama", dtype, tokenizer=False),
        lambda: bayesft.lm.initialise(config, jax.random.key(0), dtype=dtype),
    ):
        with pytest.raises(ModelError, match=r"(?s)cannot be of dtype.*jnp\.bfloat16"):
            make()


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "0.02"])
def test_weights_spread_by_a_positive_deviation(config: dict, value):
    with pytest.raises(ModelError, match="initializer_range"):
        bayesft.lm.initialise(config | {"initializer_range": value}, jax.random.key(0))


@pytest.mark.parametrize("wrong", ["config.json", None, {"a": np.ones(2)}, {"a": np.int64(2)}])
def test_a_configuration_is_plain_data(wrong):
    with pytest.raises(ModelError, match="plain data"):
        bayesft.lm.initialise(wrong, jax.random.key(0))


@pytest.mark.parametrize(
    "setting", ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"]
)
def test_variants_of_gpt2_are_refused(setting: str):
    config = {"model_type": "gpt2", "vocab_size": 8, "n_embd": 8, "n_head": 2, "n_layer": 1}
    with pytest.raises(ModelError, match=setting):
        bayesft.lm.initialise(config | {"eos_token_id": 0, setting: True}, jax.random.key(0))


def test_an_adapter_folder_is_no_model(folder: Path):
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="load_adapter"):
        bayesft.lm.load(folder)


def test_pickled_weights_are_never_opened(folder: Path, tmp_path: Path):
    (folder / "model.safetensors").unlink()
    touched = tmp_path / "touched"
    pickle = f"cposix\nsystem\n(S'touch {touched}'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(pickle)
    with pytest.raises(ModelError, match="pickle"):
        bayesft.lm.load(folder)
    assert not touched.exists()


def test_a_model_folder_executes_no_code(folder: Path, tmp_path: Path):
    touched = tmp_path / "touched"
    code = f"open({str(touched)!r}, 'w').close()\nclass Model: pass\n"
    for name in ("modeling.py", "tokenization.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    auto = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Model"}
    edit(folder / "config.json", auto_map=auto)
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization.Model", None]},
        tokenizer_class="Model",
    )
    bayesft.lm.load(folder).logits(TOKENS)
    assert not touched.exists()


def test_torch_is_never_imported(folder: Path):
    """Even where torch is installed: a stand-in would notice."""
    program = (
        "import sys, types\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] != 'torch', 'torch was imported'\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import bayesft.lm\n"
        f"lm = bayesft.lm.load({str(folder)!r})\n"
        "lm.encode('a b')\n"
        "lm.save(sys.argv[1])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(folder.with_name("saved"))],
        check=True,
        cwd=Path(bayesft.lm.__file__).parents[2],
        capture_output=True,
        text=True,
    )
