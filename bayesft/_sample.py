"""The driver behind `bft.sample`."""

from __future__ import annotations

from jax.sharding import Mesh

from bayesft.base import Key, Sampler, require_key
from bayesft.draws import Draws
from bayesft.errors import SamplerError
from bayesft.placement import over_mesh
from bayesft.target import Target


@over_mesh
def sample(target: Target, sampler: Sampler, key: Key, *, mesh: Mesh | None = None) -> Draws:
    """Draws of the target for every prompt, under the sampler's claim (`draws.claim`).

    The same key gives the same draws. With a `mesh` (axes "data" and "fsdp", either or both), the
    models run on a share of the particles on each device, and the draws, which every device and
    process has in full, are the same within float error (docs/many_devices.md). Raises
    SamplerError where an argument is not what it should be, MeshError where particles cannot be
    split over the mesh, and whatever the sampler and the evidence raise.
    """
    if not isinstance(target, Target):
        raise SamplerError(
            f"A {type(target).__name__} was given as target.",
            cause="a prior or evidence on its own, or arguments in another order.",
            remedy="call bft.sample(bft.Target(prior, evidence, …), sampler, key).",
        )
    if not isinstance(sampler, Sampler):
        raise SamplerError(
            f"{sampler!r} is not a sampler.",
            cause="a constructor that was not called, or arguments in another order.",
            remedy="pass bft.samplers.smc(num_particles=128) or another member of the room.",
        )
    require_key(key, SamplerError)
    return sampler.run(target, key)
