"""Fits in processes of their own, forked from one that has imported everything and started nothing.

A line on stdin, `{"folder": …, "out": …, …}`, starts a fit; on stdout stand its process, its steps
and its end. JAX starts its threads in the child, so that the fork is safe and costs no import.
"""

import json
import os
import resource
import sys
import time

import jax  # noqa: F401
import numpy as np
import orbax.checkpoint  # noqa: F401

import bayesft as bft


def run(folder, out, overlap, num_steps, every, small_at=()):
    from fitting.tiny import count, fit, outcome

    def slow(completion_ids):
        time.sleep(0.01)
        return count(completion_ids)

    slow.__name__ = "count"

    def tell(info):
        print("step", info.step, flush=True)
        small = info.step in small_at  # files cannot grow: a full disk
        soft = 500 if small else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    checkpoint = bft.io.checkpoint(folder, every=every)
    fitted = fit(num_steps, fn=slow, overlap=overlap, checkpoint=checkpoint, callbacks=[tell])
    np.save(out, outcome(fitted))


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(**json.loads(line))
                code = 0
            finally:
                sys.stdout.flush()
                os._exit(code)
        print("pid", pid, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
