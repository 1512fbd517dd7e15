"""Randomly initialised models that both sides load from one folder."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import jax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import bayesft as bft

SMALL = {"vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}
WIDE = {"vocab_size": 32000, "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1024}


def config(sizes: dict, **more) -> dict:
    heads = sizes["hidden_size"] // 64
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
        **sizes,
        **more,
    }


@contextmanager
def saved_model(sizes: dict, **more):
    """(language model, its folder) of a random Llama whose tokens write " w3", " w4", …"""
    with tempfile.TemporaryDirectory() as folder:
        words = {"<unk>": 0, "<s>": 1, "</s>": 2}
        words |= {f"▁w{i}": i for i in range(3, sizes["vocab_size"])}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(str(path))
        lm = bft.lm.initialise(config(sizes, **more), jax.random.key(0), tokenizer=path)
        lm.save(folder)
        yield lm, folder
