"""Functions that may fail or hang, called again."""

from __future__ import annotations

import functools
import math
import numbers
import threading
import time
import warnings
from collections.abc import Callable, Iterator
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
    function: `bft.evidence.reward(bft.evidence.retry(score, timeout=60), beta=0.1)`. Every attempt
    gets copies of the lists, whatever an earlier one did to its own, and reads what `fn` yields to
    the end where it is a generator.

    With a timeout `fn` runs in a thread of its own. A thread cannot be ended from outside: one that
    hangs is left behind, and dies with the process. Raises EvidenceError for settings that leave no
    attempt.
    """
    name = calling.name_of(fn, None)
    calling.check_function(fn, name)
    whole = isinstance(attempts, numbers.Integral) and attempts >= 1
    patient = timeout is None or (isinstance(timeout, numbers.Real) and timeout > 0)
    if not (whole and patient and isinstance(wait, numbers.Real) and 0 <= wait < math.inf):
        raise EvidenceError(
            f"retry(attempts={attempts!r}, timeout={timeout!r}, wait={wait!r}) never calls {name}, "
            "or not again.",
            cause="numbers out of range, or texts from a configuration file in their place.",
            remedy="use whole attempts ≥ 1, timeout > 0 seconds (None waits for ever) and a finite "
            "wait ≥ 0 seconds.",
        )

    @functools.wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        pause = float(wait)
        for attempt in range(1, attempts + 1):
            try:
                # A thread left behind by an earlier attempt goes on with lists of its own.
                return _within(timeout, fn, *map(calling.fresh, args), **calling.fresh(keywords))
            except Exception as error:
                if attempt == attempts:
                    error.add_note(f"{name} was tried {attempts} times.")
                    raise
                warnings.warn(
                    f"{name} failed in attempt {attempt} of {attempts} and is called again in "
                    f"{pause:g} s: {type(error).__name__}: {error}",
                    EvidenceWarning,
                    stacklevel=2,
                )
                time.sleep(pause)
                pause *= 2

    call.__name__ = name
    return call


def _within(timeout: float | None, fn: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    if timeout is None:
        return _read(fn, *args, **keywords)
    answer = in_background(functools.partial(_read, fn), *args, **keywords)
    try:
        return answer.result(min(timeout, threading.TIMEOUT_MAX))
    except Late:
        if answer.done():  # just now, or with a TimeoutError of its own
            return answer.result()
        raise TimeoutError(f"no answer within {timeout:g} s") from None


def _read(fn: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    found = fn(*args, **keywords)
    # A generator has not done anything yet; what it raises when read belongs to this attempt.
    return list(found) if isinstance(found, Iterator) else found
