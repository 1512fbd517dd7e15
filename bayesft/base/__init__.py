"""Protocols that every room speaks, and the arrays that pass between them.

Dimension key: **P** prompts, **N** particles, **K** lanes, **T** new tokens, **S** prompt tokens,
**V** vocabulary. Arguments run (tokens, x): what is scored, then what it is conditioned on.
"""

from bayesft.base.algorithms import (
    Claim,
    Estimator,
    MultiPathEstimator,
    MultiSampleEstimator,
    PathwiseEstimator,
    Sampler,
    ScoreEstimator,
    StatefulEstimator,
)
from bayesft.base.arguments import checked_count, require_key, takes, whole_number
from bayesft.base.checkpoint import Archive, Checkpoint, Notes
from bayesft.base.distributions import (
    Distribution,
    Enumerable,
    Guide,
    Key,
    Prior,
    Proposable,
    PyTree,
    TokenDistribution,
    is_key,
)
from bayesft.base.evidence import (
    Evidence,
    HostEvidence,
    LeafEvidence,
    Potential,
    PrefixEvidence,
    Rows,
    Sum,
    Term,
)
from bayesft.base.sequences import (
    EosPolicy,
    Horizon,
    Observation,
    Prompt,
    is_eos,
    pad_after_end,
    sequence_lengths,
)
from bayesft.base.stages import Buffered, stages, withholding
from bayesft.base.steps import InSteps, Step
from bayesft.base.twists import ShowsHidden, SteppedTwist, Twist, TwistHead

__all__ = [
    "Archive",
    "Buffered",
    "Checkpoint",
    "Claim",
    "Distribution",
    "Enumerable",
    "EosPolicy",
    "Estimator",
    "Evidence",
    "Guide",
    "Horizon",
    "HostEvidence",
    "InSteps",
    "Key",
    "LeafEvidence",
    "MultiPathEstimator",
    "MultiSampleEstimator",
    "Notes",
    "Observation",
    "PathwiseEstimator",
    "Potential",
    "PrefixEvidence",
    "Prior",
    "Prompt",
    "Proposable",
    "PyTree",
    "Rows",
    "Sampler",
    "ScoreEstimator",
    "ShowsHidden",
    "StatefulEstimator",
    "Step",
    "SteppedTwist",
    "Sum",
    "Term",
    "TokenDistribution",
    "Twist",
    "TwistHead",
    "checked_count",
    "is_eos",
    "is_key",
    "pad_after_end",
    "require_key",
    "sequence_lengths",
    "stages",
    "takes",
    "whole_number",
    "withholding",
]
