"""A model small enough to compile in a moment, and the command line as a function."""

from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

import bayesft as bft
from bayesft.cli import app
from bayesft.cli.targets import embedded_model

REWARDS = '''
"""Rewards as a user would write them."""

def brevity(completions):
    return [1 / (1 + len(text)) for text in completions]

def wishes(prompts, completions, wish):
    return [float(w in text) for text, w in zip(completions, wish)]

def broken(completions):
    raise KeyError("oh")

def never(completions):
    return [False] * len(completions)

def always(completions):
    return [True] * len(completions)

number = 3
'''


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """Folder of a random model of one layer that uses the tokenizer that comes along."""
    config = {
        "model_type": "llama",
        "vocab_size": 1024,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bft.lm.initialise(config, jax.random.key(0), embedded_model()).save(folder)
    return folder


@pytest.fixture
def rewards(tmp_path) -> Path:
    """A file of reward functions."""
    path = tmp_path / "rewards.py"
    path.write_text(REWARDS, encoding="utf-8")
    return path


@pytest.fixture
def invoke():
    """Run the command line: `invoke("sample", "--model", path)`; what it returns has exit_code,
    stdout and stderr."""

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run
