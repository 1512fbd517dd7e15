"""The recordings of a fit: each when its step comes, or one step ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

import jax

from bayesft.base import Estimator, Key, Prompt, PyTree
from bayesft.errors import EstimatorError
from bayesft.evidence.background import in_background
from bayesft.fitting.state import FitState
from bayesft.program.context import Findings, Proposal, Requirement
from bayesft.program.expectation import States, scout
from bayesft.program.record import Pending, Recording, Resolver, answer, begin, proceed


class Recorder:
    """Records a program at the parameters of a state, or one step ahead of them.

    One step ahead, the draws of step t + 1 are made at the parameters that step t starts from, and
    evidence in Python is evaluated for them in a thread while step t updates. They are independent
    of that update given those parameters, and replayed with w = q(choices)/q_recorded(choices), so
    estimators that are unbiased stay so.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        estimator: Estimator | None,
        args: Callable[[PyTree], tuple],
        prompts: Callable[[int, tuple, Key], Prompt],
        resolve: Resolver,
        key: Key,
        *,
        ahead: bool,
        proposal: Proposal | None = None,
        waiting: Callable[[], AbstractContextManager[None]],
    ):
        self.program, self.estimator, self.args, self.prompts = program, estimator, args, prompts
        self.resolve, self.key, self.ahead, self.waiting = resolve, key, ahead, waiting
        self._how = {"estimator": estimator, "proposal": proposal}
        self._findings: Findings | None = None
        self._first: tuple[Key, Prompt] | None = None  # those of step 0, which may be draws
        self._asked: Future[Any] | None = None

    def start(self, params: PyTree, require: Requirement | None) -> tuple[States, Pending | None]:
        """The estimators' first states, and what the first state holds of a recording."""
        args = self.args(params)
        key, xs = self._prompts(0, args)
        one = jax.tree.map(lambda a: a[0], xs)
        self._findings = scout(self.program, args=(*args, one), require=require, **self._how)
        if self.ahead and self._findings.on_policy:
            raise EstimatorError(
                f"The estimator of {self._findings.on_policy[0]!r} needs recordings at the "
                "parameters that they are replayed at.",
                cause="overlap=True records one step ahead, and the control variate would no "
                "longer have mean 0.",
                remedy="leave out overlap=, or use leave_one_out or score_function.",
            )
        states = self._findings.states
        self._first = key, xs
        return states, self._begin(key, xs, args, states) if self.ahead else None

    def take(self, state: FitState, *, last: bool) -> tuple[Recording, Pending | None]:
        """The recording of a state's next step, and what is under way for the step after it."""
        args, step = self.args(state.params), int(state.step)
        first, self._first = self._first, None
        pending = state.pending
        if pending is None:
            prompts = first if first and step == 0 else self._prompts(step, args)
            pending = self._begin(*prompts, args, state.estimators)
        following = None
        if self.ahead:
            # Those of a recording that asks for nothing are known; others get theirs below.
            states = pending.recording.states
            following = self._begin(*self._prompts(step + 1, args), args, states)
        while pending.request is not None:
            answers = self._answers(pending.request)
            states = state.estimators
            pending = proceed(self.program, args, pending, answers, states=states, **self._how)
        if following is not None and following.request is not None and not last:
            self._asked = in_background(answer, following.request, self.resolve)
        return pending.recording, following

    def renewed(self, state: FitState) -> FitState:
        """The state after a skipped step: what was begun with what that step taught estimators is
        begun again, at the parameters as they are."""
        if state.pending is None or state.pending.request is not None:
            return state
        args = self.args(state.params)
        key, xs = self._prompts(int(state.step), args)
        again = self._begin(key, xs, args, state.estimators)
        return dataclasses.replace(state, pending=again)

    def _prompts(self, step: int, args: tuple) -> tuple[Key, Prompt]:
        keys = jax.random.split(jax.random.fold_in(self.key, step + 1))
        with self.waiting():  # for draws of the target, which may ask evidence in Python
            return keys[1], self.prompts(step, args, keys[0])

    def _begin(self, key: Key, xs: Prompt, args: tuple, states: States) -> Pending:
        given = {"findings": self._findings, "states": states, **self._how}
        return begin(self.program, key, args, xs, **given)

    def _answers(self, request: dict[str, Any]) -> dict[str, Any]:
        asked, self._asked = self._asked, None
        with self.waiting():
            return answer(request, self.resolve) if asked is None else asked.result()
