"""Rotary settings as configs spell them: `rope_parameters`, or `rope_theta` with `rope_scaling`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bayesft.lm.rotary import LinearScaling, Llama3Scaling, Rope
from bayesft.lm.settings import Settings

type Scaling = LinearScaling | Llama3Scaling | None


def read_rope(
    settings: Settings,
    head_dim: int,
    max_positions: int,
    theta: float = 10000.0,
    rotary_factor: float | None = None,
) -> Rope:
    """Rotary positions of a config in either form; scaling of an unknown type is refused.

    θ and the share of each head that is rotated are what absent settings mean; a family without
    `rotary_factor` rotates whole heads and refuses a config that says otherwise.
    """
    theta = settings.number("rope_theta", theta)
    if rotary_factor is not None:
        rotary_factor = settings.number("partial_rotary_factor", rotary_factor)
    group = settings.nested("rope_parameters") or settings.nested("rope_scaling")
    return read_rope_group(group, head_dim, max_positions, theta, rotary_factor)


def read_rope_group(
    group: Settings | None,
    head_dim: int,
    max_positions: int,
    theta: float,
    rotary_factor: float | None = None,
) -> Rope:
    """Rotary positions of one group of settings; None is an empty group."""
    group = group or Settings({})
    group.alias("type", to="rope_type")
    scaling = group.choice("rope_type", SCALINGS, "default")
    theta = group.number("rope_theta", theta)
    if rotary_factor is not None:
        rotary_factor = group.number("partial_rotary_factor", rotary_factor)
    size = head_dim if rotary_factor is None else int(head_dim * rotary_factor)
    rope = Rope(theta, size, scaling(group, max_positions))
    group.finish()
    return rope


def _default(settings: Settings, max_positions: int) -> Scaling:
    return None


def _linear(settings: Settings, max_positions: int) -> Scaling:
    return LinearScaling(settings.number("factor"))


def _llama3(settings: Settings, max_positions: int) -> Scaling:
    return Llama3Scaling(
        factor=settings.number("factor"),
        low_frequency_factor=settings.number("low_freq_factor"),
        high_frequency_factor=settings.number("high_freq_factor"),
        original_max_positions=settings.integer("original_max_position_embeddings", max_positions),
    )


SCALINGS: Mapping[str, Callable[[Settings, int], Scaling]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
}
