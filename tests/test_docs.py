"""The pages of docs/ speak of what exists: every sampler has a row, every test named is there."""

import re
from pathlib import Path

from bayesft import evidence, samplers, twists
from bayesft.samplers import resampling

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "samplers.md").read_text(encoding="utf-8")
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


def test_tests_that_are_named_exist():
    named = re.findall(r"`([a-z_]+/test_[a-z_]+\.py)`", PAGE)
    assert len(named) > 20
    assert not [name for name in named if not (REPOSITORY / "tests" / name).is_file()]


def test_evidence_that_is_named_exists():
    section = PAGE.split("## Evidence")[1].split("\n## ")[0]
    named = {name for row in rows(section) for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named and named <= set(evidence.__all__)
