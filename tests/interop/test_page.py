"""docs/interop.md speaks of what exists: its code runs, and the tests it names are there."""

import re
from pathlib import Path

import jax
import pytest

import bayesft as bft

pytest.importorskip("genjax")
REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "interop.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PUBLIC = {
    "numpyro": ("program", "loss", "parameters"),
    "genjax": ("choice", "prior", "distribution"),
    "tfp": ("distribution", "transform"),
}


def test_every_function_has_a_row():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = [re.findall(r"`(\w+)\.(\w+)\(", row)[0] for row in rows]
    assert named == [(module, name) for module, names in PUBLIC.items() for name in names]
    assert all(callable(getattr(getattr(bft.interop, module), name)) for module, name in named)


def test_tests_and_examples_that_are_named_exist():
    named = [f"tests/{name}" for name in re.findall(r"`(interop/test_\w+\.py)`", PAGE)]
    named += re.findall(r"`(examples/\w+\.py)`", PAGE)
    assert len(named) > 10
    assert not [name for name in named if not (REPOSITORY / name).is_file()]


@pytest.mark.slow  # it uses all three libraries
@pytest.mark.filterwarnings("ignore:shape requires ndarray or scalar:DeprecationWarning")
def test_the_code_of_the_page_runs():
    assert len(BLOCKS) == 5
    names: dict[str, object] = {}
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as users run it
        for block in BLOCKS:
            exec(block, names)  # each uses what the ones before it have defined
