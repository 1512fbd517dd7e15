"""The completions of a step of `fit` as text, with what they were given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bayesft.base import sequence_lengths
from bayesft.evidence.reward import Reward
from bayesft.fitting.sequences import Sequences, drawn_sequences
from bayesft.program.record import Recording
from bayesft.target import Target


@dataclasses.dataclass(frozen=True)
class Completion:
    """A completion with its rewards, and `log_ratio` log q − log π0 in nats.

    `log_evidence` is log φ in nats. The scores are None where the program asked for no density.
    """

    prompt: str
    text: str
    rewards: Mapping[str, float]
    log_evidence: float | None
    log_ratio: float | None


def first_completions(recording: Recording, target: Any, num: int) -> list[Completion]:
    """The first `num` completions of a recording: the first of every prompt, then the second, …

    Only these are decoded. Empty where there are none.
    """
    drawn = drawn_sequences(recording, target)
    if drawn is None:
        return []
    num_prompts, per_prompt = drawn.tokens.shape[:2]
    places = [divmod(i, num_prompts)[::-1] for i in range(min(num, num_prompts * per_prompt))]
    at = tuple(np.asarray(places, int).reshape(-1, 2).T)
    chosen: Sequences = jax.device_get(jax.tree.map(lambda a: a[at], drawn))
    lengths = np.asarray(sequence_lengths(chosen.tokens, target.prior.eos))
    ids = np.asarray(recording.xs.id)[at[0]]
    rows = target.prompts.rows(target.prior, ids, chosen.tokens, lengths)
    scores = chosen.scores if bool(drawn.scored) else None
    found = []
    for i, (prompt, text) in enumerate(zip(rows.prompts, rows.completions, strict=True)):
        if scores is None:
            found.append(Completion(prompt_text(prompt), text, {}, None, None))
            continue
        potentials = {name: float(v[i]) for name, v in scores.log_potentials.items()}
        log_ratio = float(chosen.token_log_probs[i].sum() - scores.log_prior[i])
        found.append(
            Completion(
                prompt_text(prompt),
                text,
                _rewards(target, potentials),
                sum(
                    float(term.scaled(potentials[name]))
                    for name, term in target.named_terms.items()
                ),
                log_ratio,
            )
        )
    return found


def prompt_text(prompt: Any) -> str:
    """A prompt as text; of chat messages the roles and contents."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence) and all(isinstance(turn, Mapping) for turn in prompt):
        return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in prompt)
    return str(prompt)


def _rewards(target: Target, potentials: Mapping[str, float]) -> dict[str, float]:
    return {
        name: potentials[name] * float(term.evidence.beta)
        for name, term in target.named_terms.items()
        if isinstance(term.evidence, Reward)
    }
