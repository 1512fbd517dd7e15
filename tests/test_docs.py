"""The pages of docs/ speak of what exists: every member has a row, every test named is there, code
runs."""

import doctest
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from bayesft import estimators, evidence, objectives, samplers, track, twists
from bayesft.report.run import run_page
from bayesft.samplers import resampling

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {page.stem: page.read_text("utf-8") for page in sorted((REPOSITORY / "docs").glob("*.md"))}
PAGE, ESTIMATORS = PAGES["samplers"], PAGES["estimators"]
BLOCKS = {name: re.findall(r"```python\n(.*?)```", page, re.DOTALL) for name, page in PAGES.items()}
ELSEWHERE = {"interop", "many_devices", "watching"}  # tests/interop, tests/sharding, and below
RUNNING = [
    n for n, blocks in BLOCKS.items() if blocks and ">>>" not in blocks[0] and n not in ELSEWHERE
]
NO_SAMPLERS = {"SAMPLERS", "resampling", "quasi_rejection_diagnostics"}


def rows(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| `")]


def missing(page: str, names) -> set[str]:
    first_cells = " ".join(line.split("|")[1] for line in rows(page))
    return {name for name in names if not re.search(rf"`{name}\b", first_cells)}


def test_everything_has_a_row():
    names = {*samplers.__all__} - NO_SAMPLERS - {"choose_log_beta"}
    assert not missing(PAGE, names)
    assert not missing(PAGE, [scheme.__name__ for scheme in resampling.SCHEMES])
    assert not missing(PAGE, twists.OBJECTIVES)
    assert missing(PAGE.replace("| `smc`", "| `sms`"), names) == {"smc"}


def test_every_objective_has_a_row_and_every_generator_a_name():
    names = {objective.__name__ for objective in objectives.OBJECTIVES}
    assert not missing(PAGES["objectives"], names)
    section = PAGES["objectives"].split("## Generators")[1].split("\n## ")[0]
    makers = vars(objectives.generators).values()
    ours = [f.__name__ for f in makers if getattr(f, "__module__", "").endswith(".generators")]
    public = {name for name in ours if name[0].islower()}
    assert len(public) == 17
    assert not {name for name in public if not re.search(rf"`{name}\b", section)}


def test_the_objective_from_nothing_works():
    with jax.debug_key_reuse(False):  # checked at every call of a fit; other tests pay for it
        page = doctest.testfile(str(REPOSITORY / "docs" / "objectives.md"), module_relative=False)
    assert page.attempted > 5 and not page.failed


@pytest.mark.parametrize(
    ("page", "at_least"), [*((page, 0) for page in PAGES), ("samplers", 10), ("objectives", 10)]
)
def test_tests_that_are_named_exist(page, at_least):
    named = re.findall(r"`(?:tests/)?([a-z_]+/test_[a-z_]+\.py)`", PAGES[page])
    assert len(named) >= at_least
    assert not [name for name in named if not (REPOSITORY / "tests" / name).is_file()]


def test_evidence_that_is_named_exists():
    section = PAGE.split("## Evidence")[1].split("\n## ")[0]
    named = {name for row in rows(section) for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named and named <= set(evidence.__all__)


def test_every_estimator_has_a_row_with_its_claim():
    names = {*estimators.__all__} - {"ESTIMATORS"}
    assert not missing(ESTIMATORS, names)
    made = {
        "leave_one_out": estimators.leave_one_out(2),
        "importance": estimators.importance(None),
        "learned_baseline": estimators.learned_baseline(lambda d: d, 1),
        "relax": estimators.relax(lambda params, z: z, ()),
        "trained_rebar": estimators.trained_rebar(lambda soft: soft),
    }
    for row in rows(ESTIMATORS):
        name = re.findall(r"`(\w+)", row)[0]
        estimator = made.get(name) or getattr(estimators, name)()
        assert row.split("|")[2].strip().startswith(estimator.claim.kind), name


@pytest.mark.parametrize("page", RUNNING)
def test_the_code_of_a_page_runs(page):
    run_blocks(page)


def run_blocks(page: str) -> dict[str, Any]:
    """What the code of a page defines; each block uses what the ones before it have defined."""
    names: dict[str, Any] = {"__name__": "page"}
    with jax.debug_key_reuse(False):
        for block in BLOCKS[page]:
            exec(block, names)
    return names


def test_the_code_of_the_page_on_watching_runs_and_its_metrics_are_those(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    found = run_blocks("watching")
    assert found["steps"].tolist() == [0, 5]
    assert "KL(q‖p*)" in run_page(track.read_run("runs/first"))
    cells = [line.split("|")[1] for line in rows(PAGES["watching"].split("## Metrics")[1])]
    named = {
        re.sub(r"\{name\}", "count", n) for cell in cells for n in re.findall(r"`(\S+?)`", cell)
    }
    named -= {name for name in named if name.startswith("certificate/")}
    logged = {name for name in found["fitted"].history[-1].scalars if "certificate" not in name}
    # Without other evidence and with a constant rate, two of them are not there.
    assert named - logged == {"log_potentials/count/mean", "learning_rate"}
    assert not logged - named
    assert not missing(PAGES["watching"], set(track.__all__) - {"Run", "read_run"})
