"""A user's own Flax module as a prior and as a guide.

Contract. `from_module` takes an NNX module, or a Linen module with its variables, that maps tokens
[B, T] to logits [B, T, V] of the token after each position. Sequences stand in it from position 0
on, padding behind them, so a module that does not look ahead needs no mask. Scoring is one forward
pass. A token is drawn by a forward pass over the whole buffer, or by the user's own `init` and
`step`.

| part | holds |
|---|---|
| `form` | a module as static structure and arrays, and back |
| `decoding` | one token at a time, by recomputing or by the user's steps |
| `checks` | what is noticed when a module is taken: looking ahead, leaking rows, drawn numbers |
| `prior` | the prior, the guide, and `from_module` |
"""
