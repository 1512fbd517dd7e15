"""Diagnostics: what can be said about draws and guides, with its error.

Contract. A diagnostic is a function that returns a frozen dataclass of per-prompt arrays [P] in
nats, intervals at a stated level, and notes; it prints as a table. Where a number cannot be
trusted it says so instead of printing it. Assumptions stand in its docstring.

    certify    limits on log Z from both sides, and with them on both KLs of a guide from its target
    frontier   reward against KL from the prior: the optimal curve, guides, best-of-n, draws
    collapse   entropy, distinct-n and self-overlap of guides and draws, beside the prior's
    pass_at_k  the probability that one of k samples is correct, without bias
    lineages, trajectories   genealogies of SMC's particles, and their tokens

Parts of certify: `evaluated` (samples with every log-prob), `posterior` (exact draws, or what
stands in), `bounds` (limits on log Z), `interval` and `bootstrap` (limits on means, proportions),
`certificate` (result). Of frontier: `tilting`, `order_statistics`, `curve` (result).

Laws, tested in tests/diagnostics: over seeded runs intervals cover the enumerated truth at least at
their level; a prompt in a batch gets the numbers that it gets alone; a planted bug (a posterior
draw that is not exact, a wrong sign, a weight left out) makes the test of coverage fail.
"""

from bayesft.diagnostics.certificate import Certificate
from bayesft.diagnostics.certify import certify
from bayesft.diagnostics.collapse import Collapse, Variety, collapse
from bayesft.diagnostics.curve import Frontier, FrontierPoint
from bayesft.diagnostics.frontier import frontier
from bayesft.diagnostics.genealogy import lineages, trajectories
from bayesft.diagnostics.interval import Interval
from bayesft.diagnostics.pass_at_k import PassAtK, pass_at_k

DIAGNOSTICS = (certify, collapse, frontier, pass_at_k)

__all__ = [
    "DIAGNOSTICS",
    "Certificate",
    "Collapse",
    "Frontier",
    "FrontierPoint",
    "Interval",
    "PassAtK",
    "Variety",
    "certify",
    "collapse",
    "frontier",
    "lineages",
    "pass_at_k",
    "trajectories",
]
