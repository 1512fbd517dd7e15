"""Functions that may fail or hang, called again."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from concurrent.futures import TimeoutError as Late
from typing import Any

from bayesft.errors import EvidenceError, EvidenceWarning
from bayesft.evidence import calling
from bayesft.evidence.background import in_background


def retry(
    fn: Callable[..., Any],
    *,
    attempts: int = 3,
    timeout: float | None = None,
    wait: float = 1.0,
) -> Callable[..., Any]:
    """A function of the same signature that calls `fn` up to `attempts` times until it returns.

    An exception, and no answer within `timeout` seconds, are failed attempts; each is said by an
    EvidenceWarning, and followed by a pause of `wait` seconds, twice as long every time. After the
    last one its exception (TimeoutError) is raised. Use it wherever Python evidence takes a
    function: `bft.evidence.reward(bft.evidence.retry(score, timeout=60), beta=0.1)`.

    With a timeout `fn` runs in a thread of its own. A thread cannot be ended from outside: one that
    hangs is left behind, and dies with the process. Raises EvidenceError for settings that leave no
    attempt.
    """
    name = calling.name_of(fn, None)
    calling.check_function(fn, name)
    if attempts < 1 or not wait >= 0 or (timeout is not None and not timeout > 0):
        raise EvidenceError(
            f"retry(attempts={attempts}, timeout={timeout}, wait={wait}) never calls {name}.",
            remedy="use attempts ≥ 1, timeout > 0 seconds (None waits for ever), wait ≥ 0 seconds.",
        )

    @functools.wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                return _within(timeout, fn, *args, **keywords)
            except Exception as error:
                if attempt == attempts:
                    error.add_note(f"{name} was tried {attempts} times.")
                    raise
                pause = wait * 2 ** (attempt - 1)
                warnings.warn(
                    f"{name} failed in attempt {attempt} of {attempts} and is called again in "
                    f"{pause:g} s: {type(error).__name__}: {error}",
                    EvidenceWarning,
                    stacklevel=2,
                )
                time.sleep(pause)

    call.__name__ = name
    return call


def _within(timeout: float | None, fn: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    if timeout is None:
        return fn(*args, **keywords)
    answer = in_background(fn, *args, **keywords)
    try:
        return answer.result(timeout)
    except Late:
        if answer.done():  # just now, or with a TimeoutError of its own
            return answer.result()
        raise TimeoutError(f"no answer within {timeout:g} s") from None
