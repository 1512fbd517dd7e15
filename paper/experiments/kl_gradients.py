"""KL penalties as they are written in losses and rewards: the exact error of each one's gradient.

    ∇KL(π ‖ ρ) = E_π[Σ_t ∇log π(y_t | y_<t)·log π(y)/ρ(y)]

for autoregressive policies of length 2 over V = 3, by enumeration of the nine sequences. With the
ratio r = ρ/π of a token or of the sequence, k1 = −log r, k2 = (log r)²/2 and k3 = r − 1 − log r all
have the mean KL; as losses and as rewards they have other gradients. "Ours" is what
`bft.objectives.reverse_kl` gives in the mean over all draws that an estimator can make.

Run from the repository's root: `python paper/experiments/kl_gradients.py` (seconds). Writes
paper/results/kl_gradients.json.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import bayesft as bft
from bayesft.base import Estimator, ScoreEstimator, StatefulEstimator
from bayesft.priors.sequence import bind
from bayesft.program import record, replay_value_and_grad

SEED, V, T = 1, 3, 2
SEQUENCES = np.asarray(list(itertools.product(range(V), repeat=T)))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "kl_gradients.json"


def logits() -> list[tuple[np.ndarray, np.ndarray]]:
    """(a [V], b [V, V]) of policy and reference: π(y) = softmax(a)[y_1]·softmax(b[y_1])[y_2]."""
    random = np.random.default_rng(SEED)
    return [(random.normal(size=V), random.normal(size=(V, V))) for _ in range(2)]


POLICY, REFERENCE = logits()


# ---- what people write ---------------------------------------------------------------------------


def token_log_probs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log π(y_t | y_<t) of every sequence, [9, T]."""
    first, second = SEQUENCES.T
    log_a = a - np.logaddexp.reduce(a)
    log_b = b - np.logaddexp.reduce(b, axis=1, keepdims=True)
    return np.stack([log_a[first], log_b[first, second]], 1)


def scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """∇log π(y_t | y_<t) in (a, b), [9, T, V + V²]."""
    result = np.zeros((len(SEQUENCES), T, V + V * V))
    for row, (first, second) in zip(result, SEQUENCES, strict=True):
        at = slice(V + V * first, V + V * (first + 1))
        row[0, :V] = np.eye(V)[first] - np.exp(a - np.logaddexp.reduce(a))
        row[1, at] = np.eye(V)[second] - np.exp(b[first] - np.logaddexp.reduce(b[first]))
    return result


def k1(log_r: np.ndarray) -> np.ndarray:
    return -log_r


def k2(log_r: np.ndarray) -> np.ndarray:
    return log_r**2 / 2


def k3(log_r: np.ndarray) -> np.ndarray:
    return np.expm1(log_r) - log_r


# ∂k/∂log π = −∂k/∂log r: as a loss, a term is differentiated with the draws held fixed.
SLOPES = {k1: lambda log_r: np.ones_like(log_r), k2: k1, k3: lambda log_r: -np.expm1(log_r)}


def gradients() -> dict[str, np.ndarray]:
    """E_π[Σ_t c_t·∇log π(y_t | y_<t)] for the c_t of every term; the first one is ∇KL."""
    tokens = token_log_probs(*REFERENCE) - token_log_probs(*POLICY)
    whole = np.repeat(tokens.sum(1, keepdims=True), T, axis=1)
    later = lambda costs: np.cumsum(costs[:, ::-1], axis=1)[:, ::-1]
    factors = {"KL": -whole}
    for k, slope in SLOPES.items():
        name = k.__name__
        factors[f"{name} of tokens, in the loss"] = slope(tokens)
        factors[f"{name} of the sequence, in the loss"] = slope(whole)
        factors[f"{name} of tokens, in the reward, own token only"] = k(tokens)
        factors[f"{name} of tokens, in the reward, return-to-go"] = later(k(tokens))
        factors[f"{name} of the sequence, in the reward"] = k(whole)
    probs = np.exp(token_log_probs(*POLICY).sum(1))
    score = scores(*POLICY)
    return {name: np.einsum("y,yt,ytp->p", probs, c, score) for name, c in factors.items()}


# ---- ours ----------------------------------------------------------------------------------------


def prior(a: np.ndarray, b: np.ndarray):
    """The policy as a prior of four tokens, of which the last, EOS, is impossible."""
    never = np.full((V, 1), -np.inf)
    unused = np.full((1, V + 1), -np.inf)
    transitions = np.concatenate([np.concatenate([b, never], 1), unused])
    return bft.priors.markov(jnp.append(a, -jnp.inf), jnp.asarray(transitions), eos=V)


TARGET = bft.Target(prior(*REFERENCE), max_new_tokens=T)
GUIDE = bind(bft.trainable(prior(*POLICY)), TARGET.horizon)


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A uniform proposal, seen at one of its draws."""

    tokens: jax.Array

    def sample(self, key):
        return self.tokens

    def log_prob(self, tokens):
        return -jnp.log(float(len(SEQUENCES)))


def of_draws(estimator: Estimator, tokens: jax.Array) -> jax.Array:
    """The gradient that one step makes of the draws [K, T] of its lanes, [V + V²]."""
    xs = TARGET.xs
    distribution = GUIDE(jax.tree.map(lambda a: a[0], xs))
    log_probs = jax.vmap(distribution.token_log_probs)(tokens)
    stateful = isinstance(estimator, StatefulEstimator)
    recorded = isinstance(estimator, ScoreEstimator)  # others choose at every replay
    recording = record(
        bft.objectives.reverse_kl,
        jax.random.key(0),
        (GUIDE, TARGET),
        xs,
        estimator=estimator,
        given={"y": (tokens[None], log_probs[None])} if recorded else None,
        states={"y": (jnp.float32(1.0), jnp.float32(2.0))} if stateful else None,
    )
    with_params = lambda params: (GUIDE.with_params(params), TARGET)
    _, gradient = replay_value_and_grad(
        bft.objectives.reverse_kl, with_params, GUIDE.params, recording, estimator=estimator
    )
    a, b = gradient[".initial_logits"], gradient[".transition_logits"]
    return jnp.concatenate([a[:V], b[:V, :V].ravel()])


def mean_gradient(estimator: Estimator) -> np.ndarray:
    """Σ over all draws of the K lanes of their probability times the gradient made of them."""
    lanes = list(itertools.product(range(len(SEQUENCES)), repeat=estimator.num_samples))
    log_probs = token_log_probs(*POLICY).sum(1)
    each = jax.jit(jax.vmap(lambda tokens: of_draws(estimator, tokens)))
    found = each(jnp.asarray(SEQUENCES[np.asarray(lanes)], jnp.int32))
    return np.exp(log_probs[np.asarray(lanes)].sum(1)) @ np.asarray(found, np.float64)


def mean_importance_gradient() -> np.ndarray:
    """The mean over all draws of the proposal of the gradient that `importance` makes of them."""

    def of_draw(tokens):
        return of_draws(bft.estimators.importance(Known(tokens)), tokens[None])

    found = jax.jit(jax.vmap(of_draw))(jnp.asarray(SEQUENCES, jnp.int32))
    return np.asarray(found, np.float64).mean(0)


def ours() -> dict[str, np.ndarray]:
    estimators = {
        "score_function()": bft.estimators.score_function(),
        "moving_average(0.9)": bft.estimators.moving_average(0.9),
        "leave_one_out(2)": bft.estimators.leave_one_out(2),
        "enumerate()": bft.estimators.enumerate(),
    }
    found = {name: mean_gradient(estimator) for name, estimator in estimators.items()}
    return found | {"importance(uniform)": mean_importance_gradient()}


# ---- results -------------------------------------------------------------------------------------


def relative_error(gradient: np.ndarray, truth: np.ndarray) -> float:
    """‖g − ∇KL‖ / ‖∇KL‖."""
    return float(np.linalg.norm(gradient - truth) / np.linalg.norm(truth))


def results() -> dict:
    terms = gradients()
    truth = terms.pop("KL")
    errors = lambda found: {name: relative_error(g, truth) for name, g in found.items()}
    log_policy, log_reference = (token_log_probs(*each).sum(1) for each in (POLICY, REFERENCE))
    return {
        "seed": SEED,
        "kl": float(np.exp(log_policy) @ (log_policy - log_reference)),
        "norm_of_gradient": float(np.linalg.norm(truth)),
        "relative_error": errors(terms),
        "relative_error_of_reverse_kl": errors(ours()),
    }


def main() -> None:
    found = results()
    for name, error in (found["relative_error"] | found["relative_error_of_reverse_kl"]).items():
        print(f"{name:50s} {error:10.2e}" if error < 1e-3 else f"{name:50s} {error:10.3f}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
