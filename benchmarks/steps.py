"""bayesft's training steps on a model folder: `steps.py KIND FOLDER [ROWS]`.

A request is some steps. A process of its own, as TRL's is, so that its peak memory is its own. KIND
is sft, dpo or grpo; prompts are one token, as TRL scores all tokens but the first. ROWS of a batch
are differentiated at a time, by default all.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bayesft as bft
from bayesft.base import Horizon
from bayesft.priors.sequence import BoundGuide, bind

SIZES = json.loads(Path(__file__).with_name("steps.json").read_text())
ROWS, LENGTH, GROUP, NEW = (SIZES[name] for name in ("rows", "length", "group", "new"))
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
BETA = 0.1


def token_ids(lm, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(4, lm.vocab_size, shape)


def fitted(target, lm, objective, steps: int, **options) -> float:
    found = bft.fit(
        target,
        bft.trainable(lm),
        objective=objective,
        optimizer=OPTIMIZER,
        num_steps=steps,
        key=jax.random.key(0),
        **options,
    )
    return statistics.median(info.seconds for info in found.history[1:])


def sft(lm, steps: int, at_a_time: int | None):
    ids = token_ids(lm, ROWS * steps, LENGTH).tolist()
    data = bft.empirical([row[1:] for row in ids], prompts=[row[:1] for row in ids])
    return lambda: fitted(
        data, lm, bft.objectives.mle, steps, micro_batch=at_a_time, prompts_per_step=ROWS
    )


def grpo(lm, steps: int, at_a_time: int | None):
    """Reverse KL to the tilted prior: sampling, the reward, the reference's scores, one update."""

    def reward(completions, **_):
        return [float(text.count("7")) for text in completions]

    evidence = bft.evidence.reward(reward, beta=0.04)
    prompts = token_ids(lm, GROUP * steps, 1).tolist()
    target = bft.Target(lm, evidence, prompts=prompts, max_new_tokens=NEW)
    return lambda: fitted(
        target,
        lm,
        bft.objectives.reverse_kl,
        steps,
        estimator=bft.estimators.leave_one_out(num_samples=GROUP),
        micro_batch=at_a_time,
        prompts_per_step=GROUP,
    )


def dpo(lm, steps: int, at_a_time: int | None):
    """−log σ(β·(log q − log π0)(chosen) − β·(log q − log π0)(rejected)) (Rafailov et al. 2023)."""
    ids = token_ids(lm, ROWS * steps, 2, LENGTH - 1)
    ids[..., -1] = lm.eos[0]
    prompts = token_ids(lm, ROWS * steps, 1).tolist()
    pairs = jnp.asarray(ids, jnp.int32).reshape(steps, ROWS, 2, LENGTH - 1)
    xs = bft.empirical(ids[:, 0].tolist(), prompts=prompts).bind(lm).xs
    xs = dataclasses.replace(xs, observed=None)
    xs = jax.tree.map(lambda a: a.reshape(steps, ROWS, *a.shape[1:]), xs)
    horizon = Horizon(LENGTH - 1)
    start = bft.trainable(lm)
    frame = bind(start.with_params(None), horizon)

    def log_ratio(guide: BoundGuide, lm, x, pair):
        score = lambda y: guide(x).log_prob(y) - lm.token_log_probs(y, x, horizon).sum()
        return jax.vmap(score)(pair)

    def loss(params, frame, lm, xs, pairs):
        ratios = jax.vmap(log_ratio, (None, None, 0, 0))(frame.with_params(params), lm, xs, pairs)
        return -jax.nn.log_sigmoid(BETA * (ratios[:, 0] - ratios[:, 1])).mean()

    def step(params, state, frame, lm, xs, pairs):
        def add(sums, rows):
            found = jax.value_and_grad(loss)(params, frame, lm, *rows)
            return jax.tree.map(jnp.add, sums, found), None

        size = at_a_time or ROWS
        pieces = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), (xs, pairs))
        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        sums, _ = jax.lax.scan(add, zeros, pieces)
        value, gradient = jax.tree.map(lambda a: a * (size / ROWS), sums)
        updates, state = OPTIMIZER.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    compiled = jax.jit(step, donate_argnums=(0, 1))
    run = lambda params, state, *batch: compiled(params, state, frame, lm, *batch)
    batches = [jax.tree.map(lambda a, i=i: a[i], (xs, pairs)) for i in range(steps)]
    return lambda: timed(run, start.params, batches)


def timed(step, params, batches) -> float:
    """Median seconds of a step that may take its parameters' place; the first one compiles."""
    params = jax.tree.map(jnp.copy, params)
    state, times = OPTIMIZER.init(params), []
    for batch in batches:
        started = time.perf_counter()
        params, state, value = step(params, state, *batch)
        float(value)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def serve(run) -> None:
    """Answer every request by the seconds of a run and this process's peak memory."""
    print(json.dumps({"ready": jax.__version__}), flush=True)
    for _ in sys.stdin:
        seconds = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak}), flush=True)


def main(kind: str, folder: str, at_a_time: str = "") -> None:
    make = {"sft": sft, "dpo": dpo, "grpo": grpo}[kind]
    rows = int(at_a_time) if at_a_time else None
    serve(make(bft.lm.load(folder), SIZES["steps"][kind], rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
