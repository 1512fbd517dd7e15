"""Figures are SVG with labelled axes that show what they are given; the page holds them."""

import sys
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
from rich.table import Table
from samplers.language import HAS_AB, IN_JAX, guide, replicated

from bayesft.diagnostics import frontier
from bayesft.errors import DiagnosticError
from bayesft.report.frontier import frontier_svg
from bayesft.report.genealogy import MAX_TEXTS, genealogy_svg
from bayesft.report.page import Section, page
from bayesft.report.weights import weights_svg
from bayesft.samplers import best_of_n

ANCESTORS = np.array([[0, 1, 2], [0, 0, 2], [2, 1, 2]])
TOKENS = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
WORDS = ["a", "b$", "c", "d", "e", "extraordinary", "g", "h", "<i>"]


@pytest.fixture(autouse=True)
def _needs_matplotlib(request):
    if "without" not in request.node.name and "page" not in request.node.name:
        pytest.importorskip("matplotlib")


def texts(svg):
    """The texts of a figure, which has to be well-formed."""
    root = ElementTree.fromstring(svg)
    return ["".join(each.itertext()).strip() for each in root.iter() if each.tag.endswith("text")]


def of(evidence=IN_JAX):
    target, key = replicated(evidence, 1), jax.random.key(0)
    best = best_of_n(4, 64).run(target, key)
    return frontier(target, key, guides={"my guide": guide()}, draws={"bon": best}, num_samples=256)


def test_the_frontier_has_its_points_and_what_cannot_be_trusted():
    shown = texts(frontier_svg(of(), title="One prompt"))
    expected = {"KL from the prior (nats)", "E[log φ] (nats)", "my guide", "best of 16", "λ = 1"}
    expected |= {"bon (KL unknown)", "not to be trusted", "One prompt", "optimal: π0·φ^λ"}
    assert expected <= set(shown)
    hard = texts(frontier_svg(of(IN_JAX + HAS_AB)))
    assert any(text.startswith("not shown, at −∞: my guide, best of 1") for text in hard)


def test_few_particles_have_their_tokens():
    shown = texts(genealogy_svg(ANCESTORS, TOKENS, lambda ids: WORDS[ids[0]]))
    assert {"token", "particle slot", "died out", "lineages of the 3 final particles"} <= set(shown)
    assert {"a", "c", "extraord…", "<i>"} <= set(shown)
    assert "b$" in shown
    many = np.tile(np.arange(MAX_TEXTS), (2, 1))
    assert "a" not in texts(genealogy_svg(many, np.zeros_like(many), lambda ids: "a"))


def test_surviving_lineages_are_dark_and_dead_branches_light():
    """Slot 1 died at token 0 and slot 0 at token 1: one light line, three dark ones."""
    svg = genealogy_svg(ANCESTORS)
    root = ElementTree.fromstring(svg)
    groups = [g for g in root.iter() if g.get("id", "").startswith("LineCollection")]
    light, dark = ([p for p in g.iter() if p.tag.endswith("path")] for g in groups)
    assert (len(light), len(dark)) == (1, 5)


def test_weights_have_an_ess_and_marks():
    log_weights = np.random.default_rng(0).normal(size=(6, 8))
    log_weights[2, 3] = -np.inf
    ancestors = np.tile(np.arange(8), (6, 1))
    ancestors[3, 0] = 5
    shown = texts(weights_svg(log_weights, ancestors, threshold=0.5))
    assert {"token", "N × weight", "ESS of 8", "resampling", "threshold", "a particle"} <= set(
        shown
    )
    assert "1 of 48 weights are below 0.0001/N and not shown" in shown
    assert "resampling" not in texts(weights_svg(log_weights, resampled=np.zeros(6, bool)))
    assert "ESS of 8" in texts(weights_svg(np.full((2, 8), -np.inf)))


def test_the_same_figure_is_the_same_text():
    assert genealogy_svg(ANCESTORS) == genealogy_svg(ANCESTORS)


def test_arrays_of_all_prompts_are_refused():
    for draw in (genealogy_svg, weights_svg):
        with pytest.raises(DiagnosticError, match=r"not \[T, N\]"):
            draw(np.zeros((3, 2, 4), int))


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DiagnosticError, match=r"bayesft\[plot\]"):
        genealogy_svg(ANCESTORS)


def test_the_page_is_self_contained():
    table = Table("name", "value")
    table.add_row("x < y", "[1, 2]")
    figure = '<svg xmlns="http://www.w3.org/2000/svg"><text>here</text></svg>'
    text = page(
        "A & B",
        [Section("One", "First.\n\nSecond <b>.", figure), ("Two", "", table), Section("Three")],
        "Before all.",
    )
    assert figure in text
    assert "<title>A &amp; B</title>" in text
    assert "<p>Second &lt;b&gt;.</p>" in text
    assert "x &lt; y" in text
    assert "[1, 2]" in text
    assert text.count("<h2>") == 3
    for loading in ("<script", "<link", "<img", "src=", "url(", "@import"):
        assert loading not in text
