"""Priors written for one sequence: the text of their tokens."""

import jax.numpy as jnp
import pytest

from bayesft.errors import PromptError
from bayesft.priors import markov, trainable


def test_tokens_write_their_text_and_eos_nothing():
    logits = jnp.zeros((4, 4))
    prior = markov(logits[0], logits, eos=3, vocabulary=("a", "é", "", "end"))
    assert prior.token_bytes() == [b"a", "é".encode(), None, None]
    assert trainable(prior).token_bytes() == prior.token_bytes()
    with pytest.raises(PromptError, match="does not say what its tokens write"):
        markov(logits[0], logits, eos=3).token_bytes()
