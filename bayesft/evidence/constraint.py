"""A predicate in Python as evidence: 0 where it holds, a penalty where it does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bayesft.base import HostEvidence, Rows
from bayesft.errors import EvidenceError
from bayesft.evidence import calling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constraint(HostEvidence):
    """log φ(y, x) = 0 where the predicate holds, `log_penalty` where it does not."""

    predicate: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    # Static: whether a target has a hard constraint must be known while a program is traced.
    log_penalty: float = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def bounds(self) -> tuple[float, float]:
        return self.log_penalty, 0.0

    @property
    def hard(self) -> bool:
        return self.log_penalty == -math.inf

    def evaluate(self, rows: Rows) -> Float[np.ndarray, " R"]:
        values = calling.call(self.predicate, self.name, rows)
        calling.refuse(
            np.asarray([value not in (None, 0.0, 1.0) for value in values], bool),
            self.name,
            values,
            rows,
            happened="neither true nor false,",
            cause="a score was passed as a predicate.",
            remedy="compare it with a threshold, or use bft.evidence.reward.",
        )
        violated = np.asarray([value == 0.0 for value in values], bool)
        return np.where(violated, np.float32(self.log_penalty), np.float32(0))


def constraint(
    predicate: Callable[..., Any], log_penalty: float = -math.inf, name: str | None = None
) -> Constraint:
    """Evidence that is 0 where a predicate holds and `log_penalty` (nats) where it does not.

    `predicate(prompts=…, completions=…, completion_ids=…, **columns) -> list[bool | None]` is
    called like a reward (`bft.evidence.reward`): once per batch, with the keywords that it accepts.
    None is "no opinion" and counts as holding.

    The default, -inf, makes the constraint hard: the posterior is the prior conditioned on it. A
    finite penalty is another, soft target, in which a violation is e^log_penalty times as likely.

    Raises EvidenceError for a penalty that is not below 0, and when called as a reward does.
    """
    label = calling.name_of(predicate, name)
    calling.check_signature(predicate, label)
    if not log_penalty < 0:
        raise EvidenceError(
            f"log_penalty={log_penalty} of constraint {label} is not below 0.",
            cause="a penalty is a log-potential: it lowers the density of a violation.",
            remedy="use a negative number, or -inf (the default) for a hard constraint.",
        )
    return Constraint(predicate, float(log_penalty), label)
