"""Priors: normalised distributions over token sequences, small enough to prove things with.

Contract. A prior is a pytree whose leaves are arrays; token names and other metadata are static.
One that is written for one sequence derives from `SteppedPrior` and gives

    init(x) -> (state, logits [V])            the state after a prompt, and the first token's logits
    step(state, token) -> (state, logits [V])

from which it gets the batched form that samplers see, teacher-forced log-probs, text, enumeration
and `trainable`, a guide whose parameters are the prior's floating-point leaves. A prompt may have
no tokens at all (S = 0). A probability of 0 is a logit of -inf, which stays 0 under training; where
nothing is possible any more, logits are finite somewhere. What follows EOS is never looked at.

`shaped` makes a proposal of a prior: temperature, top-p and masks, with their exact density.
`bft.empirical` is also the target of `mle`: it binds itself to the tokenizer of a guide.

Laws, walked by tests/priors/test_laws.py over `PRIORS` (each member's own test file holds its
`EXAMPLES`): probabilities of the enumerated outcomes sum to 1 under each EOS policy; samples occur
as often as these say, and come with these log-probs; stepping agrees with teacher forcing;
jit = eager, vmap = loop, one trace per shape; a guide starts as its prior, and its gradients agree
with differences and hold no NaN, not even next to -inf.
"""

from bayesft.priors.empirical import empirical
from bayesft.priors.markov import markov
from bayesft.priors.ngram import ngram
from bayesft.priors.shaped import shaped
from bayesft.priors.trainable import trainable

PRIORS = (empirical, markov, ngram)

__all__ = ["PRIORS", "empirical", "markov", "ngram", "shaped", "trainable"]
