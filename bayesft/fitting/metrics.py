"""What a step of `fit` reports beside its objective, under the names that TRL's users know.

Everything is read off the recording: no model runs again. A number that an objective does not have
is absent. log q is that of the distribution which the completion was drawn from, and groups are
the n completions of a prompt, as in GRPO.

| name | what it is |
|---|---|
| `reward` | Σ scale·r over the rewards, where they share one β: the mean completion's |
| `reward_std`, `frac_reward_zero_std` | its standard deviation in a group; share of groups with 0 |
| `rewards/{name}/mean`, `/std` | of each reward, over all completions, in its own units |
| `log_potentials/{name}/mean` | of any other evidence, unscaled, in nats |
| `log_evidence` | E[log φ] in nats |
| `kl` | E[log q − log π0] in nats per completion |
| `entropy` | −log q in nats per token |
| `ess_share` | ESS of the weights π0·φ/q in a group, over n; `forward_kl`: of its draws |
| `completions/…` | lengths, EOS counted, and the share without EOS (`clipped_ratio`) |
| `num_tokens` | tokens of prompts and completions so far |
| `num_completion_tokens` | those of completions in the step; trackers log `tokens_per_second` |
| `grad_norm`, `learning_rate` | the latter where the optimiser's state has it |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bayesft.base import Prompt, PyTree, is_eos, sequence_lengths
from bayesft.draws import effective_sample_size
from bayesft.evidence.reward import Reward
from bayesft.fitting.sequences import Scores, Sequences, drawn_sequences
from bayesft.program.record import Recording
from bayesft.target import Target

ALIKE = 1e-8
"""Rewards of a group with a standard deviation of at most this teach nothing."""


def measure(recording: Recording, target: Any, eos: tuple[int, ...]) -> dict[str, float]:
    """What the recording tells, with `num_tokens` and `num_completion_tokens` those of the step."""
    sequences = drawn_sequences(recording, target)
    if sequences is None:
        return _of_observed(recording.xs, target, eos)
    named = target.named_terms.items()
    scales = {name: term.scale for name, term in named}
    betas = {name: term.evidence.beta for name, term in named if isinstance(term.evidence, Reward)}
    shared = len({float(beta) for beta in betas.values()}) == 1
    tokens = jax.device_get(_of_tokens(sequences, recording.xs.length, eos))
    found = {name: float(value) for name, value in tokens.items() if not np.isnan(value)}
    if not found.pop("scored"):
        return found
    scores = jax.device_get(_of_scores(sequences, scales, betas, shared))
    return found | {name: float(value) for name, value in scores.items()}


def learning_rate(state: PyTree) -> dict[str, float]:
    """The rate of the last update, where the optimiser's state has one, as that of
    `optax.inject_hyperparams` does."""
    found = [
        value
        for _, value in optax.tree.get_all_with_path(state, "learning_rate")
        if isinstance(value, jax.Array)  # a schedule's own state stands under its name too
    ]
    return {"learning_rate": float(found[0])} if len(found) == 1 else {}


@functools.partial(jax.jit, static_argnums=2)
def _of_tokens(
    drawn: Sequences, prompt_lengths: Int[Array, " P"], eos: tuple[int, ...]
) -> dict[str, Array]:
    lengths = sequence_lengths(drawn.tokens, eos)
    ended = is_eos(drawn.tokens, eos).any(-1)
    num_ended, total = ended.sum(), lengths.sum()
    only_ended = lambda value: jnp.where(num_ended > 0, value, jnp.nan)
    named = {
        "mean_length": lengths.mean(),
        "min_length": lengths.min(),
        "max_length": lengths.max(),
        "mean_terminated_length": only_ended((lengths * ended).sum() / num_ended),
        "min_terminated_length": only_ended(jnp.where(ended, lengths, lengths.max()).min()),
        "max_terminated_length": only_ended((lengths * ended).max()),
        "clipped_ratio": 1 - ended.mean(),
    }
    return {
        **{f"completions/{name}": value for name, value in named.items()},
        "entropy": -drawn.token_log_probs.sum() / total,
        "num_completion_tokens": total,
        "num_tokens": total + prompt_lengths.sum() * lengths.shape[1],
        "scored": drawn.scored,
    }


@functools.partial(jax.jit, static_argnums=3)
def _of_scores(
    drawn: Sequences, scales: dict[str, Any], betas: dict[str, Array], shared: bool
) -> dict[str, Array]:
    scores = drawn.scores
    assert scores is not None
    log_q, num = drawn.token_log_probs.sum(-1), drawn.tokens.shape[1]
    scaled = _scaled(scores, scales)
    log_evidence = sum(scaled.values(), jnp.zeros(log_q.shape))
    found = {
        "kl": (log_q - scores.log_prior).mean(),
        "log_evidence": log_evidence.mean(),
    }
    if num > 1:
        ess = effective_sample_size(scores.log_prior + log_evidence - log_q)
        found["ess_share"] = ess.mean() / num
    for name, values in scores.log_potentials.items():
        if name not in betas:
            found[f"log_potentials/{name}/mean"] = values.mean()
            continue
        rewards = values * betas[name]
        found[f"rewards/{name}/mean"] = rewards.mean()
        if rewards.size > 1:
            found[f"rewards/{name}/std"] = rewards.std(ddof=1)
    if shared:
        beta = next(iter(betas.values()))
        reward = beta * sum((scaled[name] for name in betas), jnp.zeros(log_q.shape))
        found["reward"] = reward.mean()
        if num > 1:
            spread = reward.std(-1, ddof=1)
            found["reward_std"] = spread.mean()
            found["frac_reward_zero_std"] = (spread <= ALIKE).mean()
    return found


def _scaled(scores: Scores, scales: dict[str, Any]) -> dict[str, Float[Array, "P n"]]:
    """scale·log φ by name, where a scale of 0 switches even -inf off."""
    return {
        name: jnp.where(scales[name] == 0, 0.0, scales[name] * values)
        for name, values in scores.log_potentials.items()
    }


def _of_observed(xs: Prompt, target: Any, eos: tuple[int, ...]) -> dict[str, float]:
    """Of rows that come from data, or from a sampler of the target with weights."""
    if xs.observed is None:
        return {}
    total, prompts = jax.device_get(_count(xs, eos))
    found = {"num_completion_tokens": float(total), "num_tokens": float(total + prompts)}
    if isinstance(target, Target):
        weights = np.asarray(xs.observed.weight, np.float64)
        groups = weights.reshape(len(np.unique(np.asarray(xs.id))), -1)
        squares = np.maximum(np.square(groups).sum(1), 1e-30)
        found["ess_share"] = float((groups.sum(1) ** 2 / squares).mean() / groups.shape[1])
    return found


@functools.partial(jax.jit, static_argnums=1)
def _count(xs: Prompt, eos: tuple[int, ...]) -> tuple[Array, Array]:
    assert xs.observed is not None
    return sequence_lengths(xs.observed.tokens, eos).sum(), xs.length.sum()
