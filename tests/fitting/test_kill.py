"""`kill -9` at random moments, and a disk that fills up: the same bits in the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fitting.tiny import fit, outcome

NUM_STEPS = 40
NUM_KILLS = 10
HERE = Path(__file__).resolve().parent


class Victims:
    """Fits in processes that can be killed, one after the other."""

    def __init__(self, err):
        paths = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "victim.py")],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )

    def start(self, **options):
        options = {"num_steps": NUM_STEPS, "every": 2, "overlap": False, **options}
        self.process.stdin.write(json.dumps({k: _plain(v) for k, v in options.items()}) + "\n")
        self.process.stdin.flush()
        return int(self.line("pid"))

    def line(self, kind):
        """What follows on a line of that kind, or of the one that ends a fit."""
        for line in self.process.stdout:
            name, rest = line.split()
            if name in (kind, "ended"):
                return rest if name == kind else None
        raise AssertionError("the process that starts fits is gone")

    def finish(self, **options):
        self.start(**options)
        while self.line("step") is not None:
            pass
        return np.load(options["out"])


def _plain(value):
    return str(value) if isinstance(value, Path) else value


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    with (tmp_path_factory.mktemp("victims") / "err").open("w") as err:
        victims = Victims(err)
        yield victims
        victims.process.communicate()  # no more lines: it ends


def test_a_fit_that_is_killed_goes_on_to_the_same_bits(victims, tmp_path):
    """Killed while it starts, restores, steps and saves, in order and one step ahead."""
    chance = random.Random(0)
    kills = {False: 0, True: 0}
    for ahead in kills:
        options = {"folder": tmp_path / f"run-{ahead}", "overlap": ahead}
        options["out"] = tmp_path / f"run-{ahead}.npy"
        last = -1
        while kills[ahead] < NUM_KILLS // 2:
            pid = victims.start(**options)
            if kills[ahead] == 0:
                time.sleep(chance.uniform(0.0, 1.0))
            else:
                steps = [victims.line("step") for _ in range(chance.randint(1, 6))]
                last = int(steps[-1])  # nothing but the kill ends it
                time.sleep(chance.uniform(0.0, 0.1))
            os.kill(pid, signal.SIGKILL)
            while (rest := victims.line("step")) is not None:
                last = int(rest)
            kills[ahead] += 1
        assert 1 < last < NUM_STEPS - 1  # every kill ended a fit, and fits got on between them
        whole = outcome(fit(NUM_STEPS, overlap=ahead))
        np.testing.assert_array_equal(victims.finish(**options), whole)


def test_a_disk_that_fills_up_costs_a_state_and_nothing_else(victims, tmp_path):
    folder = tmp_path / "run"
    found = victims.finish(
        folder=folder, out=tmp_path / "run.npy", num_steps=8, every=1, small_at=[2, 3]
    )
    np.testing.assert_array_equal(found, outcome(fit(8)))
    assert sorted(path.stem[-1] for path in folder.glob("*.json")) == ["6", "7", "8"]
