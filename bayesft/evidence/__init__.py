"""Evidence: log-potentials log φ(y, x) in nats, what turns a prior into a target.

Contract. A member is a lower-case constructor in a file of its own name. It validates its
arguments and returns a frozen dataclass, a registered pytree (arrays are leaves, functions static
by identity), of one of the three kinds in `bayesft.base`, by where it can be evaluated:

    HostEvidence    Python, on text: `evaluate(rows) -> [R]`, one call for all rows, outside jit
    Potential       JAX, on a whole sequence: `log_potential(tokens [T], x, length) -> scalar`
    PrefixEvidence  JAX, token by token: `init(x)`, `step(state, token) -> (state, increment)`

A sum of scaled leaves (`moments`) is evidence too, and `retry` makes a function that fails or hangs
one that does less often. A target asks leaves to `bind` to its prior,
horizon and prompts.

It has a `name` for errors and metrics, and `bounds`, the smallest and largest value that it can
take (infinite where unknown): exact rejection and certificates rest on them. `hard` says that it
declares sequences impossible. Evidence adds up with `+` and scales with `*`; a scale of 0 switches
even -inf off.

Laws, walked by tests/evidence/test_laws.py over `EVIDENCE` (each member's own test file holds its
`EXAMPLES`): values lie in the bounds and are never NaN or +inf; sums commute and scales distribute;
jit = eager, and vmap = loop; padding never changes a value; prefix increments telescope; a new
array leaf, such as another β, does not retrace.
"""

from bayesft.evidence.classifier import classifier
from bayesft.evidence.constraint import constraint
from bayesft.evidence.context_free import context_free
from bayesft.evidence.infill import infill
from bayesft.evidence.json_schema import json_schema
from bayesft.evidence.keywords import keywords
from bayesft.evidence.length import length
from bayesft.evidence.moments import moments
from bayesft.evidence.potential import potential
from bayesft.evidence.power import power
from bayesft.evidence.prefix_potential import prefix_potential
from bayesft.evidence.product import product
from bayesft.evidence.regex import regex
from bayesft.evidence.retry import retry
from bayesft.evidence.reward import reward

EVIDENCE = (
    classifier,
    constraint,
    context_free,
    infill,
    json_schema,
    keywords,
    length,
    moments,
    potential,
    power,
    prefix_potential,
    product,
    regex,
    reward,
)

__all__ = [
    "EVIDENCE",
    "classifier",
    "constraint",
    "context_free",
    "infill",
    "json_schema",
    "keywords",
    "length",
    "moments",
    "potential",
    "power",
    "prefix_potential",
    "product",
    "regex",
    "retry",
    "reward",
]
