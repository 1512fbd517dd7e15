"""Functions that run beside the main thread, which does not outlive them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_background(fn: Callable[..., Any], *args: Any, **keywords: Any) -> Future[Any]:
    """Call a function in a thread of its own, which dies with the process where it hangs.

    (Those of a `ThreadPoolExecutor` are joined at exit, hanging or not.)
    """
    future: Future[Any] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(fn, *args, **keywords))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"bayesft {fn!r}", daemon=True).start()
    return future
