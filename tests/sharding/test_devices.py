"""Fits and draws over several devices and processes equal those of one device."""

import functools
import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from sharding import cases

import bayesft as bft
from bayesft.samplers.resampling import draw_ancestors

TOLERANCE = 64 * np.finfo(np.float32).eps
"""Of the largest entry: up to 4096 terms summed in another order differ by some √4096 roundings."""
ON_FOUR = ("smc_from_a_guide", "fit_all_parameters", "fit_a_markov_guide", "fit_a_user_module")
if importlib.util.find_spec("qwix"):
    ON_FOUR += ("int8_kernels",)
ON_TWO = ("smc_of_a_language_model", "fit_an_adapter")
SECONDS = 600
COLLECTIVE = re.compile(
    r" = (\S+?)\{.* (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)


class Run:
    """Cases on several devices, started now and waited for when their results are asked for."""

    def __init__(self, folder: Path, names: str, num_devices: int, process: str = ""):
        self.path = folder / f"{process[-1] if process else 'all'}.npz"
        here = Path(__file__).parent
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parent)]),
            "BAYESFT_PROCESS": process,
            "BAYESFT_FOLDER": str(folder),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(here / "cases.py"), str(self.path), names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @functools.cached_property
    def results(self) -> cases.Results:
        output, _ = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, output.decode()
        with np.load(self.path) as found:
            return dict(found)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[tuple[Run, list[Run]]]:
    """One process of four devices, and two of two: they run while this one computes the truth."""
    folder = tmp_path_factory.mktemp("runs")
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("localhost", 0))
        ports = f"{first.getsockname()[1]}/{second.getsockname()[1]}"
    names = ",".join(("killed/kept", *ON_TWO, "saved", "failing_evidence"))
    two = [Run(folder, names, 2, f"{ports},2,{process}") for process in range(2)]
    four = Run(folder, ",".join((*ON_FOUR, "layout")), 4)
    yield four, two
    for run in (four, *two):
        with run.process:  # closes its pipe: xdist may have left its results to another worker
            run.process.kill()


@pytest.fixture
def four(runs) -> Callable[[], cases.Results]:
    return lambda: runs[0].results


@pytest.fixture
def two(runs) -> Callable[[], list[cases.Results]]:
    return lambda: [run.results for run in runs[1]]


def _differences(name: str, one: cases.Results, many: cases.Results) -> list[str]:
    """Arrays of a case that differ: integers at all, floats by more than rounding."""
    wrong = []
    for key, expected in one.items():
        found = many[f"{name}/{key}"]
        if expected.dtype.kind != "f":
            same = np.array_equal(found, expected)
        else:
            finite = np.isfinite(expected)
            largest = np.abs(expected[finite]).max(initial=0.0)
            same = np.array_equal(np.isfinite(found), finite) and np.allclose(
                found[finite], expected[finite], rtol=0.0, atol=TOLERANCE * largest
            )
        if not same:
            wrong.append(key)
    return wrong


@pytest.mark.parametrize("name", ON_FOUR)
def test_four_devices_give_the_numbers_of_one(four, name):
    one = cases.CASES[name](None)
    assert not _differences(name, one, four())


@pytest.mark.parametrize("name", ON_TWO)
def test_two_processes_give_the_numbers_of_one(two, name):
    one = cases.CASES[name](None)
    rows, calls = one.pop("rows"), one.pop("calls")
    for results in two():
        assert not _differences(name, one, results)
        # Each process calls the reward as often, for its half of the rows.
        assert results[f"{name}/calls"] == calls
    assert sum(results[f"{name}/rows"] for results in two()) == rows
    if name == "smc_of_a_language_model":  # particles 8, …, 15 are in the second process
        ancestors = one["ancestors"]
        assert (ancestors[..., :8] > 7).any() and (ancestors[..., 8:] < 8).any()


def _within_devices(key: jax.Array, log_weights: jax.Array) -> jax.Array:
    """The planted bug: each of four devices resamples its own particles."""
    keys = jax.random.split(key, 4)
    return jax.vmap(bft.samplers.resampling.systematic)(keys, log_weights.reshape(4, -1)).ravel()


def test_resampling_within_devices_is_caught():
    key, log_weights = jax.random.key(0), jax.random.normal(jax.random.key(1), (1, 16))

    def ancestors(scheme) -> np.ndarray:
        return np.asarray(draw_ancestors(scheme, key[None], np.array([True]), log_weights))

    one = {"ancestors": ancestors(bft.samplers.resampling.systematic)}
    assert not _differences("case", one, {"case/ancestors": one["ancestors"]})
    wrong = {"case/ancestors": ancestors(_within_devices)}
    assert _differences("case", one, wrong) == ["ancestors"]


def test_a_device_holds_its_share(four):
    found = four()
    for name in ("cache", "user's cache"):
        assert found[f"layout/{name}"] == 0.25  # particles over 2 × 2 devices
    assert found["layout/tokens"] == 1.0  # known everywhere
    # Matrices over the two devices of "fsdp", vectors whole.
    for name in ("params", "moments"):
        assert set(found[f"layout/{name}"].tolist()) == {0.5, 1.0}
    assert (found["layout/params"] == found["layout/moments"]).all()


def test_a_token_costs_two_small_collectives(four):
    """In the loop over tokens, the tokens and their log-probs are gathered, and nothing else but
    the rows that resampling moves; parameters are gathered once, ahead of it."""
    found: dict[bool, list[str]] = {True: [], False: []}
    computation = ""
    for line in str(four()["layout/decode"]).splitlines():
        computation = line if not line.startswith(" ") else computation
        collective = COLLECTIVE.search(line)
        if collective and "shard_map" not in line:
            found[computation.startswith("ENTRY")].append(collective[1])
    assert sorted(found[False]) == ["f32[16,1]", "s32[16,1]"]
    assert len(found[True]) == 6  # embedding, head, and four kernels of the one layer


@pytest.mark.skipif("int8_kernels" not in ON_FOUR, reason="int8 weights need qwix (extra int8)")
def test_int8_kernels_are_split_and_travel_as_int8(four):
    found = four()
    assert set(found["int8_kernels/share"].tolist()) == {0.25}
    gathered = {match[1] for match in COLLECTIVE.finditer(str(found["int8_kernels/compiled"]))}
    kernels = {"s8[64,64]", "s8[64,128]", "s8[96,64]", "s8[64,192]"}
    assert gathered == kernels | {"f32[128,64]"}  # embedding and head


def test_what_two_processes_hold_is_saved(two):
    weights = jax.tree.leaves_with_path(cases.model().weights)
    for path, expected in weights:
        for results in two():
            found = results[f"saved/{jax.tree_util.keystr(path)}"]
            assert np.array_equal(found, expected)


def test_evidence_that_raises_in_one_process_raises_in_all(two):
    first, second = (str(results["failing_evidence/message"]) for results in two())
    assert "process 1" in first
    assert "Row 4 is bad." in second
    for results in two():
        assert (results["failing_evidence/answers"] == np.arange(5)).all()


def test_a_killed_fit_of_two_processes_goes_on_to_the_same_bits(two):
    for results in two():
        assert np.array_equal(results["kept/killed"], results["kept/whole"])
        assert results["kept/killed/steps"].tolist() == [2, 3, 4]
        assert set(results["kept/split"].tolist()) == {True, False}


def test_sigterm_in_one_process_ends_both_and_an_error_in_both_saves(two):
    for results in two():
        assert "SIGTERM ended the fit. The state after 2 steps" in str(results["kept/interrupted"])
        assert "The state after 4 steps" in str(results["kept/failed"])


def test_a_damaged_state_makes_both_processes_use_the_one_before(two):
    steps = [f"step-0000000{step}{end}" for step in (3, 4, 5) for end in ("", ".json")]
    damaged = ["damaged-step-00000004", "damaged-step-00000004.json"]
    for results in two():
        assert np.array_equal(results["kept/mended"], results["kept/whole"])
        assert results["kept/mended/steps"].tolist() == [3, 4]
        assert results["kept/files"].tolist() == [*damaged, "lock", *steps]


def test_what_is_refused_is_refused_in_both_processes(two):
    for results in two():
        assert "in use by process" in str(results["kept/in use"])
        assert "after 5 steps, and num_steps=1" in str(results["kept/fewer"])
        assert "2 processes would each write" in str(results["kept/alone"])
        assert results["kept/met"].tolist() == [False, True]
