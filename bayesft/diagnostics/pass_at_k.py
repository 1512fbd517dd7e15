"""pass@k: the probability that at least one of k samples solves a problem."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from rich.console import Console

from bayesft.errors import DiagnosticError


@dataclasses.dataclass(frozen=True)
class PassAtK:
    """pass@k of P problems, as probabilities."""

    per_problem: Float[np.ndarray, " P"]
    k: int
    num_samples: Int[np.ndarray, " P"]

    @property
    def mean(self) -> float:
        """Mean over the problems."""
        return float(self.per_problem.mean())

    @property
    def standard_error(self) -> float:
        """std/√P: of the mean, for problems that are themselves a sample; NaN for one problem."""
        size = self.per_problem.size
        return float(self.per_problem.std(ddof=1) / np.sqrt(size)) if size > 1 else float("nan")

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(self)
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]

    def __rich__(self) -> str:
        error = "" if np.isnan(self.standard_error) else f" ± {self.standard_error:.4f}"
        fewest, most = self.num_samples.min(), self.num_samples.max()
        samples = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        return (
            f"pass@{self.k} = {self.mean:.4f}{error} (mean and standard error over "
            f"{self.per_problem.size} problems, {samples} samples each)"
        )


def pass_at_k(num_correct: ArrayLike, num_samples: ArrayLike, k: int) -> PassAtK:
    """Unbiased estimate of the probability that at least one of k samples is correct,

        1 − C(n − c, k) / C(n, k) = 1 − Π_{i=n−c+1}^{n} (1 − k/i),

    from c = `num_correct` of n = `num_samples` ≥ k independent samples per problem, [P] each (or
    one n for all). 1 − (1 − c/n)^k, which plugs in the share, is biased low. The product is summed
    in logarithms, so that small probabilities keep their digits. (Chen et al. 2021, equation 1.)

    Raises DiagnosticError for counts that are not whole, for c > n and for k outside 1, …, n.
    """
    correct, samples = np.asarray(num_correct), np.asarray(num_samples)
    for name, counts in (("num_correct", correct), ("num_samples", samples), ("k", np.asarray(k))):
        if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any() or not counts.size:
            raise DiagnosticError(
                f"{name}={counts} is not made of counts.",
                cause="shares or booleans instead of numbers of samples, or nothing at all.",
                remedy=f"give {name} as integers of at least 0.",
            )
    if correct.ndim > 1 or samples.shape not in ((), correct.shape) or np.ndim(k):
        raise DiagnosticError(
            f"num_correct has the shape {correct.shape}, num_samples {samples.shape} and k "
            f"{np.shape(k)}.",
            cause="one entry per sample instead of one per problem.",
            remedy="give num_correct [P], num_samples [P] or one number, and one k.",
        )
    correct = np.atleast_1d(correct)
    samples = np.broadcast_to(samples, correct.shape)
    if (correct > samples).any() or not 1 <= k <= samples.min():
        raise DiagnosticError(
            f"k={k} with {samples.min()} samples of which {correct.max()} are correct.",
            cause="more correct ones than samples, or a k outside 1, …, num_samples.",
            remedy="draw at least k samples per problem.",
        )
    estimates = [_one(int(c), int(n), int(k)) for c, n in zip(correct, samples, strict=True)]
    return PassAtK(np.asarray(estimates), int(k), samples)


def _one(c: int, n: int, k: int) -> float:
    if n - c < k:
        return 1.0
    return float(-np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum()))
