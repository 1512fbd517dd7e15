"""What each choice of a NumPyro guide is credited with: plates say which costs it can move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.interop.sites import Site
from bayesft.program import cost

type Frame = Any
"""One plate around a site: numpyro's CondIndepStackFrame, of name, dim and size."""


def pay(guide_sites: Sequence[Site], model_sites: Sequence[Site]) -> None:
    """Pay log q of every guide site and −log p of every model site, each choice's part to it.

    A choice made after a site of the guide is not credited with it. The element i of a choice in a
    plate is credited with the part of the costs at i, where all that the guide draws later is in
    that plate as well: what is drawn outside may depend on every element, and move costs anywhere.
    """
    choices = [(at, site) for at, site in enumerate(guide_sites) if site.drawn]
    local = {site.name: _local_frames(guide_sites[at:]) for at, site in choices}
    for at, site in enumerate(guide_sites):
        shares = {
            choice.name: _share(site, site.log_prob, choice, local[choice.name])
            if earlier <= at
            else jnp.zeros(choice.shape)
            for earlier, choice in choices
        }
        cost(jnp.sum(site.log_prob), shares=shares)
    for site in model_sites:
        shares = {
            choice.name: _share(site, -site.log_prob, choice, local[choice.name])
            for _, choice in choices
        }
        cost(-jnp.sum(site.log_prob), shares=shares)


def _local_frames(sites: Sequence[Site]) -> set[Frame]:
    """The plates of the first site that hold all later ones, observed sites left out."""
    frames = set(sites[0].frames)
    for site in sites[1:]:
        if not site.observed:
            frames &= set(site.frames)
    return frames


def _share(
    site: Site, value: Float[Array, "..."], choice: Site, local: set[Frame]
) -> Float[Array, "..."]:
    """The part of a site's cost that each element of a choice is credited with."""
    kept = {frame.dim for frame in site.frames if frame in local}
    summed = tuple(dim for dim in range(-value.ndim, 0) if dim not in kept)
    part = jnp.sum(value, axis=summed, keepdims=True)
    # Dimensions beyond the choice's are summed: a kept one is a plate around the choice.
    part = part.reshape(part.shape[max(0, part.ndim - len(choice.shape)) :])
    return jnp.broadcast_to(part, choice.shape)
