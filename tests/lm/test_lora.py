"""LoRA guides: equal to the prior at the start, factors alone trainable, exact in PEFT's format."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import bayesft.lm
from bayesft.base import Guide, Horizon, Prompt
from bayesft.errors import GuideError, ModelError

TOKENS = jnp.asarray([[1, 5, 9, 14, 3], [1, 7, 7, 2, 2]], jnp.int32)
ALL = {
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
}


def moved(guide, seed: int = 4):
    """The guide with random factors, so that every one of them matters."""
    rng = np.random.default_rng(seed)
    return guide.with_params(
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 4, x.dtype), guide.params)
    )


@pytest.fixture(scope="module")
def guide(tiny):
    return bayesft.lm.lora(tiny, rank=3, key=jax.random.key(7))


def test_a_guide_starts_equal_to_its_prior(tiny, guide):
    np.testing.assert_array_equal(guide.logits(TOKENS), tiny.logits(TOKENS))
    assert isinstance(guide, Guide) and guide.eos == tiny.eos and guide.name == tiny.name


def test_params_are_the_factors_of_all_linear_maps(tiny, guide):
    assert set(guide.adapter.slots) == ALL
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(guide.params))
    assert len(shapes) == 2 * 7 * 2 and all(3 in shape for shape in shapes)
    jax.tree.map(
        lambda a, b: None if a is b else pytest.fail("copied"), guide.weights, tiny.weights
    )


def test_factors_start_uniform_and_independent(tiny, guide):
    a = guide.params["layers"][0]["attention"]["query_key_value"]["factors"]
    b = guide.params["layers"][1]["attention"]["query_key_value"]["factors"]
    assert all(np.abs(f["a"]).max() <= 16**-0.5 for f in a.values())
    assert not np.array_equal(a[0]["a"], b[0]["a"]) and not np.array_equal(a[0]["a"], a[1]["a"])
    assert not any(f["b"].any() for f in a.values())


def test_gradients_reach_every_factor_and_only_factors(guide):
    x = Prompt(jnp.asarray([1, 5], jnp.int32), jnp.int32(2), jnp.int32(0))
    start = moved(guide)

    @jax.jit
    @jax.grad
    def gradient(params):
        return start.with_params(params).token_log_probs(TOKENS[0, :4], x, Horizon(4)).sum()

    found = gradient(start.params)
    assert jax.tree.structure(found) == jax.tree.structure(guide.params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


def test_merging_adds_the_factors_to_the_kernels(guide):
    adapted = moved(guide)
    # Sums of 24 terms of size 1 in another order: 24 · 2⁻²⁴ per layer and factor.
    np.testing.assert_allclose(
        adapted.merge().logits(TOKENS), adapted.logits(TOKENS), rtol=1e-4, atol=1e-4
    )
    assert np.abs(adapted.logits(TOKENS) - guide.logits(TOKENS)).max() > 0.1


def test_stepping_uses_the_factors(guide):
    adapted = moved(guide)
    xs = Prompt(TOKENS[:, :2], jnp.full(2, 2, jnp.int32), jnp.arange(2, dtype=jnp.int32))

    @jax.jit
    def two_steps(prior):
        state, first = prior.start(xs, 1, 2)
        return jnp.stack([first[:, 0], prior.advance(state, TOKENS[:, 2:3])[1][:, 0]], axis=1)

    np.testing.assert_allclose(
        two_steps(adapted), adapted.logits(TOKENS)[:, 1:3], rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        (["q_proj", "v_proj"], {"self_attn.q_proj", "self_attn.v_proj"}),
        (["mlp.up_proj"], {"mlp.up_proj"}),
        ([f"layers.{index}.self_attn.q_proj" for index in (0, 1)], {"self_attn.q_proj"}),
        (r".*\.(up|down)_proj", {"mlp.up_proj", "mlp.down_proj"}),
        ("all-linear", ALL),
    ],
)
def test_targets_are_named_as_in_peft(tiny, targets, chosen: set[str]):
    guide = bayesft.lm.lora(tiny, rank=2, key=jax.random.key(0), target_modules=targets)
    assert set(guide.adapter.slots) == chosen
    np.testing.assert_array_equal(guide.logits(TOKENS), tiny.logits(TOKENS))


def test_numbers_of_other_libraries_are_numbers(tiny):
    guide = bayesft.lm.lora(tiny, rank=np.int8(2), alpha=jnp.float32(8), key=jax.random.key(0))
    assert guide.adapter.scale == 4


def test_mistakes_are_named(tiny, guide):
    key = jax.random.key(0)
    for rank in (0, -1, 2.5, "8", None, True):
        with pytest.raises(GuideError, match=re.escape(f"rank={rank!r} is not a count")):
            bayesft.lm.lora(tiny, rank=rank, key=key)
    for alpha in (float("nan"), "x", True, [8.0]):
        with pytest.raises(GuideError, match="alpha is"):
            bayesft.lm.lora(tiny, alpha=alpha, key=key)
    for seed in (0, None, jax.random.split(key)):
        with pytest.raises(GuideError, match="single typed JAX key"):
            bayesft.lm.lora(tiny, key=seed)
    for start in (guide, tiny.trainable()):
        with pytest.raises(GuideError, match=r"jax\.checkpoint_policies"):
            start.with_remat("nothing_saveable")
    with pytest.raises(GuideError, match=r"(?s)'c_attn'.*self_attn\.q_proj"):
        bayesft.lm.lora(tiny, key=key, target_modules=["c_attn"])
    for outside in ("lm_head", "embed_tokens", "norm"):
        with pytest.raises(GuideError, match=f"no module '{outside}' to adapt"):
            bayesft.lm.lora(tiny, key=key, target_modules=["q_proj", outside])
    with pytest.raises(GuideError, match="no module of the names given"):
        bayesft.lm.lora(tiny, key=key, target_modules=[])
    for none in (None, 3, [3]):
        with pytest.raises(GuideError, match=r"no module (None|3) to adapt"):
            bayesft.lm.lora(tiny, key=key, target_modules=none)
    with pytest.raises(GuideError, match="no module"):
        bayesft.lm.lora(tiny, key=key, target_modules="(q_proj")  # no pattern
    for single in (r"model\.layers\.0\..*", ["o_proj", "layers.1.self_attn.q_proj"]):
        with pytest.raises(GuideError, match="some layers of llama only"):
            bayesft.lm.lora(tiny, key=key, target_modules=single)
    with pytest.raises(GuideError, match="LoraGuide"):
        bayesft.lm.lora(guide, key=key)


# ---- PEFT folders -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "base"), [("peft_llama", "llama"), ("peft_gpt2", "gpt2")])
def test_export_gives_the_adapter_that_was_imported(
    golden: Path, tmp_path: Path, name: str, base: str
):
    lm = bayesft.lm.load(golden / base, tokenizer=False)
    bayesft.lm.load_adapter(lm, golden / name).save(tmp_path / "out")
    found, expected = (
        safetensors.numpy.load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "out", golden / name)
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, strict=True)
    ours, theirs = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (tmp_path / "out", golden / name)
    )
    assert ours.keys() <= theirs.keys()
    assert set(ours.pop("target_modules")) == set(theirs.pop("target_modules"))
    assert Path(ours.pop("base_model_name_or_path")).name == base
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_import_gives_the_adapter_that_was_exported(tiny, tmp_path: Path, alpha: float | None):
    guide = moved(bayesft.lm.lora(tiny, rank=2, alpha=alpha, key=jax.random.key(1)))
    guide.save(tmp_path / "out")
    guide.save(tmp_path / "out")  # its own files may be replaced
    found = bayesft.lm.load_adapter(tiny, tmp_path / "out")
    assert found.adapter == guide.adapter
    jax.tree.map(np.testing.assert_array_equal, found.params, guide.params)


@pytest.fixture
def adapter(tiny, tmp_path: Path) -> Path:
    moved(bayesft.lm.lora(tiny, rank=4, key=jax.random.key(1))).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder: Path, **changes) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_rank_stabilised_adapters_scale_by_the_root_of_the_rank(tiny, adapter: Path):
    plain = bayesft.lm.load_adapter(tiny, adapter).adapter
    edit(adapter, use_rslora=True)
    found = bayesft.lm.load_adapter(tiny, adapter)
    assert found.adapter.scale == plain.scale * 2
    found.save(adapter)
    assert bayesft.lm.load_adapter(tiny, adapter).adapter == found.adapter


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("layers_to_transform", [0]),
        ("layers_to_transform", 0),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "lora_ga"),
        ("kasa_config", {"beta": 1e-4}),
        ("peft_type", "IA3"),
        ("r", 0),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
        ("use_rslora", "yes"),
        ("target_modules", None),
        ("trainable_token_indices", [3]),
        ("some_new_option", 1),
    ],
)
def test_options_beyond_plain_lora_are_refused(tiny, adapter: Path, option: str, value):
    edit(adapter, **{option: value})
    with pytest.raises(ModelError, match=f"sets {option} to"):
        bayesft.lm.load_adapter(tiny, adapter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["lm_head"]}, "targets 'lm_head', which llama does not have"),
        ({"target_modules": r".*\.0\..*_proj"}, "modules of some layers of llama only"),
        ({"target_modules": ["q_proj"]}, "does not name"),
        ({"r": 8}, "has shape"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ],
)
def test_adapters_of_another_model_are_refused(tiny, adapter: Path, changes: dict, message: str):
    edit(adapter, **changes)
    with pytest.raises(ModelError, match=message):
        bayesft.lm.load_adapter(tiny, adapter)


def test_a_model_folder_is_no_adapter_and_is_not_replaced_by_one(tiny, guide, folder: Path):
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        bayesft.lm.load_adapter(tiny, folder)
    with pytest.raises(ModelError, match="would remove"):
        guide.save(folder)
