"""Priors that read and write text: what is said about tokens in one place for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayesft.base import Prior
from bayesft.lm import prompts
from bayesft.lm.prompts import Vocabulary


class TextPrior(Prior):
    """A prior whose tokens a card describes, with a tokenizer or without."""

    card: Vocabulary

    @property
    def vocab_size(self) -> int:
        return self.card.vocab_size

    @property
    def eos(self) -> tuple[int, ...]:
        return self.card.eos

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.card.name

    def encode(self, prompt: str | Sequence[Any]) -> list[int]:
        """Token ids of a text, of chat messages ({"role": …, "content": …}), or as given.

        A text gets the special tokens that the tokenizer adds (BOS), and an empty one is BOS
        alone. Raises PromptError where there is no tokenizer, no chat template, no BOS for an
        empty prompt, or an id outside the vocabulary.
        """
        return prompts.encode(prompt, self.card)

    def encode_completion(self, text: str) -> list[int]:
        """Token ids that continue a prompt by exactly this text: no BOS, no space put in front."""
        return prompts.encode_completion(text, self.card)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids without special tokens.

        Ids that do not begin with BOS continue a text, so a space in front is kept. Without a
        tokenizer the ids are written as numbers.
        """
        return prompts.decode(tokens, self.card)

    def token_bytes(self) -> Sequence[bytes | None]:
        """What each token writes in a completion, in UTF-8 bytes; None for special tokens.

        Ids beyond the tokenizer's, which pad some models' vocabularies, are None as well. Raises
        PromptError without a tokenizer, or where the text of a token depends on its neighbours.
        """
        return prompts.token_bytes(self.card)
