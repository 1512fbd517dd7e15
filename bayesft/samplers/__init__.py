"""Samplers: what turns a target into draws.

Contract. A sampler is a frozen dataclass, made by a lower-case constructor that validates its
settings, with `claim` and `run(target, key) -> Draws`. Its claim is one of

- *proper weights*: E[Ẑ·f̄] = Z·E_p*[f], f̄ the self-normalised mean, so E[Ẑ] = Z (not of its log);
- *exact draws*: independent draws of p*, equally weighted;
- *another law*, which its docstring states; `log_z` is None where there is no estimate.

Iterative samplers add `init(target, key) -> state`, `step(key, state) -> (state, info)` and
`finish`. What can be inside one `jit` is: targets, proposals and states are pytrees, functions are
static by identity, and neither a new prompt, key nor scale of the evidence retraces. Python
evidence is called between jitted segments, once for all rows. Prompts are an explicit axis, and
keys fold in a prompt's id: a prompt in a batch draws what the same prompt alone draws.

A new way to propose tokens is a `Proposer`, a new resampling scheme a function
`(key, log_weights [N]) -> counts [N]`; both plug into the loop in `sequential`. A new Markov kernel
(see `chains`) plugs into `mcmc` and `tempered`.

Laws, tested in tests/samplers on every member of `SAMPLERS`: the claim holds against enumeration
under each EOS policy, `log_prior` and `log_evidence` are those of the target, log-weights hold no
NaN, the same key gives the same draws and a new key new ones, a batch of prompts equals each alone,
one trace per shape, and a planted bug makes the test of the claim fail.
"""

from collections.abc import Callable

from bayesft.base import Sampler
from bayesft.samplers import resampling
from bayesft.samplers.adaptive_rejection import adaptive_weighted_rejection
from bayesft.samplers.best_of_n import best_of_n
from bayesft.samplers.chains import block_gibbs, particle_gibbs, suffix_resampling
from bayesft.samplers.importance import importance
from bayesft.samplers.mcmc import mcmc
from bayesft.samplers.nested import nested_smc
from bayesft.samplers.quasi_rejection import quasi_rejection
from bayesft.samplers.quasi_rejection_diagnostics import (
    choose_log_beta,
    quasi_rejection_diagnostics,
)
from bayesft.samplers.rejection import rejection
from bayesft.samplers.smc import smc
from bayesft.samplers.soft_best_of_n import soft_best_of_n
from bayesft.samplers.statistical_rejection import statistical_rejection
from bayesft.samplers.tempered import tempered
from bayesft.samplers.tilted import locally_optimal
from bayesft.samplers.twisted import twisted

SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "importance": importance,
    "rejection": rejection,
    "quasi_rejection": lambda num_draws: quasi_rejection(num_draws, log_beta=1.0),
    "statistical_rejection": lambda num_draws: statistical_rejection(4 * num_draws, num_draws),
    "best_of_n": lambda num_draws: best_of_n(4, num_draws),
    "soft_best_of_n": lambda num_draws: soft_best_of_n(4, num_draws),
    "smc": smc,
    "nested_smc": lambda num_draws: nested_smc(max(1, num_draws // 4), 4, 2),
    "mcmc": lambda num_draws: mcmc(suffix_resampling(), num_draws, num_steps=3, burn_in=2),
    "tempered": lambda num_draws: tempered(num_draws, (0, 0.5, 1)),
}
"""Every member by name, made from the number of draws: what the laws walk."""

__all__ = [
    "SAMPLERS",
    "adaptive_weighted_rejection",
    "best_of_n",
    "block_gibbs",
    "choose_log_beta",
    "importance",
    "locally_optimal",
    "mcmc",
    "nested_smc",
    "particle_gibbs",
    "quasi_rejection",
    "quasi_rejection_diagnostics",
    "rejection",
    "resampling",
    "smc",
    "soft_best_of_n",
    "statistical_rejection",
    "suffix_resampling",
    "tempered",
    "twisted",
]
