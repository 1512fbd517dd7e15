"""Record a program once, replay it differentiably: host evidence, off-policy, micro-batches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Estimator, Key, Prompt, PyTree, StatefulEstimator
from bayesft.errors import ChoiceError
from bayesft.program.context import Context, Findings, Mode, Proposal
from bayesft.program.expectation import (
    States,
    prepare,
    run_program,
    scout,
    surrogate,
    updated,
)
from bayesft.program.scope import over_lanes
from bayesft.sharding import join, require_split, split_rows

type Program = Callable[..., Array]
type Resolver = Callable[..., dict[str, np.ndarray]]
type Given = Mapping[str, tuple[PyTree, Array | None]]
"""Choices from data by name: values, and the log-probs under which they were drawn."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recording:
    """P × K lanes of a program; every leaf but those of `xs` and `states` leads with [P, K].

    `data` holds choices with the log-probs under which they were drawn, frozen numbers and host
    evidence, nested by scope; `stored` what each estimator prepared (baselines); `costs` the
    program's cost in nats; `states`, without [P, K], what estimators that keep a state know after
    this recording.
    """

    keys: Key
    xs: Prompt
    data: dict[str, Any]
    stored: dict[str, PyTree]
    costs: Float[Array, "P K"]
    states: States = dataclasses.field(default_factory=dict)

    def choices(self, prompt: int, lane: int) -> dict[str, np.ndarray]:
        """The recorded values of one lane, by name: "y", or "plate/0/y" stacked over a plate."""

        def values(record: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
            found: dict[str, np.ndarray] = {}
            for name, entry in record.items():
                if not isinstance(entry, Mapping):
                    continue
                if {"value", "log_prob"} <= set(entry):
                    value = jax.tree.map(lambda a: np.asarray(a[prompt, lane]), entry["value"])
                    found[prefix + name] = value
                else:
                    found |= values(entry, f"{prefix}{name}/")
            return found

        return values(self.data, "")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pending:
    """A recording on its way: `request` holds the rows that wait for evidence in Python.

    With no request it is whole. A pytree, so it can be kept, and gone on with later.
    """

    recording: Recording
    request: dict[str, Any] | None


def record(
    program: Program,
    key: Key,
    args: tuple,
    xs: Prompt,
    *,
    estimator: Estimator | None = None,
    states: States | None = None,
    resolve: Resolver | None = None,
    proposal: Proposal | None = None,
    given: Given | None = None,
) -> Recording:
    """Run `program(*args, x)` for every prompt in `xs` [P, ...] and K lanes each.

    `resolve(ids, tokens, lengths)` evaluates evidence in Python: once per batch of P·K rows.
    Keys fold in the prompt's id. No gradients, and sampling and scoring in one pass. A program that
    makes no score-type choice and asks for no evidence has nothing to record: its replay does all.
    `states` are those of the last recording, if there was one. Sequences are drawn from
    `proposal(their prior)`, if given (`bft.priors.shaped` makes one), and recorded with its
    log-probs, so that replays weigh them.

    Choices may be `given` by name, from data: values [P, K, ...] with the log-probs [P, K, ...] (of
    sequences per token) under which they were drawn, which replays weigh by. None for those that
    are unknown takes them as drawn from the program, which biases by what is unknown. Raises
    ChoiceError for values that fit no choice, EstimatorError for a proposal with nothing to draw.
    """
    how = {"estimator": estimator, "proposal": proposal}
    pending = begin(program, key, args, xs, states=states, given=given, **how)
    while pending.request is not None:
        if resolve is None:
            raise ValueError("the program asks for evidence in Python; pass resolve=")
        answers = answer(pending.request, resolve)
        pending = proceed(program, args, pending, answers, **how)
    recorded = set(pending.recording.stored) & set(pending.recording.data)
    if unknown := sorted(set(given or ()) - recorded):
        raise ChoiceError(
            f"Values are given for {unknown}, which the program does not choose and record.",
            cause="a misspelt name, a choice in a plate or scan, one that is reparameterised, or "
            "one beside a choice that takes several paths, which runs its scope again.",
            remedy=f"give values for {sorted(recorded)}, by their names.",
        )
    return pending.recording


def begin(
    program: Program,
    key: Key,
    args: tuple,
    xs: Prompt,
    *,
    estimator: Estimator | None = None,
    findings: Findings | None = None,
    states: States | None = None,
    proposal: Proposal | None = None,
    given: Given | None = None,
) -> Pending:
    """The first part of `record`: up to the end, or to the evidence that only Python can give.

    `findings` saves the abstract pass where the program was scouted before.
    """
    if findings is None:
        one = jax.tree.map(lambda a: a[0], xs)
        findings = scout(program, estimator, (*args, one), proposal=proposal)
    keys = _lane_keys(key, xs.id, findings.num_lanes)
    require_split(keys.shape[0], keys.shape[1], "lanes")
    states = findings.states if states is None else states
    recording = Recording(keys, xs, {}, {}, jnp.zeros(keys.shape), states)
    if not findings.needs_recording:
        return Pending(recording, None)
    if given is not None:
        recording = dataclasses.replace(recording, data=_entries(given, keys.shape))
    return _run(program, args, recording, estimator, proposal)


def _entries(given: Given, shape: tuple[int, ...]) -> dict[str, Any]:
    """Given choices as recorded ones, whose log-prob under the program is still to be found."""
    for name, (value, log_prob) in given.items():
        for leaf in jax.tree.leaves((value, log_prob)):
            if leaf.shape[:2] != shape:
                raise ChoiceError(
                    f"What is given for {name!r} leads with {leaf.shape[:2]}; the program has "
                    f"{shape} prompts and lanes.",
                    cause="values for other prompts, or another num_samples of the estimator.",
                    remedy="give one value per prompt and lane.",
                )
    return {
        name: {"value": value, "log_prob": log_prob, "own_log_prob": None}
        for name, (value, log_prob) in given.items()
    }


def answer(request: Mapping[str, Any], resolve: Resolver) -> dict[str, Any]:
    """Every requested (id, tokens, length) replaced by its values, all rows in one call."""
    answers: dict[str, Any] = {}
    for name, arrays in request.items():
        if isinstance(arrays, Mapping):
            answers[name] = answer(arrays, resolve)
            continue
        ids, tokens, lengths = (np.asarray(a) for a in arrays)
        values = resolve(ids.ravel(), tokens.reshape(-1, tokens.shape[-1]), lengths.ravel())
        answers[name] = {
            term: jnp.asarray(value, jnp.float32).reshape(ids.shape)
            for term, value in values.items()
        }
    return answers


def proceed(
    program: Program,
    args: tuple,
    pending: Pending,
    answers: Mapping[str, Any],
    *,
    estimator: Estimator | None = None,
    states: States | None = None,
    proposal: Proposal | None = None,
) -> Pending:
    """The next part of `record`, with what was asked for.

    `args` may have moved on since: choices and their log-probs stay those that were recorded, and
    costs and baselines are those at `args`; `states`, if given, are those of a recording that was
    finished in between.
    """
    recording = pending.recording
    known = dataclasses.replace(
        recording,
        data=_merged(recording.data, answers),
        states=recording.states if states is None else states,
    )
    return _run(program, args, known, estimator, proposal)


def _run(
    program: Program,
    args: tuple,
    recording: Recording,
    estimator: Estimator | None,
    proposal: Proposal | None,
) -> Pending:
    keys, xs = recording.keys, recording.xs
    data, request, costs, stored, states = _phase(
        program, estimator, proposal, keys, args, xs, recording.data, recording.states
    )
    return Pending(Recording(keys, xs, data, stored, costs, states), request)


@functools.partial(jax.jit, static_argnums=2)
def _lane_keys(key: Key, ids: Int[Array, " P"], num_lanes: int) -> Key:
    return jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), num_lanes))(ids)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _phase(program, estimator, proposal, keys, args, xs, data, states):
    """Run every lane until it ends or needs the host; all that is found out leaves as a pytree."""
    context = Context(Mode.RECORD, estimator, proposal=proposal)

    def lanes(x, lane_keys, given):
        run = lambda k, g: run_program(program, k, (*args, x), context, g)
        outcome = over_lanes(run, lane_keys, given)
        stateful = {
            name: term
            for name, term in outcome.terms.items()
            if isinstance(term.estimator, StatefulEstimator)
        }
        stored = prepare(outcome.terms, states)
        return outcome.record, outcome.request, outcome.cost, stored, stateful

    record, request, costs, stored, stateful = jax.vmap(lanes)(xs, keys, data)
    # A lane that stopped for the host has no terms yet, so the states stay as they are.
    after = updated(states, stateful) if request is None else states
    # The host reads it, and any device may replay any lane.
    return join((record, request, costs, stored, after))


def _merged(data: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for name, value in more.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merged(old, value)
        merged[name] = value
    return merged


def replay_value_and_grad(
    program: Program,
    with_params: Callable[[PyTree], tuple],
    params: PyTree,
    recording: Recording,
    *,
    estimator: Estimator | None = None,
    micro_batch: int | None = None,
) -> tuple[Float[Array, ""], PyTree]:
    """Mean cost of the recorded lanes, and its gradient estimate with respect to `params`.

    Per lane sg(w)·(cost + Σ sg(credited − stored)·(log q − sg(log q))) with the importance weight
    w = q(choices)/q_recorded(choices), which is 1 on the first step. Lanes need no collective, so
    `micro_batch` lanes at a time give the gradient of all at once. The value is the weighted mean
    cost at `params`; `with_params(params)` gives the program's arguments before x.
    """
    num_prompts, num_lanes = recording.costs.shape
    count = num_prompts * num_lanes
    batch = min(micro_batch or count, count)
    lanes = (recording.keys, recording.data, recording.stored)
    flat = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), lanes)
    xs = jax.tree.map(lambda a: jnp.repeat(a, num_lanes, axis=0), recording.xs)
    weights = jnp.full(count, 1.0 / count)
    require_split(batch, 1, "lanes of a micro_batch")
    padding = -count % batch
    if padding:
        repeat = jnp.concatenate([jnp.arange(count), jnp.zeros(padding, jnp.int32)])
        flat, xs = jax.tree.map(lambda a: a[repeat], (flat, xs))
        weights = jnp.concatenate([weights, jnp.zeros(padding)])
    context = Context(Mode.REPLAY, estimator)

    def lane(args, x, key, data, stored):
        outcome = run_program(program, key, (*args, x), context, data)
        log_ratio = jnp.zeros(())
        for term in outcome.terms.values():
            log_ratio += jnp.sum(term.log_prob - term.recorded)
        ratio = jax.lax.stop_gradient(jnp.exp(log_ratio))
        return ratio * (outcome.cost + surrogate(outcome.terms, stored))

    def loss(params, xs, flat, weights):
        args = with_params(params)
        xs, flat, weights = split_rows((xs, flat, weights))
        return jnp.sum(weights * over_lanes(lambda x, rest: lane(args, x, *rest), xs, flat))

    gradient = jax.value_and_grad(loss)
    if count + padding == batch:
        return gradient(params, xs, flat, weights)
    parts = (count + padding) // batch
    split = jax.tree.map(lambda a: a.reshape(parts, batch, *a.shape[1:]), (xs, flat, weights))

    def step(total, part):
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(step, zero, split)
    return total
