"""What bayesft saves, as transformers and PEFT read it: a model and an adapter of every family.

Weights, biases, norms and factors are all random, so that a part that is read wrongly moves the
logits. The largest difference of logits is printed, for the model and for the adapter on top of it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from peers import Peer, report

import bayesft as bft
from bayesft.lm.families import FAMILIES

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 96}
SIZES = SPECIAL | {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
OWN_SIZES = {
    "gpt2": SPECIAL | {"n_embd": 32, "n_head": 4, "n_layer": 4, "n_positions": 128},
    "gpt_neo": SPECIAL
    | {"hidden_size": 32, "num_heads": 4, "num_layers": 4, "max_position_embeddings": 128}
    | {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "gpt_neox": {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")},
}
SETTINGS = {
    "mistral": {"sliding_window": 8},
    "phi3": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "smollm3": {"tie_word_embeddings": True},
}
LIMIT = 1e-4


def moved(tree, seed: int, by: float):
    rng = np.random.default_rng(seed)
    add = lambda a: a + jnp.asarray(by * rng.normal(size=a.shape), a.dtype)
    return jax.tree.map(add, tree)


def main() -> None:
    tokens = np.random.default_rng(0).integers(3, 96, (3, 40)).astype(np.int32)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        np.save(root / "tokens.npy", tokens)
        for family in FAMILIES:
            config = {"model_type": family, "dtype": "float32"}
            config |= OWN_SIZES.get(family, SIZES) | SETTINGS.get(family, {})
            start = bft.trainable(bft.lm.initialise(config, jax.random.key(0)))
            guide = start.with_params(moved(start.params, 1, 0.1))
            guide.save(root / family / "model")
            lm = bft.lm.load(root / family / "model", tokenizer=False)
            adapted = bft.lm.lora(lm, rank=3, key=jax.random.key(1))
            adapted = adapted.with_params(moved(adapted.params, 2, 0.2))
            adapted.save(root / family / "adapter")
            logits = {"model": lm.logits(tokens), "adapter": adapted.logits(tokens)}
            np.savez(root / family / "logits.npz", **logits)  # pyright: ignore[reportArgumentType]
        with Peer("peer_peft.py", name) as peer:
            found = peer.ask()
    for family in FAMILIES:
        report(f"export, {family}", **found[family], asked_at_most=LIMIT)


if __name__ == "__main__":
    main()
