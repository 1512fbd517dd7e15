"""The model and the word lists that the package carries."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import bayesft as bft

ASSETS = Path(bft.__file__).parent / "assets"
STORIES = ASSETS / "stories"
WORDS = re.compile(r"[a-z]+")

# Written for this test, so no model has been trained on them.
STORY = (
    "Once upon a time, there was a little fox named Pip. Pip loved to play with his friends in the "
    "forest. One day, Pip saw a big red kite stuck in a tree. He was sad because he could not "
    'reach it. "Can you help me?" he asked the bird. The bird flew up and got the kite. Pip was so '
    "happy. He thanked the bird and they played together all day."
)
REPORT = (
    "The committee deferred ratification of quarterly fiscal instruments pending arbitration by an "
    "independent tribunal, citing jurisdictional ambiguity under international maritime statutes."
)


@pytest.fixture(scope="module")
def lm() -> bft.lm.LanguageModel:
    return bft.lm.load(STORIES)


def nats_per_character(lm: bft.lm.LanguageModel, text: str) -> float:
    """Loss of a text after BOS, divided by its number of characters."""
    tokens = np.array([lm.encode(text)])
    log_probs = jax.nn.log_softmax(lm.logits(tokens[:, :-1]), axis=-1)
    own = np.take_along_axis(np.asarray(log_probs), tokens[:, 1:, None], axis=-1)
    return -float(own.sum()) / len(text)


def test_the_model_is_small():
    files = list(STORIES.iterdir())
    assert {file.name for file in files} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(file.stat().st_size for file in files) <= 1_500_000


def test_the_model_is_stored_in_half_precision():
    from safetensors.numpy import load_file

    assert {str(tensor.dtype) for tensor in load_file(STORIES / "model.safetensors").values()} == {
        "float16"
    }


@pytest.mark.parametrize("text", [STORY, " a b\n", "naïve café 😀 «x»", 'He said, "Hi!"\nBye.'])
def test_any_text_survives_the_tokenizer(lm, text):
    ids = lm.encode(text)
    assert ids[0] == lm.card.bos == 0
    assert lm.eos == (1,)
    assert lm.decode(ids) == text
    assert lm.decode(ids[1:]) == text  # also as a continuation, with the space in front


def test_stories_are_likely_and_other_text_is_not(lm):
    # The held-out loss is about 0.6 nats per character; uniform bytes have 5.5.
    assert nats_per_character(lm, STORY) < 0.75
    assert nats_per_character(lm, REPORT) > 1.5


def test_stories_vary_and_are_made_of_words(lm):
    target = bft.Target(lm, prompts=["Once upon a time"], max_new_tokens=48)
    draws = bft.sample(target, bft.samplers.importance(num_particles=64), jax.random.key(0))
    texts = draws.text[0]
    assert len(set(texts)) == 64
    known = set(WORDS.findall((STORIES / "tokenizer.json").read_text().lower())) | set(lexicon())
    words = [word for text in texts for word in WORDS.findall(text.lower())]
    assert np.mean([word in known for word in words]) > 0.6
    assert all(text.startswith((" ", ",")) for text in texts)


def test_the_card_says_what_the_model_is():
    card = (STORIES / "README.md").read_text()
    assert "TinyStories" in card
    assert "CDLA-Sharing-1.0" in card
    assert re.search(r"Held-out loss: \d\.\d+ nats per token, \d\.\d+ per character", card)


def lexicon() -> dict[str, float]:
    lines = (ASSETS / "lexicon.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    assert len({word for word, _ in pairs}) == len(pairs)
    return {word: float(valence) for word, valence in pairs}


def test_the_lexicon_has_both_kinds_of_words():
    valences = lexicon()
    assert "# Licence: Apache-2.0" in (ASSETS / "lexicon.tsv").read_text()
    assert 200 <= len(valences) <= 400
    assert all(WORDS.fullmatch(word) for word in valences)
    assert all(-4 <= valence <= 4 and valence for valence in valences.values())
    assert min(valences.values()) <= -2.5 and max(valences.values()) >= 2.5
    assert sum(valence < 0 for valence in valences.values()) >= 100
    assert valences["happy"] > 0 > valences["sad"]


def test_impolite_words_are_words():
    lines = (ASSETS / "impolite.txt").read_text().splitlines()
    words = [line for line in lines if not line.startswith("#")]
    assert "# Licence: Apache-2.0" in lines
    assert len(words) == len(set(words)) and 20 <= len(words) <= 60
    assert all(WORDS.fullmatch(word) for word in words)
