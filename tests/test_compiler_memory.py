"""Memory that was freed in pieces goes back to the system after a long compilation."""

import ctypes
from pathlib import Path

import jax
import pytest

from bayesft.base.compiler_memory import COMPILED, SHORTEST, _trim

PIECE, COUNT = 4096, 20_000  # 80 MiB


def resident() -> int:
    """Pages of 4 KiB that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(_trim() is None, reason="malloc is not glibc's")
def test_memory_freed_in_pieces_goes_back_after_a_long_compilation_only():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [libc.malloc(PIECE) for _ in range(COUNT)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    for piece in pieces[:-1]:  # the last one is at the top, and keeps those below it
        libc.free(ctypes.c_void_p(piece))
    jax.monitoring.record_event_duration_secs(COMPILED, SHORTEST / 2)
    held = resident()
    jax.monitoring.record_event_duration_secs(COMPILED, SHORTEST)
    assert held - resident() > COUNT / 2
    libc.free(ctypes.c_void_p(pieces[-1]))


def test_long_compilations_are_reported_under_that_name():
    """The planted bug would be another name: nothing would ever be given back."""
    heard = []
    listen = lambda event, *_, **__: heard.append(event)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x * 1.2345).lower(1.0).compile()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert COMPILED in heard
