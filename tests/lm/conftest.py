"""Small models that tests share: random, untied, with grouped keys, and one saved with text."""

from pathlib import Path

import jax
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

import bayesft.lm

CONFIG = {
    "model_type": "llama",
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rope_theta": 100.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""The spread of the weights is large enough for every part of the model to move the logits."""


@pytest.fixture(scope="session")
def config() -> dict:
    return dict(CONFIG)


@pytest.fixture(scope="session")
def tiny() -> bayesft.lm.LanguageModel:
    """Two layers, without a tokenizer."""
    return bayesft.lm.initialise(CONFIG, jax.random.key(0))


@pytest.fixture(scope="session")
def tied() -> bayesft.lm.LanguageModel:
    """The same with a tied head."""
    return bayesft.lm.initialise(CONFIG | {"tie_word_embeddings": True}, jax.random.key(1))


@pytest.fixture(scope="session")
def windowed() -> bayesft.lm.LanguageModel:
    """Gemma 2 with a window of 3 in the first of its two layers, and soft caps."""
    own = {"model_type": "gemma2", "head_dim": 4, "sliding_window": 3, "query_pre_attn_scalar": 4}
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    return bayesft.lm.initialise(CONFIG | own | caps, jax.random.key(2))


@pytest.fixture
def folder(tmp_path: Path, tiny: bayesft.lm.LanguageModel) -> Path:
    """The tiny model as a folder with a tokenizer, free to be damaged."""
    path = tmp_path / "tiny"
    tiny.save(path)
    write_tokenizer(path)
    return path


def write_tokenizer(path: Path) -> None:
    """A word-level tokenizer that puts BOS in front."""
    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrst"]
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
