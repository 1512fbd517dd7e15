"""Rotary settings as configs spell them: `rope_parameters`, or `rope_theta` with `rope_scaling`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bayesft.errors import ModelError
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
    """Rotary positions of a config in either form, or in both where they agree.

    θ and the share of each head that is rotated are what absent settings mean; a family without
    `rotary_factor` rotates whole heads and refuses a config that says otherwise. Scaling of an
    unknown type is refused.
    """
    own = settings.optional_number("rope_theta", None)
    if rotary_factor is not None:
        rotary_factor = settings.number("partial_rotary_factor", rotary_factor)
    sizes = (head_dim, max_positions, own or theta, rotary_factor)
    groups = (settings.nested("rope_parameters"), settings.nested("rope_scaling"))
    ropes = {read_rope_group(group, *sizes) for group in groups if group is not None}
    rope = ropes.pop() if ropes else read_rope_group(None, *sizes)
    if ropes or own not in (None, rope.theta):
        raise contradiction()
    return rope


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


def contradiction() -> ModelError:
    """The error for a config that says how positions turn in several ways."""
    return ModelError(
        "config.json contradicts itself about rotary positions: in rope_parameters, rope_scaling "
        "and rope_theta.",
        cause="one of them was edited, or written beside the others by another version of "
        "transformers",
        remedy="keep what the model was trained with, and remove the others",
    )


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
