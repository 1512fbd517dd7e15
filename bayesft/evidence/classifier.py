"""A classifier's probability of a label as evidence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesft.base import HostEvidence, Rows
from bayesft.errors import EvidenceError
from bayesft.evidence import calling

SUM_TOLERANCE = 2e-3
"""What a softmax over some hundred classes in half precision may lose."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Classifier(HostEvidence):
    """log φ(y, x) = weight · log max(P(label | y), floor)."""

    weight: Float[Array, ""]
    fn: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    label: int | str = dataclasses.field(metadata={"static": True})
    floor: float = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def hard(self) -> bool:
        return False  # a probability is a matter of degree, though its logarithm is never above 0

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = sorted(float(b) for b in self._log_potentials(np.array([self.floor, 1.0])))
        return low, high

    def evaluate(self, rows: Rows) -> Float[np.ndarray, " R"]:
        return self._log_potentials(self.probabilities(rows))

    def probabilities(self, rows: Rows) -> Float[np.ndarray, " R"]:
        """P(label | y) of every row, NaN for "no opinion"; EvidenceError where it is none."""
        values = calling.returned(self.fn, self.name, rows)
        chosen = np.full(len(values), np.nan)
        happened: dict[int, str] = {}
        for row, value in enumerate(values):
            if value is not None:
                chosen[row], wrong = _probability(value, self.label)
                happened |= {row: wrong} if wrong else {}
        for row, wrong in happened.items():
            calling.refuse(
                np.arange(len(values)) == row,
                self.name,
                values,
                rows,
                happened=wrong,
                cause="logits or scores in place of probabilities, or a label that the classifier "
                "does not have.",
                remedy="return the probability of the positive class, or of every class (softmax, "
                "rows that sum to 1), and None for no opinion.",
            )
        return chosen

    def _log_potentials(self, probabilities: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
        # Values and bounds are rounded alike, so a value in bounds stays there.
        floored = np.maximum(probabilities.astype(np.float32), np.float32(self.floor))
        with np.errstate(divide="ignore"):
            values = np.float32(self.weight) * np.log(floored)
        known = ~np.isnan(probabilities) & (np.float32(self.weight) != 0)
        return np.where(known, values, np.float32(0))


def _probability(value: Any, label: int | str) -> tuple[float, str]:
    """P(label) in what a classifier says about one row, and what is wrong with it, if anything."""
    if isinstance(value, Mapping):
        table = {str(key): p for key, p in value.items()}
        if str(label) not in table:
            return np.nan, f"which has no label {label!r},"
        keys = list(table)
        value, label = list(table.values()), keys.index(str(label))
    try:
        found = np.asarray(value)
        if found.dtype.kind in "cmM" or isinstance(value, np.ma.MaskedArray):
            return np.nan, "which holds no probabilities,"
        found = found.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.nan, "which holds no probabilities,"
    if found.ndim > 1 or found.size == 0 or isinstance(label, str):
        return np.nan, f"of which label {label!r} is not a probability,"
    if not ((found >= 0) & (found <= 1)).all():  # NaN as well
        return np.nan, "which is not within [0, 1],"
    if found.ndim == 0:
        if label not in (0, 1):
            return np.nan, f"one probability, which has no class {label},"
        return float(found if label == 1 else 1 - found), ""
    if abs(found.sum() - 1) > SUM_TOLERANCE:
        return np.nan, f"whose sum is {found.sum():.6g}, not 1,"
    if not 0 <= label < found.size:
        return np.nan, f"which has no class {label},"
    return float(found[label]), ""


def classifier(
    fn: Callable[..., Any],
    label: int | str = 1,
    weight: float = 1.0,
    floor: float = 1e-6,
    name: str | None = None,
) -> Classifier:
    """Evidence that a classifier in Python gives a label to the completion, in nats:

        log φ(y, x) = weight · log max(P(label | y), floor)

    With weight 1 the posterior is the prior given that a label drawn from the classifier is this
    one, and Z is how often that happens. `fn` is called as a reward is (`bft.evidence.reward`) and
    says for every completion one of: P(positive), where `label` 1 is positive and 0 is not; the
    probabilities [C] of all classes, where `label` is an index; a dict of them, where `label` is a
    key; or None, "no opinion", which adds 0.

    `floor` is a part of the target: all probabilities below count as equal to it, which bounds the
    evidence by weight · log floor, so that one confident mistake cannot exclude a sequence; 0 takes
    the classifier at its word. The evidence is soft: it declares nothing impossible. A new weight,
    being a leaf, retraces nothing.

    Raises EvidenceError for a floor outside [0, 1), a weight that is not finite, or a negative one
    with a floor of 0 (+inf where P = 0); and when called, naming function and row, for values
    outside [0, 1], rows that do not sum to 1, or a label that a row does not have.
    """
    called = calling.name_of(fn, name)
    calling.check_signature(fn, called)
    if not 0 <= floor < 1 or not math.isfinite(weight) or (weight < 0 and floor == 0):
        raise EvidenceError(
            f"floor={floor} and weight={weight} of classifier {called} bound no log-potential.",
            cause="a floor that is not a probability below 1, a weight that is not finite, or a "
            "negative weight without a floor, which is +inf where P(label) = 0.",
            remedy="use a small positive floor such as 1e-6 and a finite weight.",
        )
    return Classifier(jnp.float32(weight), fn, label, float(floor), called)
