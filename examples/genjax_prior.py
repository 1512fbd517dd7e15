"""A melody that GenJAX composes and bayesft steers, and a bayesft prior inside a GenJAX model.

    python examples/genjax_prior.py [--quick]

A generative function writes one note after another. As a prior it takes evidence (end on the
tonic, avoid leaps) and every sampler; the posterior is small enough to enumerate. Back in GenJAX
the same prior is a distribution, and importance sampling with `generate` finds the same evidence.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from genjax import categorical, flip, gen, seed
from rich import box
from rich.console import Console
from rich.table import Table

import bayesft as bft

NOTES = ("C ", "D ", "E ", "F ", "G ", ".")
END = NOTES.index(".")
NUM_NOTES = 5


@gen
def next_note(state, habits):
    """A walk that prefers small steps and remembers its direction."""
    last, direction = state
    at = jnp.arange(len(NOTES))
    logits = -habits["leap"] * jnp.abs(at - last) + habits["drift"] * direction * (at - last)
    note = categorical(jnp.where(at == END, habits["stop"], logits)) @ "note"
    return (note, jnp.where(note == END, 0, jnp.sign(note - last))), note


def leaps_less(tokens, length):
    """−0.5 nats for each step of the scale beyond one between neighbours."""
    steps = jnp.abs(jnp.diff(tokens))
    inside = jnp.arange(1, tokens.shape[0]) < length
    return -0.5 * jnp.sum(jnp.where(inside & (tokens[1:] != END), jnp.maximum(steps - 1, 0), 0))


def ends_on_the_tonic(tokens, length):
    last = tokens[jnp.maximum(length - 1 - (tokens[length - 1] == END), 0)]
    return jnp.where(last == 0, 0.0, -3.0)


def main(num_particles: int) -> None:
    console = Console(highlight=False)
    habits = {"leap": 0.7, "drift": 0.3, "stop": -1.5}
    prior = bft.interop.genjax.prior(
        next_note,
        (jnp.int32(2), jnp.int32(0)),
        inputs=habits,
        vocab_size=len(NOTES),
        eos=END,
        vocabulary=NOTES,
    )
    evidence = bft.evidence.potential(ends_on_the_tonic) + bft.evidence.potential(leaps_less)
    target = bft.Target(prior, evidence, max_new_tokens=NUM_NOTES)
    exact = bft.testing.enumerate_target(target)
    draws = bft.sample(target, bft.samplers.smc(num_particles), jax.random.key(0))

    # The same evidence in GenJAX, as the chance that a listener likes the melody.
    melody = bft.interop.genjax.distribution(prior, NUM_NOTES)

    @gen
    def concert():
        notes = melody() @ "notes"
        length = jnp.where((notes == END).any(), jnp.argmax(notes == END) + 1, NUM_NOTES)
        log_liked = ends_on_the_tonic(notes, length) + leaps_less(notes, length)
        flip(jnp.exp(log_liked)) @ "liked"
        return notes

    keys = jax.random.split(jax.random.key(1), num_particles)
    weigh = jax.jit(jax.vmap(lambda key: seed(concert.generate)(key, {"liked": True})[1]))
    weights = np.exp(weigh(keys))

    table = Table(title="log Z: how likely a liked melody is", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("nats", justify="right")
    table.add_row("enumeration", f"{float(exact.log_z):.3f}")
    table.add_row("bft.samplers.smc", f"{float(draws.log_z[0]):.3f}")
    error = weights.std() / weights.mean() / np.sqrt(num_particles)
    table.add_row("genjax generate", f"{np.log(weights.mean()):.3f} ± {error:.3f}")
    console.print(table)
    best = np.argsort(-np.asarray(exact.log_probs))[:3]
    for row in best:
        text = prior.decode(exact.tokens[row])
        console.print(f"{text:<12} {np.exp(exact.log_probs[row]):.3f}  the most likely melodies")
    for text in draws.resample(jax.random.key(2), 3).text[0]:
        console.print(f"{text:<12}        a draw")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few particles, to see that it runs")
    main(256 if parser.parse_args().quick else 4096)
