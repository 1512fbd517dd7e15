"""How far the guide is from its target, certified while it is fitted."""

from __future__ import annotations

import jax
import numpy as np

from bayesft.base import Key, checked_count, require_key
from bayesft.diagnostics import Certificate, certify
from bayesft.diagnostics.posterior import draw_posterior
from bayesft.draws import Draws
from bayesft.errors import RunError, SamplerError, TargetError
from bayesft.fitting.info import StepInfo
from bayesft.samplers.validation import require_count, require_level
from bayesft.target import Target

BOUNDED = ("log_z", "reverse_kl", "forward_kl")


class Certificates:
    """A callback of `bft.fit` that certifies the guide; `found` are the certificates by step."""

    def __init__(self, target: Target, every: int, key: Key, level: float, settings: dict):
        self.target, self.every, self.keys = target, every, jax.random.split(key)
        self.level, self.settings = level, settings
        self.found: dict[int, Certificate] = {}
        self._posterior: Draws | None = None

    def before_fit(self) -> None:
        """Draw from the posterior, the same draws wherever a fit is gone on with."""
        if self._posterior is None:
            self._posterior = draw_posterior(
                self.target, self.keys[0], self.settings["num_repeats"], self.target.prior
            )

    def __call__(self, info: StepInfo) -> None:
        if not info.due(self.every):
            return
        self.before_fit()  # where it is called by another loop than that of a fit
        certificate = certify(
            self.target,
            info.guide,
            jax.random.fold_in(self.keys[1], info.step),
            level=1 - (1 - self.level) / len(self.target.prompts),
            posterior_draws=self._posterior,
            **self.settings,
        )
        self.found[info.step] = certificate
        info.add({f"certificate/{name}": value for name, value in self._means(certificate).items()})

    def _means(self, certificate: Certificate) -> dict[str, float]:
        found = {"level": self.level, "certified": float(certificate.certified.mean())}
        for name in BOUNDED:
            interval = getattr(certificate, name)
            found[f"{name}/lower"] = float(np.mean(interval.lower))
            found[f"{name}/upper"] = float(np.mean(interval.upper))
        return found


def certificates(
    target: Target,
    every: int,
    key: Key,
    level: float = 0.9,
    num_particles: int = 64,
    num_repeats: int = 16,
) -> Certificates:
    """A callback that certifies the guide after the first, every `every`-th and the last step.

    To the step it adds `certificate/{log_z,reverse_kl,forward_kl}/{lower,upper}` in nats, the means
    over the target's prompts; limits of single prompts are at 1 − (1 − level)/P, so that those of a
    mean hold at `level` (Bonferroni) at any one step, `certificate/level`. `certificate/certified`
    is the share of prompts whose upper limits are certified. The full certificates are in `.found`.

    A certificate costs 2·`num_particles`·`num_repeats` completions per prompt: give a few prompts,
    `target.select([0, 1])`. Posterior draws are made before the first step and serve every
    certificate. Stands before the trackers that should log it. Raises TargetError for a target
    without a density, RunError for an `every` below 1, else like `bft.certify`; before the first
    step MeshError where the mesh of the fit cannot split the prompts.
    """
    if not isinstance(target, Target):
        raise TargetError(
            f"A certificate needs a target with a density, not {type(target).__name__}.",
            cause="an empirical target, which has completions and no density, or a prior.",
            remedy="pass bft.Target(prior, evidence, …).",
        )
    every = checked_count("every", every, RunError)
    require_key(key, SamplerError)
    require_level(level)
    settings = {
        "num_particles": require_count("num_particles", num_particles),
        "num_repeats": require_count("num_repeats", num_repeats),
    }
    return Certificates(target, every, key, level, settings)
