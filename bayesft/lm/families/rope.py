"""Rotary settings as configs spell them: `rope_parameters`, or `rope_theta` with `rope_scaling`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bayesft.lm.rotary import LinearScaling, Llama3Scaling, Rope
from bayesft.lm.settings import Settings

type Scaling = LinearScaling | Llama3Scaling | None


def read_rope(settings: Settings, head_dim: int, max_positions: int) -> Rope:
    """Rotary positions of a config in either form; scaling of an unknown type is refused."""
    theta = settings.number("rope_theta", 10000.0)
    new, old = settings.nested("rope_parameters"), settings.nested("rope_scaling")
    parameters = new or old
    if parameters is None:
        return Rope(theta, head_dim)
    parameters.alias("type", to="rope_type")
    scaling = parameters.choice("rope_type", SCALINGS, "default")
    theta = parameters.number("rope_theta", theta)
    rope = Rope(theta, head_dim, scaling(parameters, max_positions))
    parameters.finish()
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
