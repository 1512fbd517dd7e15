"""What runs on one device, on four, and on two processes of two: the same program, named results.

`python cases.py <results.npz> <name>,<name>,…` runs cases over all devices there are;
`$BAYESFT_PROCESS` = "port,number,id" makes it one of several processes. Cases ahead of a "/" run
first, in a process that is killed, under "port/port".
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import multihost_utils
from sharding import kept

import bayesft as bft
import bayesft.lm
from bayesft.base import Horizon, Prompt
from bayesft.samplers import sequential

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


def odd(tokens: jax.Array, length: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(jnp.arange(tokens.shape[0]) < length, tokens % 2, 0.0))


def of_draws(draws: bft.Draws) -> Results:
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
    results = of_draws(bft.sample(target, sampler, jax.random.key(SEED), mesh=mesh))
    reward.count(results)
    return results


def smc_from_a_guide(mesh) -> Results:
    """Four prompts, whole ones on each device; a guide proposes beside the prior."""
    prior = bft.priors.markov(*markov(jax.random.key(3)), eos=0)
    guide = bft.trainable(bft.priors.markov(*markov(jax.random.key(4)), eos=0))
    evidence = bft.evidence.potential(odd)
    prompts = [[1], [2], [3], [4]]
    target = bft.Target(prior, evidence, prompts=prompts, max_new_tokens=NUM_TOKENS)
    sampler = bft.samplers.smc(8, proposal=guide, ess_threshold=0.9, every=2)
    return of_draws(bft.sample(target, sampler, jax.random.key(SEED), mesh=mesh))


def markov(key: jax.Array, vocab: int = 6) -> tuple[jax.Array, jax.Array]:
    initial, transition = jax.random.split(key)
    return (
        jax.nn.log_softmax(jax.random.normal(initial, (vocab,))),
        jax.nn.log_softmax(jax.random.normal(transition, (vocab, vocab))),
    )


def fit_all_parameters(mesh) -> Results:
    """Fully sharded: as many prompts as devices, two steps of momentum."""
    lm = model()
    prompts = [[1, 5, token] for token in range(3, 7)]
    target = bft.Target(lm, bft.evidence.potential(odd), prompts=prompts, max_new_tokens=NUM_TOKENS)
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


def fit_a_markov_guide(mesh) -> Results:
    """No parameter is large enough to be split; each step draws from the target by rejection."""
    prior = bft.priors.markov(*markov(jax.random.key(3)), eos=0)
    evidence = bft.evidence.potential(odd, bounds=(0.0, NUM_TOKENS))
    target = bft.Target(prior, evidence, prompts=[[1], [2]], max_new_tokens=NUM_TOKENS)
    fitted = bft.fit(
        target,
        bft.trainable(prior),
        objective=bft.objectives.forward_kl(bft.samplers.rejection(8)),
        optimizer=optax.sgd(0.1),
        num_steps=2,
        key=jax.random.key(SEED),
        mesh=mesh,
    )
    return _of_fit(fitted, np.asarray)


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


class Averages(nnx.Module):
    """logits_t = W · tanh(mean of the embeddings up to t), with parameters that are split."""

    def __init__(self):
        rngs, normal = nnx.Rngs(0), nnx.initializers.normal(0.3)
        self.embed = nnx.Embed(128, 64, embedding_init=normal, rngs=rngs)
        self.out = nnx.Linear(64, 128, kernel_init=normal, rngs=rngs)

    def read(self, total: jax.Array, count: jax.Array) -> jax.Array:
        return self.out(jnp.tanh(total / count[..., None]))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        total = jnp.cumsum(self.embed(tokens), axis=1)
        return self.read(total, jnp.arange(1.0, tokens.shape[1] + 1)[None])


def user_module() -> bft.base.Prior:
    """A user's module that decodes by its own steps; its cache has an array and a scalar."""

    def init(module, tokens, lengths, max_new_tokens):
        real = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        total = jnp.where(real[..., None], module.embed(tokens), 0.0).sum(1)
        return {"total": total, "limit": jnp.int32(max_new_tokens)}, module.read(total, lengths)

    def step(module, cache, tokens, positions):
        total = cache["total"] + module.embed(tokens)
        return cache | {"total": total}, module.read(total, positions + 1)

    return bayesft.lm.from_module(Averages(), eos=2, init=init, step=step)


def fit_a_user_module(mesh) -> Results:
    """One prompt; SMC that proposes from the guide, and resamples, draws what it is fitted to."""
    prior = user_module()
    evidence = bft.evidence.prefix_potential(lambda state, token: (state, (token % 2) * 1.0), ())
    target = bft.Target(prior, evidence, prompts=[[1, 5, 6]], max_new_tokens=NUM_TOKENS)
    smc = lambda guide: bft.samplers.smc(16, proposal=guide, ess_threshold=1.0, every=1)
    fitted = bft.fit(
        target,
        bft.trainable(prior),
        objective=bft.objectives.forward_kl(smc),
        optimizer=optax.sgd(1e-1),
        num_steps=2,
        key=jax.random.key(SEED),
        mesh=mesh,
    )
    return _of_fit(fitted, bft.sharding.to_host)


def int8_kernels(mesh) -> Results:
    """Log-probs of an adapter over them, and its gradient; every device has a share."""
    mesh = mesh and jax.make_mesh((jax.device_count(),), ("fsdp",))
    lm = bayesft.lm.quantize(model())
    guide = bayesft.lm.lora(lm, rank=2, key=jax.random.key(2))
    params = jax.tree.map(lambda a: a + 0.1, guide.params)
    x = Prompt(jnp.array([1, 5, 6], jnp.int32), jnp.int32(3), jnp.int32(0))
    rows = jnp.arange(16, dtype=jnp.int32).reshape(4, NUM_TOKENS) + 3

    @jax.jit
    def score(params, guide):
        horizon = Horizon(NUM_TOKENS)
        log_probs = jax.vmap(guide.with_params(params).token_log_probs, (0, None, None))
        found = log_probs(rows, x, horizon)
        return found.sum(), found

    with bft.sharding.on(mesh):
        params, guide = bft.sharding.place((params, guide))
        (_, log_probs), gradient = jax.value_and_grad(score, has_aux=True)(params, guide)
    found = {"log_probs": np.asarray(log_probs)}
    for path, leaf in jax.tree.leaves_with_path(gradient):
        found[jax.tree_util.keystr(path)] = np.asarray(leaf)
    if mesh is None:
        return found
    with bft.sharding.on(mesh):
        compiled = score.lower(params, guide).compile().as_text()
    kernels = [leaf for leaf in jax.tree.leaves(guide.weights) if leaf.dtype == np.int8]
    shares = [_share(leaf) for leaf in kernels]
    return found | {"share": np.asarray(shares), "compiled": np.asarray(compiled)}


CASES = {
    case.__name__: case
    for case in (
        smc_of_a_language_model,
        smc_from_a_guide,
        fit_all_parameters,
        fit_a_markov_guide,
        fit_an_adapter,
        fit_a_user_module,
        int8_kernels,
    )
}
"""What gives the same numbers whatever the mesh."""


def layout(mesh) -> Results:
    """How much of each array a device holds, and the collectives of the compiled programs."""
    lm, found = model(), {}
    target = bft.Target(lm, prompts=[[1, 5, 6]], max_new_tokens=NUM_TOKENS)
    with bft.sharding.on(mesh):
        target = target.placed(bft.sharding.place)
        sampler = bft.samplers.smc(16)
        state = sampler.init(target, jax.random.key(SEED))
        keys, _ = state.particles.models.layers[0]
        parts = sampler.parts(target, jax.random.key(SEED))
        decode = sequential.advance.lower(
            target, parts[0], state.schedule, parts[1], state.particles, NUM_TOKENS
        )
        params = bft.sharding.place(lm.trainable().params)
        moments = optax.adam(1e-3).init(params)[0].mu
        own = bft.Target(user_module(), prompts=[[1, 5, 6]], max_new_tokens=NUM_TOKENS)
        cached = sampler.init(own, jax.random.key(SEED)).particles.models.cache
    found["cache"], found["user's cache"] = _share(keys), _share(cached["total"])
    found["tokens"] = _share(state.particles.paths.tokens)
    for name, tree in (("params", params), ("moments", moments)):
        found[name] = np.asarray([_share(leaf) for leaf in jax.tree.leaves(tree)])
    found["decode"] = np.asarray(decode.compile().as_text())
    return found


def _share(array: jax.Array) -> np.ndarray:
    return np.asarray(array.addressable_shards[0].data.size / array.size)


def saved(mesh) -> Results:
    """Parameters whose shares lie in both processes, written and read."""
    folder = Path(os.environ["BAYESFT_FOLDER"]) / "saved"
    guide = model().trainable()
    with bft.sharding.on(mesh):
        guide.with_params(bft.sharding.place(guide.params)).save(folder)
    multihost_utils.sync_global_devices("saved")
    read = bayesft.lm.load(folder, tokenizer=False, mesh=mesh)
    paths = jax.tree.leaves_with_path(read.weights)
    return {jax.tree_util.keystr(p): bft.sharding.to_host(leaf) for p, leaf in paths}


def failing_evidence(mesh) -> Results:
    """The last row is a bad one, and lies in the share of the last process."""

    def evaluate(rows: slice) -> dict[str, np.ndarray]:
        some = np.arange(5.0)[rows]
        if 4 in some:
            raise bft.errors.EvidenceError("Row 4 is bad.")
        return {"reward": some}

    with bft.sharding.on(mesh):
        answers = bft.sharding.shared(lambda rows: {"reward": np.arange(5.0)[rows]}, ["reward"], 5)
        try:
            bft.sharding.shared(evaluate, ["reward"], 5)
        except bft.errors.EvidenceError as error:
            return {"message": np.asarray(str(error)), "answers": answers["reward"]}
    return {}


OTHERS = {case.__name__: case for case in (layout, saved, failing_evidence)}


def run(names: list[str], mesh) -> Results:
    found = {name: (CASES | OTHERS | kept.CASES)[name](mesh) for name in names}
    return {f"{name}/{key}": a for name, case in found.items() for key, a in case.items()}


def join(port: str, number: str, process_id: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", int(number), int(process_id))


def end_early(names: str, *process: str) -> None:
    """Run cases in a process that does not survive them; JAX has not started yet, and may fork."""
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        return
    try:
        join(*process)
        run(names.split(","), None)
    finally:
        os._exit(1)


def main(path: str, names: str) -> None:
    *killed, names = names.split("/")
    if process := os.environ.get("BAYESFT_PROCESS"):
        ports, number, process_id = process.split(",")
        *before, port = ports.split("/")
        for each, first in zip(killed, before, strict=True):
            end_early(each, first, number, process_id)
        join(port, number, process_id)
    mesh = jax.make_mesh((2, jax.device_count() // 2), ("data", "fsdp"))
    np.savez(path, **run(names.split(","), mesh))  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    # Caches grow on several devices, and are whole on the one that they are compared to.
    sys.modules["bayesft.base.stages"].STAGED = NUM_TOKENS
    main(*sys.argv[1:])
