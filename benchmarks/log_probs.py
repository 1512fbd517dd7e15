"""Log-prob of given tokens and its gradient under a frozen head, beside the plain form.

The plain form holds all logits: log_softmax, then the entries of the tokens. Both sides are
differentiated by the hidden states; `temp` is what the compiled program allocates beside its
arguments and results.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from peers import in_turns, report, seconds

from bayesft.lm.log_probs import log_probs_of

TOKENS, WIDTH = 512, 256
MEGABYTE = 10**6


def plain(tokens, hidden, rows):
    log_probs = jax.nn.log_softmax(hidden @ rows.T)
    return jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]


def compiled(log_probs, hidden, rows, tokens):
    """The compiled value and gradient of the total log-prob."""
    total = lambda hidden, rows, tokens: log_probs(tokens, hidden, rows).sum()
    return jax.jit(jax.value_and_grad(total)).lower(hidden, rows, tokens).compile()


def main() -> None:
    for vocab_size in (32000, 131072):
        of_hidden, of_rows, of_tokens = jax.random.split(jax.random.key(0), 3)
        args = (
            0.2 * jax.random.normal(of_hidden, (TOKENS, WIDTH)),
            0.5 * jax.random.normal(of_rows, (vocab_size, WIDTH)),
            jax.random.randint(of_tokens, (TOKENS,), 0, vocab_size),
        )
        ours, theirs = (compiled(form, *args) for form in (log_probs_of, plain))
        timer = lambda run, args=args: lambda: seconds(lambda: jax.block_until_ready(run(*args)))
        chunked_seconds, plain_seconds = in_turns(timer(ours), timer(theirs))
        chunked_temp, plain_temp = (
            run.memory_analysis().temp_size_in_bytes / MEGABYTE for run in (ours, theirs)
        )
        report(
            f"log-prob and gradient, frozen head, {TOKENS} tokens, D {WIDTH}, V {vocab_size}",
            chunked_seconds=chunked_seconds,
            plain_seconds=plain_seconds,
            ratio=chunked_seconds / plain_seconds,
            asked_at_most=1.0,
            chunked_temp_megabytes=chunked_temp,
            plain_temp_megabytes=plain_temp,
            asked_temp_at_most=32.0,
        )


if __name__ == "__main__":
    main()
