"""The page of a run shows what its folder holds, alone and whatever is missing."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from bayesft.errors import RunError
from bayesft.report.curves import NUM_POINTS, Curve, Limits, curve_svg, limits_svg
from bayesft.report.numbers import between, number, signed, ticks
from bayesft.report.run import run_page
from bayesft.report.smoothing import smoothed
from bayesft.track.run import read_run

STEPS = np.arange(100)


def texts(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(each.itertext()).strip() for each in root.iter() if each.tag.endswith("text")]


def path(svg, style):
    """The points of the path of a style."""
    found = re.search(rf'<path class="{style}" d="M([^"]*)"', svg)
    return [tuple(map(float, point.split(","))) for point in re.split("[ML]", found.group(1))]


def written(folder, metrics, completions=(), config=None):
    folder.mkdir(exist_ok=True)
    for name, records in (("metrics", metrics), ("completions", completions)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    if config:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return run_page(read_run(folder))


def charts(page):
    return re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)


# ---- curves --------------------------------------------------------------------------------------


def test_a_curve_stands_where_its_values_are():
    values = np.linspace(2.0, 4.0, 5)
    svg = curve_svg(Curve("kl", np.arange(5), values, "nats"), last_step=4)
    points = path(svg, "smooth")
    x, y = np.array(points).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.11)
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], atol=0.11)
    assert np.diff(y)[0] < 0, "a larger value stands higher"
    assert {"kl", "nats", "4", "0"} <= set(texts(svg))
    mean, last = (
        texts(curve_svg(Curve("n", STEPS, STEPS / 10, running=running), last_step=99))[1]
        for running in (False, True)
    )
    assert (mean, last) == (number(9.45), "9.9")
    assert svg.count("<title>step") == 5 and "<title>step 2: 3</title>" in svg
    # The axis ends at the last step of the run, not of the curve.
    assert path(curve_svg(Curve("kl", np.arange(5), values), last_step=8), "smooth")[-1][0] < x[-1]


def test_what_is_missing_interrupts_a_curve_and_breaks_nothing():
    values = np.array([1.0, 2.0, np.nan, 3.0, 4.0])
    svg = curve_svg(Curve("kl", np.arange(5), values), last_step=4)
    assert re.search(r'class="smooth" d="M[^M]*M[^M]*"', svg)
    assert "step 2: –" in svg
    for values in (np.full(5, np.nan), np.full(5, 2.0), np.zeros(5)):
        ElementTree.fromstring(curve_svg(Curve("<x>", np.arange(5), values), last_step=4))
    ElementTree.fromstring(curve_svg(Curve("x", np.arange(1), np.ones(1)), last_step=0))
    ElementTree.fromstring(curve_svg(Curve("x", STEPS, np.full(100, np.nan)), last_step=99))


def test_a_value_far_away_does_not_flatten_the_rest():
    values = np.sin(STEPS / 10)
    calm = path(curve_svg(Curve("x", STEPS, values), 99), "smooth")
    values[50] = 1e6
    svg = curve_svg(Curve("x", STEPS, values, "here"), 99)
    spiky = path(svg, "smooth")
    assert any("here · 1 of 100 beyond the axis" in text for text in texts(svg))
    assert np.ptp([y for _, y in spiky]) > 0.5 * np.ptp([y for _, y in calm])


def test_the_average_follows_a_line_to_its_ends_and_calms_noise():
    line = 3.0 - 0.02 * STEPS
    np.testing.assert_allclose(smoothed(STEPS, line), line, atol=1e-9)
    noise = np.random.default_rng(0).normal(size=100)
    assert smoothed(STEPS, line + noise).std() < (line + noise).std() / 1.2
    gaps = np.where(STEPS % 3 == 0, np.nan, line)
    np.testing.assert_allclose(smoothed(STEPS, gaps)[1:-1], line[1:-1], atol=1e-6)
    many = np.arange(50_000)
    np.testing.assert_allclose(smoothed(many, many * 1e-3), many * 1e-3, atol=0.05)
    spikes = np.where(STEPS % 20 == 10, 1.0, 0.0)
    calm = smoothed(STEPS, spikes)
    assert calm.min() >= 0 and calm.max() < 0.5
    # Planted bug: an average that lags, as an exponential one does.
    lagging = np.convolve(np.pad(line, (9, 0), "edge"), np.ones(10) / 10, "valid")
    assert not np.allclose(lagging, line, atol=1e-2)


def test_a_long_run_makes_no_long_page():
    many = np.arange(100_000)
    noise = np.random.default_rng(0).normal(size=100_000)
    svg = curve_svg(Curve("x", many, noise), 99_999)
    assert len(svg) < 60_000
    assert len(path(svg, "raw")) <= 2 * NUM_POINTS


def test_limits_have_a_whisker_each_and_none_where_there_is_no_limit():
    limits = Limits(
        "KL",
        np.array([0, 5]),
        np.array([1.0, 0.5]),
        np.array([np.nan, 0.9]),
        np.array([False, True]),
    )
    svg = limits_svg(limits, last_step=9)
    found = re.findall(r'class="(limits[^"]*)" d="([^"]*)"', svg)
    assert [style for style, _ in found] == ["limits open", "limits"]
    assert [drawn.count("h7") for _, drawn in found] == [1, 2]
    assert "step 0: ≥ 1, not certified" in svg and "step 5: 0.5 to 0.9" in svg
    assert "0.5 to 0.9" in texts(svg) and "0" not in texts(svg)[3:6]
    assert "0" in texts(limits_svg(dataclasses.replace(limits, from_zero=True), 9))[2:6]
    assert between(np.nan, np.nan) == "unknown" and between(np.nan, 2.0) == "≤ 2"


def test_numbers_are_short_and_ticks_are_round():
    shown = [number(v) for v in (0.123456, -1234.5, 123456.0, 2.5e6, 1e9, np.nan, 0.0)]
    edges = [number(v) for v in (999.4, 999.6, 9996.0, 999_400, 999_600, -999.6e6, 2e12)]
    assert edges == ["999", "1000", "10k", "999k", "1M", "−1G", "2e+12"]
    assert [signed(v) for v in (-0.001, 1.5, -2.0, np.nan)] == ["0.00", "+1.50", "−2.00", "–"]
    assert shown == ["0.123", "−1234", "123k", "2.5M", "1G", "–", "0"]
    for low, high in ((0, 1), (-3.2, 17), (1e-5, 3e-5), (0, 99), (1e6, 3e6)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 7
        assert low - 1e-9 <= found[0] and found[-1] <= high + 1e-9 * high


# ---- the page ------------------------------------------------------------------------------------


METRICS = [
    {
        "step": step,
        "objective": -float(step),
        "reward": 0.1 * step,
        "rewards/<b>/mean": 0.1 * step,
        "rewards/<b>/std": 0.2,
        "kl": None if step == 3 else 0.5,
        "completions/mean_length": 5.0,
        "completions/min_length": 2.0,
        "completions/max_length": 8.0,
        "completions/clipped_ratio": 0.25,
        "num_tokens": 100.0 * (step + 1),
        "step_time": 0.5,
        "mine": 7.0,
    }
    for step in range(20)
]
BOUNDS = {
    f"certificate/{name}/{side}": value
    for name in ("log_z", "reverse_kl", "forward_kl")
    for side, value in (("lower", 0.25), ("upper", 0.75))
}


def rows(step):
    row = {"prompt": "Once", "text": f"<i>{step}</i>\n&", "rewards": {"<b>": 1.0}}
    return {"step": step, "completions": [{**row, "log_evidence": 5.0, "log_ratio": None}]}


def test_the_page_shows_all_that_the_folder_holds(tmp_path):
    metrics = [dict(record) for record in METRICS]
    metrics[-1] |= BOUNDS | {"certificate/level": 0.9, "certificate/certified": 1.0}
    config = {"config": {"target": {"beta": 0.2}, "stop": None}, "environment": {"jax": "9"}}
    page = written(tmp_path / "my <run>", metrics, [rows(s) for s in (0, 5, 10, 15, 19)], config)
    names = {texts(svg)[0] for svg in charts(page)}
    assert names == {
        *("objective", "reward", "rewards/<b>/mean", "kl", "completions/mean_length", "mine"),
        *("completions/clipped_ratio", "num_tokens", "step_time"),
        *("KL(q‖p*)", "KL(p*‖q)", "log Z"),
    }
    assert "<h1>my &lt;run&gt;</h1>" in page and "Steps 0 to 19 in 10.0 seconds" in page
    assert [int(n) for n in re.findall(r'class="step">step (\d+)<', page)] == [0, 10, 19]
    assert "&lt;i&gt;10&lt;/i&gt;\n&amp;" in page and "<i>" not in page
    assert "+5.00" in page and "–" in page
    assert "target.beta" in page and ">0.2<" in page and ">jax<" in page
    assert "0.25 to 0.75" in page and ">≤ 0.75<" in page and ">≥ 0.25, step 19<" in page
    assert ">KL(q‖p*), certified<" in page and "stop" not in page
    assert "probability 90%" in page
    assert page.count('class="band"') == 2
    for loading in ("<script", "<link", "<img", "src=", "url(", "@import"):
        assert loading not in page


def test_one_step_without_anything_else_is_a_page_too(tmp_path):
    page = written(tmp_path / "run", [{"step": 0, "objective": None}])
    assert len(charts(page)) == 1
    for title in ("Certificates", "Completions", "Configuration"):
        assert f"<h2>{title}</h2>" not in page


def test_the_page_of_a_resumed_run_has_its_last_lines(tmp_path):
    again = [{**record, "objective": 100.0} for record in METRICS[10:]]
    page = written(tmp_path / "run", [*METRICS, *again])
    assert "step 19: 100<" in page and "step 9: −9<" in page and "step 19: −19<" not in page


@pytest.mark.parametrize("name", ["reward", "kl"])
def test_every_value_can_be_read_off(tmp_path, name):
    page = written(tmp_path / "run", METRICS)
    (svg,) = (svg for svg in charts(page) if texts(svg)[0] == name)
    for record in METRICS:
        shown = "–" if record[name] is None else number(record[name])
        assert f"<title>step {record['step']}: {shown}</title>" in svg


# ---- folders that were edited --------------------------------------------------------------------


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    records = [
        {
            "step": 0,
            "loss": 1.5,
            "phase": "train",
            "step_time": "long",
            "num_tokens": {},
            "a": 1e308,
        },
        {"step": 1, "loss": {"a": 1}, "phase": [2], "huge": 10**400, "\ud83d": 1.0, "a": -1e308},
    ]
    config = {"config": [1], "environment": "\ud83d"}
    page = written(tmp_path / "run", records, config=config)
    assert [texts(svg)[0] for svg in charts(page)] == ["loss", "a", "\\ud83d"]
    assert "step 0: 1.5<" in page and ">[1]<" in page
    page.encode()


def test_completions_that_are_none_are_left_out(tmp_path):
    good = {"text": "here", "rewards": {"r": "high", "s": 10**400}, "log_evidence": float("nan")}
    records = [
        {"step": 0, "text": "x"},
        {"step": 1, "completions": 3},
        {"step": 2, "completions": ["x", {"text": 5, "rewards": [1]}, good]},
    ]
    page = written(tmp_path / "run", [{"step": 0, "loss": 1.0}], records)
    assert [int(n) for n in re.findall(r'class="step">step (\d+)<', page)] == [2]
    assert "here" in page
    nothing = written(tmp_path / "run", [{"step": 0, "loss": 1.0}], records[:2])
    assert "<h2>Completions" not in nothing


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_a_limit_without_the_other_is_drawn(tmp_path, side):
    page = written(tmp_path / "run", [{"step": 3, f"certificate/log_z/{side}": 1.5}])
    assert f"step 3: {'≥' if side == 'lower' else '≤'} 1.5, not certified" in page
    assert "Limits that hold at any one step" in page


@pytest.mark.parametrize("step", ["true", "1e3", str(10**30)])
def test_a_step_that_is_no_whole_number_is_named(tmp_path, step):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": {step}, "a": 1}}\n', encoding="utf-8")
    with pytest.raises(RunError, match="Line 1"):
        read_run(tmp_path)
