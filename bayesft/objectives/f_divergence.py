"""Any f-divergence between the target and the guide."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayesft.errors import ObjectiveError
from bayesft.objectives.generators import Generator
from bayesft.objectives.weights import Density, draw_log_weight, require_density


@dataclasses.dataclass(frozen=True)
class FDivergence:
    """f(u) of one draw y ~ q, with u = p̃(y | x) / (e^log_z · q(y | x))."""

    f: Generator
    log_z: float
    finite_at_zero: bool

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        require_density(target, self.__name__, finite=not self.finite_at_zero)
        return self.f(draw_log_weight(guide, target, x) - self.log_z)

    @property
    def __name__(self) -> str:
        return f"f_divergence({getattr(self.f, '__name__', self.f)})"


def f_divergence(f: Generator, *, log_z: float = 0.0) -> FDivergence:
    """D_f(p*, q) = E_q[f(p*/q)] for a convex f of log u, such as `bft.objectives.generators` has.

    Minimised by q = p* where f is strictly convex and q covers p*, whatever `log_z` is: by Jensen's
    inequality E_q[f(p̃/q)] ≥ f(Z). The value is the divergence where `log_z` is log Z in nats (one
    number for all prompts). Mode-seeking or mass-covering as f says: see docs/objectives.md. Any
    estimator. Hard constraints are allowed where f(0) is finite, as f(-inf) says.

    Raises ObjectiveError for an f that does not return a scalar for a scalar or is not convex in u,
    HardConstraintError for hard constraints where f(0) is not finite, TargetError for data.
    (Csiszár 1967.)
    """
    shape = jax.eval_shape(f, jax.ShapeDtypeStruct((), jnp.float32))
    if getattr(shape, "shape", None) != () or not math.isfinite(log_z):
        raise ObjectiveError(
            f"f_divergence was given an f that returns {shape} and log_z={log_z}.",
            cause="f maps one number, log u, to one number, and log Z is finite.",
            remedy="write f in JAX for a scalar, or take one of bft.objectives.generators.",
        )
    u = np.asarray([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0])
    with jax.ensure_compile_time_eval():
        values = np.asarray(jax.vmap(f)(jnp.log(u)), np.float64)
        at_zero = float(f(jnp.float32(-jnp.inf)))
    slopes = np.diff(values) / np.diff(u)
    if not (np.diff(slopes) >= -1e-3 * (1 + np.abs(slopes).max())).all():
        raise ObjectiveError(
            f"The f of f_divergence is not convex: its slopes between u = {u} are {slopes}.",
            cause="f takes log u, and is convex as a function of u; or its sign is flipped.",
            remedy="start f with u = jnp.exp(log_u), or negate it.",
        )
    return FDivergence(f, float(log_z), math.isfinite(at_zero))
