"""The interop examples run, in their quick form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "needs", "shown"),
    [
        ("numpyro_guide", "numpyro", ["exact", "Trace_ELBO", "cause 5"]),
        ("genjax_prior", "genjax", ["enumeration", "genjax generate", "most likely"]),
        ("tfp_flow", "tensorflow_probability", ["flow, banana", "a sum over the circle"]),
    ],
)
def test_it_runs(name, needs, shown):
    pytest.importorskip(needs)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick"],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in shown)
