"""What a mesh is refused for, and how rows fall on its axes."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh

import bayesft as bft
from bayesft.errors import MeshError
from bayesft.sharding.parameters import spec_of
from bayesft.sharding.rows import axes_of, require_split

DATA, FSDP = "data", "fsdp"


def on_many(data: int, fsdp: int):
    """A mesh of devices that need not exist."""
    mesh = AbstractMesh((data, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.parametrize("names", [("batch",), ("data", "model"), ("fsdp", "data")])
def test_axes_that_say_nothing_are_refused(names):
    mesh = Mesh(np.array(jax.devices()[:1]).reshape((1,) * len(names)), names)
    target = bft.Target(bft.priors.markov(*_tables(), eos=0), max_new_tokens=2)
    with pytest.raises(MeshError, match="axes"):
        bft.sample(target, bft.samplers.importance(2), jax.random.key(0), mesh=mesh)


@pytest.mark.parametrize("given", ["data", 0, [], AbstractMesh((1,), (DATA,))])
def test_what_is_no_mesh_is_refused(given):
    with pytest.raises(MeshError, match="no mesh of devices"):
        bft.sample(None, None, None, mesh=given)


def _tables():
    return np.log(np.full(3, 1 / 3)), np.log(np.full((3, 3), 1 / 3))


@pytest.mark.parametrize(
    ("num_prompts", "num_particles", "axes"),
    [
        (8, 3, ((DATA, FSDP), ())),  # whole prompts
        (16, 1, ((DATA, FSDP), ())),
        (1, 8, ((), (DATA, FSDP))),  # one prompt shared by all
        (2, 4, ((DATA,), (FSDP,))),  # a prompt for each group of four
        (4, 8, ((), ())),  # rows of a device would not be neighbours
        (3, 8, ((), ())),
        (1, 12, ((), ())),
        (2, 6, ((), ())),
    ],
)
def test_a_device_takes_whole_prompts_or_a_share_of_one(num_prompts, num_particles, axes):
    with on_many(2, 4):
        assert axes_of(num_prompts, num_particles) == axes
        if any(axes):
            require_split(num_prompts, num_particles, "particles")
        else:
            with pytest.raises(MeshError, match=f"{num_prompts} prompts × {num_particles}"):
                require_split(num_prompts, num_particles, "particles")
    require_split(num_prompts, num_particles, "particles")  # no mesh, no refusal


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 64), (FSDP,)),
        ((64, 128), (None, FSDP)),
        ((67, 128), (None, FSDP)),
        ((67, 66), ()),  # does not divide
        ((4096, 8), ()),  # a factor of low rank
        ((4096,), ()),
        ((), ()),
    ],
)
def test_parameters_are_split_along_their_longest_side(shape, spec):
    with on_many(2, 4):
        assert tuple(spec_of(shape)) == spec
    with on_many(8, 1):
        assert tuple(spec_of(shape)) == ()
    assert tuple(spec_of(shape)) == ()


def test_a_mesh_of_one_device_changes_nothing():
    target = bft.Target(bft.priors.markov(*_tables(), eos=0), max_new_tokens=2)
    sampler, key = bft.samplers.importance(3), jax.random.key(0)
    mesh = jax.make_mesh((1, 1), (DATA, FSDP))
    draws, same = (bft.sample(target, sampler, key, mesh=m) for m in (None, mesh))
    assert np.array_equal(draws.tokens, same.tokens)
    assert np.array_equal(draws.log_weights, same.log_weights)
