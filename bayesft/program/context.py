"""What all scopes of one run of a program share."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Array, Float

from bayesft.base import Estimator, Prior, PyTree

type Requirement = Literal["unbiased", "exact"]
"""The least that the estimators of a program must claim."""


type Proposal = Callable[[Any], Prior]
"""What draws sequences in place of their own prior, from that prior."""


class Mode(enum.Enum):
    """What a run of a program is for."""

    SCOUT = "abstract pass: find the number of lanes and misplaced choices"
    ESTIMATE = "one differentiable run"
    RECORD = "keep choices, evidence and costs; no gradient is needed"
    REPLAY = "run again on a recording, differentiably"
    MODEL = "values and log-probs of every choice; no estimators"


@dataclasses.dataclass
class Findings:
    """What running a program reveals about it."""

    lane_counts: set[int] = dataclasses.field(default_factory=set)
    pays: bool = False
    reparameterised: bool = False
    """Whether a value carries a gradient along its path."""
    needs_recording: bool = False
    """Whether choices or evidence must be known before a gradient step."""
    proposable: bool = False
    """Whether a sequence is recorded, which a proposal may draw."""
    states: dict[str, PyTree] = dataclasses.field(default_factory=dict)
    """The first states of estimators that keep one, by choice."""
    on_policy: list[str] = dataclasses.field(default_factory=list)
    """The choices whose estimators need replays at the parameters of the recording."""

    @property
    def num_lanes(self) -> int:
        return max(self.lane_counts, default=1)


@dataclasses.dataclass(frozen=True)
class MultiSample:
    """The lane of a `bft.log_mean_exp` that a choice stands in."""

    weight: Float[Array, ""] | None
    """Its share of the weights; None inside other constructs, where no path is weighted by it."""
    asked: set[str]
    """The choices whose paths are weighted."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What all scopes of one run share."""

    mode: Mode
    estimator: Estimator | None = None
    findings: Findings = dataclasses.field(default_factory=Findings)
    allows_host: bool = True
    allows_cost: bool = True
    allows_estimates: bool = True
    """Whether a log-prob may be an estimate, that of a stochastic density."""
    in_branch: bool = False
    num_paths: int = 1
    """How many paths the multi-path choices before take through the program, all at once."""
    require: Requirement | None = None
    multi_sample: MultiSample | None = None
    proposal: Proposal | None = None
    """What draws the recorded sequences in place of their own prior."""

    def inside(self, **changes: Any) -> Context:
        """The context of a plate's, scan's or cond's body."""
        lane = self.multi_sample and dataclasses.replace(self.multi_sample, weight=None)
        return dataclasses.replace(self, multi_sample=lane, **changes)

    @property
    def recording(self) -> bool:
        return self.mode is Mode.RECORD and not self.in_branch
