"""Panels fit the width they get, tell what they show, and do without colours and blocks."""

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from bayesft.report.panels import BIN_WIDTH, GAP, MAX_WIDTH, Panels, Sample

RNG = np.random.default_rng(0)
VALUES = np.clip(RNG.normal(-0.5, 0.3, 200), -1, 1)
SAMPLES = [
    Sample("prior", "cyan", VALUES),
    Sample("posterior", "yellow", VALUES, np.exp(VALUES / 0.2)),
    Sample("guide", "magenta", VALUES + 0.4),
]


def rendered(samples=SAMPLES, width=80, encoding="utf-8", terminal=False) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    color = "truecolor" if terminal else "auto"
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=color)
    console.print(Panels(samples, (-1, 1)))
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_lines_fit_the_width(width):
    lines = rendered(width=width).splitlines()
    assert max(map(cell_len, lines)) <= min(width, 3 * MAX_WIDTH + 2 * GAP)


def test_panels_stand_side_by_side_and_are_stacked_where_it_is_narrow():
    assert all(name in rendered().splitlines()[0] for name in ("prior", "posterior", "guide"))
    heads = [line.split() for line in rendered(width=30).splitlines() if line[:1].isalpha()]
    assert heads == [["prior"], ["posterior"], ["guide"]]


def test_means_are_weighted():
    posterior = SAMPLES[1]
    weights = np.exp(VALUES / 0.2)
    assert posterior.mean == pytest.approx((weights * VALUES).sum() / weights.sum())
    assert f"mean reward {posterior.mean:+.2f}" in rendered()


def test_no_colour_codes_where_there_is_no_terminal():
    assert "\x1b" not in rendered()
    assert "\x1b" in rendered(terminal=True)


def test_no_colour_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    colours = ("[36m", "[33m", "[35m", "[90m")
    assert not any(code in rendered(terminal=True) for code in colours)


def test_plain_characters_where_blocks_are_unknown():
    text = rendered(encoding="ascii")
    assert "#" in text and "." in text and "^" in text


def test_column_heights_share_one_scale():
    """A sample all in one bin reaches the top; one spread over many bins stays below."""
    wide = np.linspace(-0.99, 0.99, 480)
    lines = rendered(
        [Sample("one", "cyan", np.zeros(5)), Sample("many", "cyan", wide)]
    ).splitlines()
    top, bottom = lines[1], lines[8]
    assert top.count("█") == BIN_WIDTH
    assert sum(character in "▁▂▃▄▅▆▇█" for character in bottom) > 20


def test_dead_draws_leave_a_panel_without_mean():
    text = rendered([Sample("dead", "cyan", np.zeros(3), np.zeros(3))])
    assert "█" not in text and "▲" not in text and "nan" in text
