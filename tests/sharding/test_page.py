"""docs/many_devices.md shows what benchmarks/estimate.py prints, and its first example runs."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest
from sharding import cases

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "many_devices.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_estimate(monkeypatch):
    path = REPOSITORY / "benchmarks" / "estimate.py"
    spec = importlib.util.spec_from_file_location("estimate", path)
    assert spec is not None and spec.loader is not None
    estimate = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "estimate", estimate)  # dataclasses look it up
    spec.loader.exec_module(estimate)
    for table in estimate.tables():
        assert table in PAGE
    small = estimate.Model(1, 64, 96, 4, 2, 16, 128)
    assert small.params == sum(leaf.size for leaf in jax.tree.leaves(cases.model().weights))


@pytest.mark.slow
def test_the_first_example_runs(tmp_path, monkeypatch):
    cases.model().save(tmp_path / "model")
    (code,) = re.findall(r"```python\n(import jax, optax.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"model", mesh', '"model", tokenizer=False, mesh'), {})
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
