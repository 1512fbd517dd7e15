"""Sliding windows as configs spell them: `layer_types`, or a family's own pattern."""

from __future__ import annotations

from collections.abc import Callable

from bayesft.lm.settings import Settings

type Windows = tuple[int | None, ...]


def read_windows(
    settings: Settings, num_layers: int, window: int | None, slides: Callable[[int], bool]
) -> Windows:
    """The window of each layer that slides, None for layers that see everything.

    `slides` says which layers do where the config has no `layer_types`. Without a window none
    may: such a config is refused.
    """
    kinds = {"full_attention": None} | ({} if window is None else {"sliding_attention": window})
    default = [
        "sliding_attention" if window is not None and slides(layer) else "full_attention"
        for layer in range(num_layers)
    ]
    return settings.choices("layer_types", kinds, default)
