"""Trackers: callbacks of `bft.fit` that write down, send or show what a run does.

Contract. A tracker is made before the fit and refuses then what cannot work: a folder that cannot
be written to, a library that is missing, a target without a density. What only the mesh of a fit
can tell, it refuses in its `before_fit`, called before the first step. It is called with a
`StepInfo` after every step, logs `info.scalars` under the names that these have, asks for guide or
completions only where they are its business, and changes nothing of the fit. Callbacks run in their
order: one that adds metrics, as `certificates` does, stands before those that should log them.
Nothing is imported for a service that is not used.

    run                 a folder: metrics and completions as JSON lines, and the configuration
    tensorboard         event files
    weights_and_biases  a run of Weights & Biases
    trackio             a run of trackio
    completions         a table of completions on the console
    certificates        bounds on log Z and on both divergences, every so many steps
    read_run            what a run's folder holds
    lines               JSON lines that survive a killed process and a full disk
    config              a configuration as JSON can hold it
    folder              a folder that is tried before the fit
"""

from bayesft.track.certificates import certificates
from bayesft.track.completions import completions
from bayesft.track.run import Run, read_run, run
from bayesft.track.services import trackio, weights_and_biases
from bayesft.track.tensorboard import tensorboard

__all__ = [
    "Run",
    "certificates",
    "completions",
    "read_run",
    "run",
    "tensorboard",
    "trackio",
    "weights_and_biases",
]
