"""Twists: prefix functions ψ_t(y_1:t) that steer SMC towards evidence that comes later.

Contract. A twist is a `bayesft.base.Twist`, a pytree that gives log ψ of every next token: a
`TwistHead` reads the prior's hidden states, a `SteppedTwist` has a state of its own. `params` are
its trainable arrays, and ψ ≡ 1 where a constructor can make it so. On finished sequences ψ ≡ 1 as
soon as all evidence is in the weight; evidence on whole sequences comes later, and until then the
twist's value at the last token stands in for it. Any twist that is positive where the target
has mass leaves the weights of `bft.samplers.twisted` proper; the exact one,
ψ_t = E_π0[φ | y_1:t]/φ_prefix(y_1:t), makes each of them Z.

`fit` learns a twist from SMC's own samples. An objective is a frozen dataclass, made by a
lower-case constructor, that maps the rollouts of one prompt (`Paths`) and posterior draws
(`Positives`) to a loss; its docstring states its minimum.

    head(prior, key)         a network on hidden states: no forward pass of its own
    model(guide)             another model's logits
    tabular(V, T)            a free value for every prefix, for enumerable targets
    contrastive()            KL(p*(y_1:t) ‖ π_t); no gradient noise at the optimum
    soft_q()                 one-step soft Bellman error; no positives needed
    path_consistency()       the same against the rest of the path
    sixo()                   telling posterior prefixes from prior ones
    fudge()                  regression on the prior's own sequences; bounded evidence

Laws, tested in tests/twists: learned tables approach the exact one by every objective, under every
EOS policy and kind of evidence; the variance of log-weights drops; padding counts nothing; a
planted bug in each objective is noticed; one trace per shape.
"""

from collections.abc import Callable

from bayesft.twists.contrastive import contrastive
from bayesft.twists.exact import exact_twist
from bayesft.twists.fitting import FittedTwist, TwistStep, fit
from bayesft.twists.fudge import fudge
from bayesft.twists.head import head
from bayesft.twists.model import model
from bayesft.twists.objective import TwistObjective
from bayesft.twists.sixo import sixo
from bayesft.twists.soft_q import path_consistency, soft_q
from bayesft.twists.tabular import tabular

OBJECTIVES: dict[str, Callable[[], TwistObjective]] = {
    "contrastive": contrastive,
    "soft_q": soft_q,
    "path_consistency": path_consistency,
    "sixo": sixo,
    "fudge": fudge,
}
"""Every objective by name: what the laws walk."""

__all__ = [
    "OBJECTIVES",
    "FittedTwist",
    "TwistObjective",
    "TwistStep",
    "contrastive",
    "exact_twist",
    "fit",
    "fudge",
    "head",
    "model",
    "path_consistency",
    "sixo",
    "soft_q",
    "tabular",
]
