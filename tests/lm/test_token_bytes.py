"""The bytes of tokens: their concatenation is the text of a completion."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models

import bayesft.lm
from bayesft.errors import PromptError
from bayesft.lm import prompts
from bayesft.lm.token_bytes import written_bytes
from bayesft.lm.tokenizer import Tokenizer, read_tokenizer


@pytest.fixture(scope="module", params=["stories260K", "babyllama361"])
def real(request: pytest.FixtureRequest, assets: Path):
    return bayesft.lm.load(assets / request.param)


def text_of(found: list[bytes | None], ids) -> bytes:
    return b"".join(found[token] or b"" for token in ids)


def test_concatenated_bytes_are_the_decoded_text(real):
    found = list(real.token_bytes())
    assert len(found) == real.vocab_size
    assert [token for token in range(real.vocab_size) if found[token] is None] == [0, 1, 2]
    generator, num_texts = np.random.default_rng(0), 0
    for ids in generator.integers(0, real.vocab_size, (500, 6)):
        raw = text_of(found, ids)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            assert "\N{REPLACEMENT CHARACTER}" in real.decode(ids)
            continue
        num_texts += 1
        assert real.decode(ids) == text
    assert num_texts > 20
    for text in (" a café\n", "日本 \N{GRINNING FACE}"):
        assert text_of(found, real.encode_completion(text)).decode() == text


def test_bytes_are_those_of_llguidance(real):
    llguidance = pytest.importorskip("llguidance")
    reference = llguidance.LLTokenizer(real.card.tokenizer.files["tokenizer.json"])
    for token, found in enumerate(real.token_bytes()):
        if found == b"\xff":  # the byte that llguidance marks its special tokens by
            continue
        assert reference.is_special_token(token) == (found is None)
        assert found is None or reference.decode_bytes([token]) == found


def byte_level() -> Tokenizer:
    """An alphabet of bytes, a word with a space in front, an added word and a special token."""
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocab = {letter: i for i, letter in enumerate([*sorted(letters), "Ġthe"])}
    model = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    model.decoder = decoders.ByteLevel()
    model.add_tokens(["é x"])
    model.add_special_tokens(["<s>"])
    return Tokenizer({"tokenizer.json": model.to_str()})


def test_byte_level_tokens():
    tokenizer = byte_level()
    found = tokenizer.token_bytes()
    assert sorted(x for x in found[:256] if x) == [bytes([byte]) for byte in range(256)]
    assert found[256:] == [b" the", "é x".encode(), None]
    ids = [256, *[found.index(bytes([byte])) for byte in "é☃".encode()], 257]
    assert tokenizer.decode(ids, continues=True) == text_of(found, ids).decode() == " theé☃é x"


def test_metaspace_keeps_its_space():
    assert written_bytes(["▁a", "b"], {"type": "Metaspace", "replacement": "▁"}) == [b" a", b"b"]


def test_tokens_without_a_text_of_their_own_are_refused(folder: Path, tiny):
    with pytest.raises(PromptError, match=r"\['WordPiece'\] does not write"):
        read_tokenizer(folder).token_bytes()
    with pytest.raises(PromptError, match=r"decoder \[\] does not write"):
        written_bytes(["a"], None)
    with pytest.raises(PromptError, match="without a tokenizer"):
        tiny.token_bytes()


def test_padding_of_the_vocabulary_writes_nothing(real):
    architecture = dataclasses.replace(real.card.architecture, vocab_size=real.vocab_size + 3)
    padded = dataclasses.replace(real.card, architecture=architecture)
    assert prompts.token_bytes(padded) == [*real.token_bytes(), None, None, None]


def test_a_guide_writes_what_its_model_writes(real):
    assert real.trainable().token_bytes() == real.token_bytes()
