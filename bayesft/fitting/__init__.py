"""The parts of the loop behind `bft.fit`.

The loop itself stands in `_fit.py`: record → replay → update. `FitState` is everything that the
next step depends on, so that a state, a key and the arguments determine all that follows; what a
step merely reports is a `StepInfo`.

| part | holds |
|---|---|
| `order` | which prompts a step sees: a function of the key and the step |
| `state` | what the next step needs |
| `info` | what a step reports |
| `metrics` | what of it is read off the recording, by TRL's names |
| `sequences` | the completions of a recording, with their scores |
| `completions` | some of them as text |
| `update` | one optimiser step on a recording |
| `checks` | what is refused before the first step |
| `refusals` | what is refused after one: infinite and NaN objectives |
"""
