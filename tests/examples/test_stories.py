"""The examples on real story models run, in their quick form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow  # each starts an interpreter and compiles a decoder
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mild_stories", ["toxic × 4", "mean P(toxic)", "8 independent runs"]),
        ("reward_posterior", ["posterior mean ± sd", "risk-averse", "sd of r over w"]),
        ("topic_prompt", ["exact gradient", "guide after its fit", "= −log Z"]),
        ("half_girls", ["prior moment", "half girls, half boys", "fresh draws"]),
    ],
)
def test_it_runs(assets, name, shown):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick"],
        env={**os.environ, "BAYESFT_ASSETS": str(assets), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in shown)


@pytest.mark.slow
def test_a_killed_run_goes_on(assets, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "long_run.py"), "--quick", "--folder", str(tmp_path)],
        env={**os.environ, "BAYESFT_ASSETS": str(assets), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "killed after" in done.stdout and "KL(q‖p*)" in done.stdout
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "guide" / "adapter_config.json").is_file()
