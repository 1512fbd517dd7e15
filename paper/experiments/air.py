"""Attend, infer, repeat: one model of multi-digit canvases, six ways to differentiate its bounds.

Canvases of 50 × 50 pixels hold no, one or two digits. The model draws up to three objects,

    pres_t ~ Bernoulli(0.05·pres_{t-1}),
    where_t ~ N((2.5, 0, 0), (0.3, 1, 1)),  what_t ~ N(0, I_50),
    image ~ N(Σ_t pres_t·place(decode(what_t), where_t), 0.3),

and the guide looks at the image and at what it has drawn before through an LSTM of 256 units
(Eslami et al. 2016). where and what are reparameterised; the methods differ in pres and the bound:

    reinforce        ELBO, score function         enumeration      ELBO, all eight paths
    measure_valued   ELBO, weak derivatives       mix              ELBO, one of each
    iwae             5 samples, score function    rws              5 samples, reweighted wake-sleep

    python paper/experiments/air.py --method enumeration --minutes 5   # goes on where it stopped
    python paper/experiments/air.py --method all --minutes 5           # one after the other
    python paper/experiments/air.py --variance                         # of gradients at the start

`--minutes` counts seconds of training steps, compiling and evaluation left out, over all runs of a
method. Checkpoints lie in `--folder`; paper/results/air.json is written at every one, and
paper/results/air.svg at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from flax import serialization

import bayesft as bft
from bayesft.objectives.weights import draw_detached
from bayesft.report.figure import drawing

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", ROOT.parent / "shared" / "assets"))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "air.json"
CANVAS, WINDOW, STEPS, WHAT, LSTM, HIDDEN = 50, 20, 3, 50, 256, 200
NUM_IMAGES, NUM_HELD_OUT, BATCH, NUM_SAMPLES = 12_000, 2_000, 64, 5
PRESENT, SPREAD = 0.05, 0.3
HISTORY = "history of [seconds, steps, accuracy, loss]"
WHERE_MEAN, WHERE_SD = jnp.array([2.5, 0.0, 0.0]), jnp.array([0.3, 1.0, 1.0])
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1e3), optax.adam(3e-4))


def canvases(file: str, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [size, 50, 50] in [0, 1] with the number of their digits; digits do not touch."""
    random = np.random.default_rng(seed)
    digits = np.load(ASSETS / "mnist" / file)["x"][:, 4:24, 4:24] / np.float32(255)
    counts = random.integers(0, 3, size)
    images = np.zeros((size, CANVAS, CANVAS), np.float32)
    for image, count in zip(images, counts, strict=True):
        corners = random.integers(0, CANVAS - WINDOW + 1, (count, 2))
        # All are drawn again: beside a digit in the middle there is no room for another.
        while count == 2 and np.abs(corners[0] - corners[1]).max() < WINDOW:
            corners = random.integers(0, CANVAS - WINDOW + 1, (count, 2))
        for top, left in corners:
            digit = digits[random.integers(len(digits))]
            image[top : top + WINDOW, left : left + WINDOW] += digit
    return images, counts


# ---- networks ------------------------------------------------------------------------------------


def initial_params(key: jax.Array) -> dict:
    shapes = {
        "lstm_image": (CANVAS * CANVAS, 4 * LSTM),
        "lstm_rest": (LSTM + 3 + WHAT + 1, 4 * LSTM),
        "predict": (LSTM, HIDDEN),
        "pres": (HIDDEN, 1),
        "where": (HIDDEN, 6),
        "encode": (WINDOW * WINDOW, HIDDEN),
        "what": (HIDDEN, 2 * WHAT),
        "decode": (WHAT, HIDDEN),
        "pixels": (HIDDEN, WINDOW * WINDOW),
    }
    params = {}
    for each, (name, (fan_in, fan_out)) in zip(
        jax.random.split(key, len(shapes)), shapes.items(), strict=True
    ):
        weights = jax.random.normal(each, (fan_in, fan_out)) * fan_in**-0.5
        params[name] = {"weights": weights, "bias": jnp.zeros(fan_out)}
    # An object is likely at first, of the prior's size, and dark.
    params["pres"]["bias"] += 2.0
    params["where"]["bias"] = params["where"]["bias"].at[:3].set(WHERE_MEAN)
    params["pixels"]["bias"] -= 2.0
    return params


def linear(params: dict, x: jax.Array) -> jax.Array:
    return x @ params["weights"] + params["bias"]


def lstm(params: dict, from_image: jax.Array, rest: jax.Array, state: tuple) -> tuple:
    hidden, cell = state
    gates = from_image + linear(params["lstm_rest"], jnp.concatenate([hidden, rest]))
    into, forget, out, new = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
    return jax.nn.sigmoid(out) * jnp.tanh(cell), cell


def hats(positions: jax.Array, size: int) -> jax.Array:
    """Weights [n, size] of linear interpolation at positions in [-1, 1]; 0 outside."""
    at = (positions + 1) * (size - 1) / 2
    return jax.nn.relu(1 - jnp.abs(at[:, None] - jnp.arange(size)[None]))


def place(window: jax.Array, where: jax.Array) -> jax.Array:
    """The window, [20, 20], on the canvas: canvas point u shows the window's point s·u + (x, y)."""
    scale, x, y = where
    axis = jnp.linspace(-1, 1, CANVAS)
    return hats(scale * axis + y, WINDOW) @ window @ hats(scale * axis + x, WINDOW).T


def attend(image: jax.Array, where: jax.Array) -> jax.Array:
    """The window of the canvas that `place` would fill."""
    scale, x, y = where
    axis = jnp.linspace(-1, 1, WINDOW)
    return hats((axis - y) / scale, CANVAS) @ image @ hats((axis - x) / scale, CANVAS).T


def positive(x: jax.Array) -> jax.Array:
    return jax.nn.softplus(x - 1.0) + 1e-3


# ---- the program ---------------------------------------------------------------------------------

type Choose = Callable[[str, int, Any], tuple[jax.Array, jax.Array]]
"""choose(kind, step, distribution) -> (value, log-prob)."""
type Pay = Callable[[jax.Array, jax.Array], None]
"""pay(log p, log q) of what has just been drawn."""


def draw_scene(params: dict, image: jax.Array, choose: Choose, pay: Pay) -> jax.Array:
    """Up to three objects drawn by the guide and scored under the model; how many there are."""
    state = (jnp.zeros(LSTM), jnp.zeros(LSTM))
    from_image = linear(params["lstm_image"], image.ravel())
    where, what, pres = jnp.zeros(3), jnp.zeros(WHAT), jnp.ones(())
    mean, count = jnp.zeros((CANVAS, CANVAS)), jnp.zeros(())
    for t in range(STEPS):
        seen = jnp.concatenate([where, what, pres[None]])
        state = lstm(params, from_image, seen, state)
        hidden = jax.nn.relu(linear(params["predict"], state[0]))

        prob = jnp.clip(jax.nn.sigmoid(linear(params["pres"], hidden)[0]), 1e-4, 1 - 1e-4)
        # No object follows a missing one: what is drawn then counts for nothing.
        before = pres
        prob = jnp.where(before > 0, prob, jax.lax.stop_gradient(prob))
        found, log_q = choose("pres", t, dist.Bernoulli(probs=prob))
        log_p = dist.Bernoulli(probs=PRESENT).log_prob(found)
        pay(before * log_p, before * log_q)
        pres = before * found.astype(jnp.float32)

        loc, scale = jnp.split(linear(params["where"], hidden), 2)
        where, log_q = choose("where", t, dist.Normal(loc, positive(scale)).to_event(1))
        log_p = dist.Normal(WHERE_MEAN, WHERE_SD).log_prob(where).sum()
        pay(pres * log_p, pres * log_q)

        window = attend(image, where.at[0].set(jnp.maximum(where[0], 0.5)))
        hidden = jax.nn.relu(linear(params["encode"], window.ravel()))
        loc, scale = jnp.split(linear(params["what"], hidden), 2)
        what, log_q = choose("what", t, dist.Normal(loc, positive(scale)).to_event(1))
        pay(pres * dist.Normal(0.0, 1.0).log_prob(what).sum(), pres * log_q)

        hidden = jax.nn.relu(linear(params["decode"], what))
        pixels = jax.nn.sigmoid(linear(params["pixels"], hidden))
        mean += pres * place(pixels.reshape(WINDOW, WINDOW), where)
        count += pres
    pay(dist.Normal(mean, SPREAD).log_prob(image).sum(), jnp.zeros(()))
    return count


def chosen_by(*pres: Any) -> Choose:
    """where and what reparameterised; pres at step t by its own estimator."""

    def choose(kind, t, distribution):
        estimator = pres[t] if kind == "pres" else bft.estimators.reparameterize()
        return bft.draw(f"{kind}{t}", distribution, estimator, with_log_prob=True)

    return choose


def elbo(*pres: Any):
    """−ELBO, each choice credited with the costs that come after it."""

    def program(params, image):
        def pay(log_p, log_q):
            bft.cost(log_q - log_p)

        draw_scene(params, image, chosen_by(*pres), pay)
        return 0.0

    return program


def totals(params, image, choose: Choose) -> tuple[jax.Array, jax.Array]:
    """log p and log q of a scene as a whole."""
    paid: list[tuple[jax.Array, jax.Array]] = []
    draw_scene(params, image, choose, lambda log_p, log_q: paid.append((log_p, log_q)))
    log_p, log_q = zip(*paid, strict=True)
    return sum(log_p, jnp.zeros(())), sum(log_q, jnp.zeros(()))


def iwae(params, image):
    def log_weight(_):
        log_p, log_q = totals(params, image, chosen_by(*[bft.estimators.score_function()] * STEPS))
        return log_p - log_q

    return -bft.log_mean_exp(log_weight, NUM_SAMPLES)


def rws(params, image):
    """P-wake and Q-wake, as `bft.objectives.reweighted_wake_sleep`, for a guide of many choices."""

    def choose(kind, t, distribution):
        return draw_detached(f"{kind}{t}", distribution)

    log_p, log_q = bft.plate(lambda _: totals(params, image, choose), NUM_SAMPLES)
    log_weights = log_p - jax.lax.stop_gradient(log_q)
    bound = jnp.log(NUM_SAMPLES) - jax.nn.logsumexp(log_weights)
    weights = jax.lax.stop_gradient(jax.nn.softmax(log_weights))
    return bound - weights @ (log_q - jax.lax.stop_gradient(log_q))


REINFORCE, ENUMERATE = bft.estimators.score_function(), bft.estimators.enumerate()
MEASURE = bft.estimators.measure_valued()
METHODS = {
    "reinforce": elbo(REINFORCE, REINFORCE, REINFORCE),
    "enumeration": elbo(ENUMERATE, ENUMERATE, ENUMERATE),
    "measure_valued": elbo(MEASURE, MEASURE, MEASURE),
    "mix": elbo(ENUMERATE, MEASURE, REINFORCE),
    "iwae": iwae,
    "rws": rws,
}


def loss(method: str, params: dict, key: jax.Array, images: jax.Array) -> jax.Array:
    """Mean over the batch of estimates of the method's bound."""
    bound = bft.expectation(METHODS[method])
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda key, image: bound.estimate(key, params, image))(keys, images).mean()


def train_step(method: str):
    @jax.jit
    def step(params, state, key, images):
        value, gradient = jax.value_and_grad(lambda p: loss(method, p, key, images))(params)
        updates, state = OPTIMIZER.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    return step


@jax.jit
def counted(params: dict, images: jax.Array) -> jax.Array:
    """How many objects the guide sees when every choice is its likeliest."""

    def choose(kind, t, distribution):
        value = (distribution.probs > 0.5) * 1.0 if kind == "pres" else distribution.mean
        return value, jnp.zeros(())

    return jax.lax.map(
        lambda image: draw_scene(params, image, choose, lambda *_: None), images, batch_size=100
    )


# ---- training, evaluation, checkpoints -----------------------------------------------------------


def write(path: Path, data: bytes) -> None:
    """All or nothing, so that an interruption leaves the last whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(path.suffix + ".new")
    new.write_bytes(data)
    os.replace(new, path)


def save(path: Path, run: dict) -> None:
    arrays, about = jax.device_get(run["arrays"]), {k: v for k, v in run.items() if k != "arrays"}
    kept = {"arrays": serialization.to_state_dict(arrays), "about": json.dumps(about)}
    write(path, serialization.msgpack_serialize(kept))


def load(path: Path) -> dict:
    kept = serialization.msgpack_restore(path.read_bytes())
    params = initial_params(jax.random.key(0))
    arrays = serialization.from_state_dict((params, OPTIMIZER.init(params)), kept["arrays"])
    return {"arrays": jax.tree.map(jnp.asarray, arrays), **json.loads(kept["about"])}


def save_results(update: dict) -> None:
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    write(RESULTS, (json.dumps(found | update, indent=1) + "\n").encode())


def train(method: str, minutes: float, max_steps: int, folder: Path) -> None:
    images, _ = canvases("mnist_train_12k.npz", NUM_IMAGES, 0)
    held_out, counts = canvases("mnist_test.npz", NUM_HELD_OUT, 1)
    images, held_out = jnp.asarray(images), jnp.asarray(held_out)
    path, step = folder / f"{method}.msgpack", train_step(method)
    per_epoch = NUM_IMAGES // BATCH
    params = initial_params(jax.random.key(0))
    run = {"arrays": (params, OPTIMIZER.init(params)), "steps": 0, "seconds": 0.0}
    run |= {"history": [], "step_seconds": []}
    if path.is_file():
        run = load(path)
    started = time.perf_counter()
    jax.block_until_ready(step(*run["arrays"], jax.random.key(9), images[:BATCH]))
    first_call, values = time.perf_counter() - started, []

    def checkpoint() -> None:
        found = np.asarray(counted(run["arrays"][0], held_out))
        accuracy = float(np.mean(found == counts))
        epoch_seconds = per_epoch * statistics.median(run["step_seconds"])
        mean_loss = float(np.mean(values)) if values else None
        run["history"].append([run["seconds"], run["steps"], accuracy, mean_loss])
        save(path, run)
        row = {"epoch_seconds": epoch_seconds, "first_call_seconds": first_call}
        row |= {"seconds": run["seconds"], "steps": run["steps"], "count_accuracy": accuracy}
        row |= {HISTORY: run["history"]}
        save_results({method: row})
        print(
            f"{method:15s} {run['seconds']:6.0f} s {run['steps']:6d} steps, loss {mean_loss}, "
            f"counts {accuracy:.1%}, {epoch_seconds:.1f} s an epoch",
            flush=True,
        )
        values.clear()

    last, done = time.perf_counter(), 0
    while run["seconds"] < 60 * minutes and done < max_steps:
        at = run["steps"] % per_epoch
        order = np.random.default_rng(run["steps"] // per_epoch).permutation(NUM_IMAGES)
        batch = images[order[at * BATCH : (at + 1) * BATCH]]
        key = jax.random.fold_in(jax.random.key(1), run["steps"])
        started = time.perf_counter()
        *arrays, value = step(*run["arrays"], key, batch)
        run["arrays"] = tuple(arrays)
        values.append(float(value))
        run["step_seconds"] = [*run["step_seconds"][-999:], time.perf_counter() - started]
        run["seconds"] += run["step_seconds"][-1]
        run["steps"], done = run["steps"] + 1, done + 1
        if time.perf_counter() - last > 30:
            checkpoint()
            last = time.perf_counter()
    if done:
        checkpoint()


def variance(num_draws: int, num_images: int = 16) -> None:
    """Total variance of the gradient of every method, and its squared norm, at the start.

    Of the parameters of pres, and of all. Once the guide is sure of pres, the samples that would
    show how noisy the score function is are too rare to be drawn.
    """
    params = initial_params(jax.random.key(0))
    images = jnp.asarray(canvases("mnist_train_12k.npz", num_images, 2)[0])
    rows: dict[str, Any] = {"draws": num_draws, "batch": num_images}
    for method in METHODS:
        gradient = jax.jit(jax.grad(lambda p, k, m=method: loss(m, p, k, images)))
        draws = [gradient(params, k) for k in jax.random.split(jax.random.key(5), num_draws)]

        def total(select, draws=draws) -> tuple[float, float]:
            flat = [np.stack([np.ravel(a) for a in leaves]) for leaves in
                    zip(*(jax.tree.leaves(select(d)) for d in draws), strict=True)]  # fmt: skip
            spread = sum(float(a.var(0, ddof=1, dtype=np.float64).sum()) for a in flat)
            return spread, sum(float(np.square(a.mean(0, dtype=np.float64)).sum()) for a in flat)

        rows[method] = {
            "pres": dict(
                zip(("variance", "squared_norm"), total(lambda g: g["pres"]), strict=True)
            ),
            "all": dict(zip(("variance", "squared_norm"), total(lambda g: g), strict=True)),
        }
        print(method, rows[method], flush=True)
    save_results({"gradient_variance": rows})


def figure() -> str:
    """Count accuracy of every method along its seconds of training."""
    rows = json.loads(RESULTS.read_text("utf-8"))
    with drawing(6.0, 3.4) as found:
        axis = found.axes
        for name in METHODS:
            if name in rows:
                seconds, _, accuracy, _ = zip(*rows[name][HISTORY], strict=True)
                axis.plot(seconds, accuracy, label=name.replace("_", "-"))
        axis.set_xlabel("seconds of training")
        axis.set_ylabel("accuracy of the count")
        axis.legend(ncols=2, fontsize=8)
    return found.svg


def main() -> None:
    parser = argparse.ArgumentParser(description="AIR: six ways to differentiate its bounds.")
    parser.add_argument("--method", choices=[*METHODS, "all"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--max-steps", type=int, default=10**9, help="stop this run after so many")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "air", help="of checkpoints")
    parser.add_argument("--variance", action="store_true", help="compare gradients, and stop")
    parser.add_argument("--draws", type=int, default=100, help="gradients per method of --variance")
    args = parser.parse_args()
    if args.variance:
        variance(args.draws)
        return
    if args.method is None:
        parser.error("give --method or --variance")
    for method in METHODS if args.method == "all" else [args.method]:
        train(method, args.minutes, args.max_steps, args.folder)
    write(RESULTS.with_suffix(".svg"), figure().encode())


if __name__ == "__main__":
    main()
