"""What runs on one device, on four, and on two processes of two: the same program, named results.

`python cases.py <results.npz> <name>,<name>,…` runs cases over all devices there are;
`$BAYESFT_PROCESS` = "port,number,id" makes it one of several processes.
"""

import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bayesft as bft
import bayesft.lm

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Every kernel is large enough to be split."""
SEED = 1
NUM_TOKENS = 4

type Results = dict[str, np.ndarray]


def model() -> bayesft.lm.LanguageModel:
    return bayesft.lm.initialise(CONFIG, jax.random.key(0))


class Odd:
    """A reward in Python that counts the rows it was called for in this process."""

    def __init__(self):
        self.num_rows = self.num_calls = 0

    def __call__(self, completion_ids: list[list[int]]) -> list[float]:
        self.num_calls += 1
        self.num_rows += len(completion_ids)
        return [float(sum(token % 2 for token in row)) for row in completion_ids]

    def count(self, results: Results) -> None:
        results["calls"], results["rows"] = np.array(self.num_calls), np.array(self.num_rows)


def _odd(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(jnp.arange(tokens.shape[0]) < length, tokens % 2, 0.0))


def _of_draws(draws: bft.Draws) -> Results:
    found = {
        "tokens": draws.tokens,
        "lengths": draws.lengths,
        "log_weights": draws.log_weights,
        "log_prior": draws.log_prior,
        "log_evidence": draws.log_evidence,
        "log_z": draws.log_z,
        "ancestors": draws.info.get("ancestors"),
    }
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def _of_fit(fitted: bft.Fitted, gather: Callable) -> Results:
    norms = [info.metrics["grad_norm"] for info in fitted.history]
    paths = jax.tree.leaves_with_path(fitted.guide.params)
    params = {jax.tree_util.keystr(path): gather(leaf) for path, leaf in paths}
    return {"values": fitted.values, "grad_norm": np.asarray(norms), **params}


def smc_of_a_language_model(mesh) -> Results:
    """One prompt, whose particles all devices share; resampled whenever weights differ."""
    reward = Odd()
    evidence = bft.evidence.reward(reward, beta=0.5)
    target = bft.Target(model(), evidence, prompts=[[1, 5, 6]], max_new_tokens=NUM_TOKENS)
    sampler = bft.samplers.smc(16, ess_threshold=1.0, every=1)
    results = _of_draws(bft.sample(target, sampler, jax.random.key(SEED), mesh=mesh))
    reward.count(results)
    return results


def smc_from_a_guide(mesh) -> Results:
    """Four prompts, whole ones on each device; a guide proposes beside the prior."""
    vocab = 6
    prior = bft.priors.markov(*_markov(jax.random.key(3), vocab), eos=0)
    guide = bft.trainable(bft.priors.markov(*_markov(jax.random.key(4), vocab), eos=0))
    evidence = bft.evidence.potential(_odd)
    prompts = [[1], [2], [3], [4]]
    target = bft.Target(prior, evidence, prompts=prompts, max_new_tokens=NUM_TOKENS)
    sampler = bft.samplers.smc(8, proposal=guide, ess_threshold=0.9, every=2)
    return _of_draws(bft.sample(target, sampler, jax.random.key(SEED), mesh=mesh))


def rejection(mesh) -> Results:
    prior = bft.priors.markov(*_markov(jax.random.key(3), 6), eos=0)
    evidence = bft.evidence.potential(_odd, bounds=(0.0, NUM_TOKENS))
    target = bft.Target(prior, evidence, max_new_tokens=NUM_TOKENS)
    return _of_draws(bft.sample(target, bft.samplers.rejection(8), jax.random.key(SEED), mesh=mesh))


def _markov(key: jax.Array, vocab: int) -> tuple[jax.Array, jax.Array]:
    initial, transition = jax.random.split(key)
    return (
        jax.nn.log_softmax(jax.random.normal(initial, (vocab,))),
        jax.nn.log_softmax(jax.random.normal(transition, (vocab, vocab))),
    )


def fit_all_parameters(mesh) -> Results:
    """Fully sharded: as many prompts as devices, two steps of momentum."""
    lm = model()
    prompts = [[1, 5, token] for token in range(3, 7)]
    target = bft.Target(
        lm, bft.evidence.potential(_odd), prompts=prompts, max_new_tokens=NUM_TOKENS
    )
    fitted = bft.fit(
        target,
        lm.trainable(),
        objective=bft.objectives.reverse_kl,
        estimator=bft.estimators.leave_one_out(2),
        optimizer=optax.sgd(1e-2, momentum=0.9),
        num_steps=2,
        prompts_per_step=4,
        key=jax.random.key(SEED),
        mesh=mesh,
    )
    return _of_fit(fitted, bft.sharding.to_host)


def fit_an_adapter(mesh) -> Results:
    """One prompt, whose lanes all devices share, with a reward in Python."""
    reward, lm = Odd(), model()
    evidence = bft.evidence.reward(reward, beta=0.5)
    target = bft.Target(lm, evidence, prompts=[[1, 5, 6]], max_new_tokens=NUM_TOKENS)
    fitted = bft.fit(
        target,
        bayesft.lm.lora(lm, rank=2, key=jax.random.key(2)),
        objective=bft.objectives.reverse_kl,
        estimator=bft.estimators.leave_one_out(8),
        optimizer=optax.sgd(1e-2),
        num_steps=2,
        key=jax.random.key(SEED),
        mesh=mesh,
    )
    results = _of_fit(fitted, bft.sharding.to_host)
    reward.count(results)
    return results


CASES = {
    case.__name__: case
    for case in (
        smc_of_a_language_model,
        smc_from_a_guide,
        rejection,
        fit_all_parameters,
        fit_an_adapter,
    )
}


def run(names: list[str], mesh) -> Results:
    found = {name: CASES[name](mesh) for name in names}
    return {f"{name}/{key}": a for name, case in found.items() for key, a in case.items()}


def main(path: str, names: str) -> None:
    if process := os.environ.get("BAYESFT_PROCESS"):
        port, number, process_id = map(int, process.split(","))
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", number, process_id)
    mesh = jax.make_mesh((2, jax.device_count() // 2), ("data", "fsdp"))
    np.savez(path, **run(names.split(","), mesh))  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main(*sys.argv[1:])
