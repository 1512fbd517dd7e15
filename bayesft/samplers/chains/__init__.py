"""Markov kernels on sequences: what `mcmc` and `tempered` move their chains by.

Contract. A kernel is a frozen dataclass, a pytree of its arrays, made by a lower-case constructor
that validates. `bind(target)` makes it ready, `propose` gives candidates beside the sequence at
which a chain stands, `select` takes one of them by the weights that include the evidence; together
they leave p* invariant. Evidence is evaluated between the two, in JAX or in Python. All chains of
all prompts move at once; a chain's move depends on its own key alone.

| kernel | move | cost of a step per chain |
|---|---|---|
| `suffix_resampling` | redraws the tokens from a random position on | one generation |
| `block_gibbs` | redraws a block given both sides; keeps the length | M sequences scored |
| `particle_gibbs` | conditional SMC around the current sequence | N generations |

Laws, tested in tests/samplers/chains: chains that start at exact draws of p* stay distributed by
p*, under each EOS policy and each kind of evidence; chains that start elsewhere reach it.
"""

from bayesft.samplers.chains.block_gibbs import block_gibbs
from bayesft.samplers.chains.kernel import Kernel
from bayesft.samplers.chains.particle_gibbs import particle_gibbs
from bayesft.samplers.chains.suffix_resampling import suffix_resampling

__all__ = ["Kernel", "block_gibbs", "particle_gibbs", "suffix_resampling"]
