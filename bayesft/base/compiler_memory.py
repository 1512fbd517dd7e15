"""What compiling took goes back to the system before the compiled program runs."""

import ctypes
import sys
from collections.abc import Callable

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
SHORTEST = 0.5
"""Seconds of compilation that are worth it: looking through the heap takes some milliseconds."""


def give_back_after_compiling() -> None:
    """Has glibc return its free memory after every long compilation of this process.

    What LLVM frees lies between pieces that live on, so that it stays with the process: the peak
    would be that of compiling plus that of running. Does nothing where malloc is not glibc's.
    """
    trim = _trim()
    if trim is None:
        return

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and duration_secs >= SHORTEST:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(listen)


def _trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
