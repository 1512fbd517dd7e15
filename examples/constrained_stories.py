"""Constraints, and the distribution they ask for: a regular expression and a JSON schema.

    python examples/constrained_stories.py [--quick]

A sampler that masks forbidden tokens and renormalises draws from another distribution than the
prior conditioned on the constraint, unless it weighs. Here the pattern has few enough sentences to
list, so that both can be held against exact frequencies. The story model is taken from
$BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import bayesft as bft
from bayesft.base import Horizon
from bayesft.report import palette
from bayesft.report.estimates import Estimate, estimates_table
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
MOODS, ANIMALS = ("happy", "sad", "wise"), ("cat", "dog", "bird", "bunny")
PATTERN = f" there was a ({'|'.join(MOODS)}) ({'|'.join(ANIMALS)})\\."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["Lily", "Tim", "Max", "Spot"]},
        "kind": {"type": "string", "enum": ["girl", "boy", "cat", "dog"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["name", "kind", "age"],
    "additionalProperties": False,
}
PROMPT = "Once upon a time,"


def main(num_particles: int, num_tokens: int):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))
    lm = bft.lm.load(ASSETS / "stories260K")
    proposals = {
        "locally optimal": bft.samplers.locally_optimal(),
        "adaptive rejection": bft.samplers.adaptive_weighted_rejection(),
    }

    # A regular expression, as a table on the device.
    regex = bft.evidence.regex(f"{PATTERN}(?s:.*)", lm)
    target = bft.Target(lm, regex, prompts=[PROMPT], max_new_tokens=num_tokens)
    draws = {}
    for name, proposal in proposals.items():
        with progress.call(f"conditioning on a pattern, {name}"):
            sampler = bft.samplers.smc(num_particles, proposal)
            draws[name] = bft.sample(target, sampler, next(keys))
    pairs = itertools.product(MOODS, ANIMALS)
    sentences = [f" there was a {mood} {animal}." for mood, animal in pairs]
    exact = probabilities(lm, jax.tree.map(lambda a: a[0], target.xs), sentences)
    with progress.call("masking only"):
        masking = bft.samplers.importance(num_particles, bft.samplers.locally_optimal())
        masked = bft.sample(target, masking, next(keys))
    # Without its weights, that is what a sampler draws that masks and renormalises.
    masked = dataclasses.replace(masked, log_weights=0 * masked.log_prior)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("sentence", "exact", *proposals, "masked only"):
        table.add_column(column, justify="left" if column == "sentence" else "right")
    *weighted, masked = [frequencies(each, first) for each in (*draws.values(), masked)]
    for sentence in sorted(exact, key=exact.__getitem__, reverse=True)[:8]:
        shares = [exact[sentence], *(w[sentence] for w in weighted), masked[sentence]]
        table.add_row(sentence.strip(), *(f"{share:.3f}" for share in shares))
    distances = [distance(w, exact) for w in (*weighted, masked)]
    table.add_section()
    table.add_row("total variation from exact", "", *(f"{d:.3f}" for d in distances))
    console.print(f"[bold]Stories that begin{PATTERN}[/]\n", table)
    console.print(
        "exact: of the one spelling in tokens that the tokenizer gives each sentence.\n",
        estimates_table([Estimate(name, each, palette.POSTERIOR) for name, each in draws.items()]),
        "",
    )

    # A JSON schema, by llguidance's masks.
    schema = bft.evidence.json_schema(SCHEMA, lm, whitespace=False)
    settings = {"prompts": [PROMPT], "max_new_tokens": 4 * num_tokens, "eos": "condition"}
    target = bft.Target(lm, schema, **settings)
    with progress.call("conditioning on a JSON schema"):
        sampler = bft.samplers.smc(num_particles, bft.samplers.locally_optimal())
        found = bft.sample(target, sampler, next(keys))
    console.print("[bold]JSON of a schema, from a model of stories[/]\n")
    for text, share in frequencies(found).most_common(6):
        console.print(f"  {share:6.3f}  {json.dumps(json.loads(text))}")
    console.print("", estimates_table([Estimate("locally optimal", found, palette.POSTERIOR)]))


def first(text: str) -> str:
    """The sentence that the pattern asks for."""
    return re.match(PATTERN, text).group()


def frequencies(draws: bft.Draws, part=str) -> collections.Counter[str]:
    """Weighted share of each text, or of a part of it."""
    shares: collections.Counter[str] = collections.Counter()
    for text, weight in zip(draws.text[0], np.asarray(draws.weights[0]), strict=True):
        if weight > 0:
            shares[part(text)] += float(weight)
    return shares


def probabilities(lm, x: bft.Prompt, sentences: list[str]) -> dict[str, float]:
    """The conditional distribution of the sentences, each in its tokenizer's spelling."""
    rows = [jnp.asarray(lm.encode_completion(sentence)) for sentence in sentences]
    log_probs = np.array([lm.token_log_probs(y, x, Horizon(y.size)).sum() for y in rows])
    shares = np.exp(log_probs - np.logaddexp.reduce(log_probs))
    return dict(zip(sentences, shares.tolist(), strict=True))


def distance(shares: collections.Counter[str], exact: dict[str, float]) -> float:
    return sum(abs(shares[text] - exact.get(text, 0.0)) for text in {*shares, *exact}) / 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    main(*((64, 16) if parser.parse_args().quick else (1024, 16)))
