"""Text to token ids and back, by the `tokenizers` library, as the model folder's files say."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from bayesft.errors import ModelError
from bayesft.io.files import read_json
from bayesft.lm.token_bytes import written_bytes

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What a model folder may hold for its tokenizer; saved models carry the same texts."""


class Tokenizer:
    """A tokenizer and the texts of its files, which are all that it depends on."""

    def __init__(self, files: Mapping[str, str], where: str = "the model folder"):
        self.files = dict(files)
        self.config: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            self.config |= _parse(self.files.get(name, "{}"), f"{where}/{name}")
        _parse(self.files["tokenizer.json"], f"{where}/tokenizer.json")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self.files["tokenizer.json"])
        except Exception as error:  # the library raises bare exceptions
            raise ModelError(
                f"{where}/tokenizer.json is no tokenizer: {error}.",
                cause="the file was edited, or written by a newer `tokenizers`",
                remedy="download it again",
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._add_tokens(where)

    def _add_tokens(self, where: str) -> None:
        """Adds tokens of which tokenizer_config.json says what tokenizer.json does not, as
        transformers does: unknown there, a chat's marks would be split like any text."""
        listed = self.config.get("added_tokens_decoder") or {}
        declared = {int(index): _added(fields) for index, fields in listed.items()}
        named = [_added(self.config[role]) for role in self.special_tokens]
        known = self._tokenizer.get_added_tokens_decoder().values()
        said, texts = {repr(token) for token in known}, {token.content for token in known}
        texts |= {token.content for token in declared.values()}
        self._tokenizer.add_tokens(
            [token for _, token in sorted(declared.items()) if repr(token) not in said]
            + [t for t in named if t.content not in texts and self._id_of(t.content) is not None]
        )
        for index, token in declared.items():
            if self._id_of(token.content) != index:
                raise ModelError(
                    f"{where}/tokenizer_config.json gives {token.content!r} the id {index}, "
                    f"tokenizer.json {self._id_of(token.content)}.",
                    cause="the two files come from different models, or one was edited",
                    remedy="download the tokenizer again",
                )

    def _id_of(self, text: str) -> int | None:
        return self._tokenizer.token_to_id(text)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens by role, such as bos_token."""
        named = {k: v for k, v in self.config.items() if k.endswith("_token")}
        texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in named.items()}
        return {role: text for role, text in texts.items() if isinstance(text, str)}

    @property
    def bos(self) -> int | None:
        """Id of the token that begins a text, where there is one."""
        return self._id_of(self.special_tokens.get("bos_token", ""))

    @property
    def eos(self) -> int | None:
        """Id of the token that ends a text, where there is one."""
        return self._id_of(self.special_tokens.get("eos_token", ""))

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the default chat template."""
        if "chat_template.jinja" in self.files:
            return self.files["chat_template.jinja"]
        template = self.config.get("chat_template")
        if isinstance(template, list):  # several named ones
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text, begun and ended as the post-processor of tokenizer.json says.

        `add_bos_token` is not read; beside a tokenizer.json transformers 5 does not read it either,
        but for GPTNeoXTokenizer and CodeLlamaTokenizer, which put a post-processor of their own in
        the place of the file's.
        """
        return self._tokenizer.encode(text).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text that spells its special tokens itself, as a rendered chat does."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_continuation(self, text: str) -> list[int]:
        """Ids whose text, after other text, is this one.

        Tokenizers in the manner of sentencepiece put a space in front of what they encode. Such a
        text is encoded behind a probe that does not merge with its beginning, and cut off.
        """
        plain = self.encode_plain(text)
        if not text or self.decode(plain, continues=True) == text:
            return plain
        for probe in ("\n", "a", "."):
            before = self.encode_plain(probe)
            ids = self.encode_plain(probe + text)
            behind = ids[len(before) :]
            if ids[: len(before)] == before and self.decode(behind, continues=True) == text:
                return behind
        return plain

    def decode(self, ids: Sequence[int], *, continues: bool) -> str:
        """Text of ids, special tokens left out; `continues` where they follow other text.

        Tokenizers in the manner of sentencepiece strip the space in front of a text. In front of
        a continuation it belongs to the text, so it is decoded behind a probe, which is cut off.
        """
        if not continues:
            return self._tokenizer.decode(list(ids), skip_special_tokens=True)
        probe, text = self._probe
        decoded = self._tokenizer.decode([*probe, *ids], skip_special_tokens=True)
        return decoded.removeprefix(text)

    def token_bytes(self) -> list[bytes | None]:
        """What each id writes behind other text; None for special tokens and for gaps.

        Raises PromptError where decoding is not the concatenation of tokens.
        """
        parsed = json.loads(self.files["tokenizer.json"])
        added = self._tokenizer.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        ids = range(max(self._tokenizer.get_vocab(True).values(), default=-1) + 1)
        texts = [self._tokenizer.id_to_token(i) for i in ids]
        written = written_bytes((text or "" for text in texts), parsed.get("decoder"))
        return [
            None if text is None or i in special else found
            for i, text, found in zip(ids, texts, written, strict=True)
        ]

    @functools.cached_property
    def _probe(self) -> tuple[list[int], str]:
        """Ids of an ordinary letter and their text."""
        ids = self.encode_plain("a")
        return ids, self._tokenizer.decode(ids, skip_special_tokens=True)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; raises ModelError where tokenizer.json is missing."""
    if not (folder / "tokenizer.json").exists():
        raise ModelError(
            f"{folder} has no tokenizer.json.",
            cause="the tokenizer was not downloaded, or is stored in another format",
            remedy="save it with transformers' AutoTokenizer, or work with token ids alone by "
            f"bft.lm.load({str(folder)!r}, tokenizer=False)",
        )
    if (folder / "tokenizer_config.json").exists():
        read_json(folder / "tokenizer_config.json")
    present = [folder / name for name in FILES if (folder / name).exists()]
    return Tokenizer({file.name: _read(file) for file in present}, str(folder))


def _added(token: str | Mapping[str, Any]) -> tokenizers.AddedToken:
    """A token as tokenizer_config.json spells it; one that is named by a role is special."""
    if isinstance(token, str):
        return tokenizers.AddedToken(token, special=True)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return tokenizers.AddedToken(
        str(token.get("content")), **{"special": True} | {k: token[k] for k in flags if k in token}
    )


def _read(path: Path) -> str:
    try:
        # newline="" keeps line ends as they are: what is saved is what was loaded.
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text.", remedy="download it again") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{where} is not valid JSON: {error}.",
            cause="the file was truncated or edited by hand",
            remedy="download it again",
        ) from error
    return value if isinstance(value, dict) else {}
