"""The parts of the loop behind `bft.fit`.

The loop itself stands in `_fit.py`: record → replay → update → keep. `FitState` is everything that
the next step depends on, so that a state, a key and the arguments determine all that follows; what
a step merely reports is a `StepInfo`.

| part | holds |
|---|---|
| `order` | which prompts a step sees: a function of the key and the step |
| `state` | what the next step needs |
| `info` | what a step reports |
| `metrics` | what of it is read off the recording, by TRL's names |
| `sequences` | the completions of a recording, with their scores |
| `completions` | some of them as text |
| `recorder` | the recordings, each when its step comes or one step ahead |
| `update` | one optimiser step on a recording |
| `keeper` | keeps states in a checkpoint, ends the fit on SIGTERM |
| `settings` | what has to be the same where a fit goes on |
| `checks` | what is refused before the first step |
| `refusals` | what is refused after one: infinite and NaN objectives |

Laws: a fit that ends early, at any moment, goes on to the same bits (tests/fitting/test_kill.py,
test_checkpoint.py); recordings one step ahead and from proposals bias nothing, by enumeration
(tests/fitting/test_overlap.py); each with a planted bug.
"""
