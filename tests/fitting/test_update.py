"""One optimiser step: what is donated is written in place."""

import jax
import jax.numpy as jnp
import optax
import pytest
from fitting.tiny import fit

import bayesft._fit
from bayesft.fitting.update import update


@pytest.fixture(scope="module")
def arguments():
    """What a fit calls `update` with."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bayesft._fit, "update", lambda *given: taken.append(given) or update(*given))
        fit(1)
    return taken[0]


def _num_copies(arguments) -> int:
    """Copies in the compiled step, traced anew."""
    fresh = lambda *given: update.__wrapped__(*given)
    step = jax.jit(fresh, static_argnums=(0, 1, 2, 3), donate_argnums=(4, 5))
    shapes = jax.tree.map(jax.typeof, arguments[4:])
    return step.lower(*arguments[:4], *shapes).compile().as_text().count(" copy(")


def test_parameters_and_state_are_written_in_place(arguments, monkeypatch):
    in_place = _num_copies(arguments)
    choose = lambda which, new, old: jax.tree.map(lambda a, b: jnp.where(which, a, b), new(), old())
    monkeypatch.setattr(jax.lax, "cond", choose)  # the planted bug
    assert _num_copies(arguments) > in_place


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.prodigy(1.0),  # whose first state holds the parameters, which are donated too
        optax.chain(optax.adam(0.05), optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(1.0),  # follow the value
        optax.MultiSteps(optax.adam(0.05), 2),
    ],
)
def test_optimisers_with_states_of_their_own_kind(optimizer):
    before = fit(1).history[0].value
    assert fit(3, optimizer=optimizer).history[0].value == before
