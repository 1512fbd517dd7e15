"""The geometry of AIR: an object is attended to where it was placed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paper.scripts import experiment


@pytest.fixture(scope="module")
def air():
    return experiment("air")


def test_attention_undoes_placement(air):
    """A smooth bump of 20 × 20 pixels, placed at scale s, is seen again up to interpolation."""
    axis = np.linspace(-1, 1, air.WINDOW)
    bump = jnp.asarray(np.exp(-4 * (axis[:, None] ** 2 + 2 * axis[None] ** 2)), jnp.float32)

    @jax.jit
    def there_and_back(where):
        canvas = air.place(bump, where)
        return canvas, air.attend(canvas, where)

    for where in ([2.5, 0.0, 0.0], [2.0, 0.6, -0.5]):
        canvas, seen = there_and_back(np.float32(where))
        np.testing.assert_allclose(seen, bump, atol=0.06)
    # The object stands where s·u + (x, y) = 0, rows for y and columns for x.
    row, column = np.unravel_index(int(np.argmax(canvas)), (50, 50))
    centre = np.asarray([0.5, -0.6]) / 2.0
    np.testing.assert_allclose([row, column], (centre + 1) * 49 / 2, atol=1.0)


def test_canvases_hold_as_many_digits_as_they_say(air, assets):
    images, counts = air.canvases("mnist_test.npz", 60, 3)
    mass = images.sum((1, 2))
    assert set(counts) == {0, 1, 2} and images.max() <= 1.0
    assert (mass[counts == 0] == 0).all()
    assert mass[counts == 2].mean() > 1.5 * mass[counts == 1].mean()
