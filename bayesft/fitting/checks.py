"""What `fit` refuses before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax

from bayesft.base import Estimator, Guide, Key, Prior, Prompt, require_key, takes
from bayesft.errors import EstimatorError, GuideError, MeshError, TargetError
from bayesft.priors.empirical import Empirical
from bayesft.priors.shaped import Shaped
from bayesft.priors.validation import require_context, require_stand_in
from bayesft.program.context import Proposal, Requirement
from bayesft.target import Target


@runtime_checkable
class Observing(Protocol):
    """An objective that needs draws of the target before it can be evaluated."""

    def observe(self, target: Target, guide: Guide, key: Key) -> Prompt: ...


@runtime_checkable
class Preparing(Protocol):
    """A callback that has something to do, or to refuse, before the first step."""

    def before_fit(self) -> None: ...


def check_fit(target: Any, guide: Any, objective: Any) -> None:
    if not isinstance(target, Target | Empirical):
        raise TargetError(
            f"A {type(target).__name__} was given as target.",
            cause="a prior or evidence on its own, or arguments in another order.",
            remedy="call bft.fit(bft.Target(prior, evidence, …), guide, …); of data alone "
            "bft.empirical(completions) makes a target.",
        )
    if not isinstance(guide, Guide):
        raise GuideError(
            f"{type(guide).__name__} is not a guide.",
            cause="a prior was passed, which has no trainable parameters.",
            remedy="pass bft.trainable(prior) or bft.lm.lora(lm, ...).",
        )
    if isinstance(target, Target):
        require_stand_in("The guide", guide, target, GuideError)
    if isinstance(objective, Observing) and not isinstance(target, Target):
        raise TargetError(
            f"{objective} draws from its target, which is data here.",
            cause="an empirical target, which has completions but no density to sample.",
            remedy="use bft.objectives.mle on data, or declare a bft.Target.",
        )


def check_callbacks(callbacks: Any) -> tuple[Callable[[Any], object], ...]:
    """Callbacks as a tuple, for they are gone through at every step."""
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else None
    if found is None or not all(takes(callback, 1) for callback in found):
        raise TargetError(
            f"callbacks={callbacks!r} are no functions of one argument.",
            cause="one callback was passed alone, or a function of something else.",
            remedy="pass a list of functions of a StepInfo, such as [bft.track.run(folder)].",
        )
    return found


def check_parts(objective: Any, optimizer: Any, estimator: Any, key: Any) -> None:
    parts = (
        (
            "objective",
            objective,
            takes(objective, 3),
            "bft.objectives.reverse_kl, or a function of (guide, target, x)",
        ),
        (
            "optimizer",
            optimizer,
            hasattr(optimizer, "init") and hasattr(optimizer, "update"),
            "optax.adam(1e-4)",
        ),
        (
            "estimator",
            estimator,
            isinstance(estimator, Estimator | None),
            "bft.estimators.leave_one_out(8)",
        ),
    )
    for name, value, fits, example in parts:
        if not fits:
            raise TargetError(
                f"{name}={value!r} is no {name}.",
                cause="a number or a name, or a function that makes one and was not called.",
                remedy=f"pass for instance {name}={example}.",
            )
    require_key(key, TargetError)


def check_proposal(proposal: Proposal, target: Any, guide: Guide) -> Prior:
    """What the guide's sequences are drawn from at the start."""
    if not takes(proposal, 1):
        raise GuideError(
            f"The proposal is a {type(proposal).__name__}, and no function of a guide.",
            cause="a prior was passed, which would not follow the guide while it learns.",
            remedy="pass a function such as lambda guide: bft.priors.shaped(guide, top_p=0.95).",
        )
    found = proposal(guide)
    theirs = (found.vocab_size, found.eos) if isinstance(found, Prior) else None
    if theirs != (guide.vocab_size, guide.eos):
        raise GuideError(
            f"The proposal makes a {type(found).__name__} of a guide, with (V, EOS) = {theirs}; "
            f"the guide has {guide.vocab_size, guide.eos}.",
            cause="it is no prior, or one of another vocabulary.",
            remedy="pass a function such as lambda guide: bft.priors.shaped(guide, top_p=0.95).",
        )
    if isinstance(target, Target):
        require_context("The proposal", found, target, GuideError)
    return found


def check_claim(
    require: Requirement | None, steps_per_recording: int, proposed: Prior | None
) -> None:
    if require is not None and isinstance(proposed, Shaped) and proposed.truncates:
        raise EstimatorError(
            "Draws with top-p or a mask are biased: what they leave out is never drawn.",
            cause=f"a proposal that truncates beside require={require!r}.",
            remedy="use a temperature alone, or leave out require=.",
        )
    if require is not None and steps_per_recording > 1:
        raise EstimatorError(
            f"Steps 2 to {steps_per_recording} on a recording are biased: parameters have seen the "
            "draws.",
            cause=f"steps_per_recording={steps_per_recording} beside require={require!r}.",
            remedy="use steps_per_recording=1, or leave out require=.",
        )


def check_overlap(overlap: bool) -> None:
    if overlap and jax.process_count() > 1:
        raise MeshError(
            f"overlap=True in {jax.process_count()} processes.",
            cause="evidence is exchanged between processes, which a thread would do in another "
            "order than the models do, and so wait forever.",
            remedy="leave out overlap= on several hosts.",
        )
