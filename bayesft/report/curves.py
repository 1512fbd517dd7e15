"""Curves over the steps of a run as SVG that a page colours: no library, no script."""

from __future__ import annotations

import dataclasses
import html

import numpy as np
from jaxtyping import Bool, Float, Int

from bayesft.report.numbers import between, number, percent, tick, ticks
from bayesft.report.smoothing import last_tenth, smoothed

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 46, 30
NUM_POINTS = 600
"""A curve of more steps is drawn as the range of each of so many bins."""
NUM_HOVERS = 100
MAX_NAME = 48
FEW = 12
"""So few values are joined as they are."""
LARGEST = 1e100
"""Axes end here: averages square what stands on them."""

STYLE = """
.chart { width: 100%; height: auto; display: block;
  font-family: "Helvetica Neue", Arial, sans-serif; }
.chart text { fill: var(--ink); font-size: 11px; }
.chart .name { font-size: 13px; font-weight: 600; }
.chart .muted { fill: var(--muted); }
.chart .grid { stroke: var(--faint); stroke-width: 1; }
.chart .axis { stroke: var(--muted); stroke-width: 1; }
.chart .raw { fill: none; stroke: var(--curve); stroke-width: 1; opacity: 0.35; }
.chart .smooth { fill: none; stroke: var(--curve); stroke-width: 2; stroke-linejoin: round; }
.chart .band { fill: var(--curve); opacity: 0.12; }
.chart .limits { stroke: var(--accent); stroke-width: 1.8; fill: none; }
.chart .open { stroke-dasharray: 3 2; }
.chart .between { fill: var(--accent); opacity: 0.14; }
.chart .hover { fill: transparent; }
.chart .hover:hover { fill: var(--ink); opacity: 0.10; }
"""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values of a metric at steps, NaN where there is none; `band` are limits around them.

    A `share` is shown in percent from 0 to 100. In the corner stands the mean over the last tenth,
    or of a `running` quantity the last value.
    """

    name: str
    steps: Int[np.ndarray, " S"]
    values: Float[np.ndarray, " S"]
    caption: str = ""
    band: tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]] | None = None
    share: bool = False
    running: bool = False


@dataclasses.dataclass(frozen=True)
class Limits:
    """Lower and upper limits of a quantity at steps; NaN where there is no limit on that side.

    Those that are not `certified` are dashed. With `from_zero` the axis starts there.
    """

    name: str
    steps: Int[np.ndarray, " S"]
    lower: Float[np.ndarray, " S"]
    upper: Float[np.ndarray, " S"]
    certified: Bool[np.ndarray, " S"]
    caption: str = ""
    from_zero: bool = False


def curve_svg(curve: Curve, last_step: int) -> str:
    """A curve: every step thin, smoothed bold, on axes that end at the last step of the run.

    Single values far from the rest stand at the end of the axis and are left out of the average.
    """
    steps, values = np.asarray(curve.steps), np.asarray(curve.values, float)
    ends = (0.0, 1.0) if curve.share else _range([values, *(curve.band or ())])
    frame = _Frame(last_step, ends, curve.share)
    beyond = (values < ends[0]) | (values > ends[1])
    parts = [] if curve.band is None else [_area(frame, steps, *curve.band, "band")]
    smooth = values
    if len(steps) > FEW:
        parts.append(_path(frame, *_thinned(steps, values), "raw"))
        smooth = smoothed(steps, np.where(beyond, np.nan, values))
    at = _spread(len(steps), NUM_POINTS)
    parts.append(_path(frame, steps[at], smooth[at], "smooth"))
    if len(steps) == 1 and np.isfinite(values).all():
        parts.append(_dot(frame, steps[0], values[0]))
    finite = values[np.isfinite(values)]
    now = frame.number(finite[-1] if curve.running else last_tenth(finite)) if len(finite) else "–"
    notes = [curve.caption, f"{beyond.sum()} of {len(values)} beyond the axis" * bool(beyond.any())]
    hovers = _hovers(frame, steps, [frame.number(value) for value in values])
    return _chart(frame, curve.name, " · ".join(filter(None, notes)), now, parts, hovers)


def limits_svg(limits: Limits, last_step: int) -> str:
    """Limits as whiskers at their steps; one without a limit on a side runs off the chart there."""
    zero = [np.zeros(1)] if limits.from_zero else []
    frame = _Frame(last_step, _range([limits.lower, limits.upper, *zero]), False)
    low, high = frame.ends
    lower = np.where(np.isfinite(limits.lower), limits.lower, low)
    upper = np.where(np.isfinite(limits.upper), limits.upper, high)
    parts, texts = [], []
    if len(limits.steps) > 1:
        parts.append(_area(frame, limits.steps, lower, upper, "between"))
    each = zip(
        limits.steps, lower, upper, limits.lower, limits.upper, limits.certified, strict=True
    )
    for step, bottom, top, given_bottom, given_top, certified in each:
        x, y0, y1 = frame.x(step), frame.y(bottom), frame.y(top)
        caps = "".join(
            f"M{x - 3.5:.1f},{y:.1f}h7"
            for y, given in ((y0, given_bottom), (y1, given_top))
            if np.isfinite(given)
        )
        style = "limits" if certified else "limits open"
        parts.append(f'<path class="{style}" d="M{x:.1f},{y0:.1f}V{y1:.1f}{caps}"/>')
        texts.append(between(given_bottom, given_top) + ("" if certified else ", not certified"))
    now = texts[-1] if texts else ""
    hovers = _hovers(frame, limits.steps, texts)
    return _chart(frame, limits.name, limits.caption, now, parts, hovers)


class _Frame:
    """Where steps and values stand in a chart."""

    def __init__(self, last_step: int, ends: tuple[float, float], share: bool):
        self.last_step, self.ends, self.share = max(last_step, 1), ends, share

    def x(self, step):
        return LEFT + (WIDTH - LEFT - RIGHT) * np.asarray(step, float) / self.last_step

    def y(self, value):
        low, high = self.ends
        share = (np.asarray(value, float) - low) / (high - low)
        # What is beyond the axis stands at its end.
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - np.clip(share, 0.0, 1.0))

    def number(self, value: float) -> str:
        return percent(value) if self.share else number(float(value))


def _range(seen: list[np.ndarray]) -> tuple[float, float]:
    """Ends of an axis that show the bulk: where there are many values, not the odd one far away."""
    ends = []
    for values in seen:
        known = np.clip(values[np.isfinite(values)], -LARGEST, LARGEST)
        if not len(known):
            continue
        low, high = float(known.min()), float(known.max())
        if len(known) >= 50:
            first = float(np.quantile(known, 0.01, method="higher"))
            last = float(np.quantile(known, 0.99, method="lower"))
            reach = 0.5 * (last - first)
            low, high = max(low, first - reach), min(high, last + reach)
        ends += [low, high]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    # An axis that nearly starts at 0 does.
    return (0.0 if 0 <= low < 0.25 * high else low - room), high + room


def _spread(size: int, most: int) -> Int[np.ndarray, " K"]:
    """At most so many indices below `size`, evenly spread."""
    return np.unique(np.linspace(0, max(size - 1, 0), min(size, most)).astype(int))


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most the smallest and largest value of every bin, in order."""
    if len(steps) <= 2 * NUM_POINTS:
        return steps, values
    keep: set[int] = set()
    for part in np.array_split(np.arange(len(steps)), NUM_POINTS):
        known = part[np.isfinite(values[part])]
        if len(known):
            keep |= {int(known[np.argmin(values[known])]), int(known[np.argmax(values[known])])}
        else:
            keep.add(int(part[0]))
    index = np.asarray(sorted(keep), int)
    return steps[index], values[index]


def _path(frame: _Frame, steps: np.ndarray, values: np.ndarray, style: str) -> str:
    """A line that is interrupted where there is no value."""
    if not np.isfinite(values).any():
        return ""
    moves, pen = [], "M"
    for x, y in zip(frame.x(steps), frame.y(values), strict=True):
        if np.isfinite(y):
            moves.append(f"{pen}{x:.1f},{y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return f'<path class="{style}" d="{"".join(moves)}"/>'


def _area(frame: _Frame, steps, lower, upper, style: str) -> str:
    known = np.isfinite(lower) & np.isfinite(upper)
    if known.sum() < 2:
        return ""
    pick = _spread(int(known.sum()), NUM_POINTS)
    x, low, high = (a[known][pick] for a in (frame.x(steps), frame.y(lower), frame.y(upper)))
    ahead = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, high, strict=True))
    back = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::-1], low[::-1], strict=True))
    return f'<path class="{style}" d="M{ahead}L{back}Z"/>'


def _dot(frame: _Frame, step: float, value: float) -> str:
    return f'<path class="smooth" d="M{frame.x(step) - 2:.1f},{frame.y(value):.1f}h4"/>'


def _hovers(frame: _Frame, steps: np.ndarray, texts: list[str]) -> list[str]:
    """Columns that show their step's value when the pointer rests on them."""
    if not len(steps):
        return []
    pick = _spread(len(steps), NUM_HOVERS)
    x = np.asarray(frame.x(np.asarray(steps)[pick]))
    edges = np.concatenate([[LEFT], (x[1:] + x[:-1]) / 2, [WIDTH - RIGHT]])
    return [
        f'<rect class="hover" x="{a:.1f}" y="{TOP}" width="{max(b - a, 0.1):.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"><title>step {steps[i]}: {texts[i]}</title></rect>'
        for i, a, b in zip(pick, edges[:-1], edges[1:], strict=True)
    ]


def _chart(
    frame: _Frame, name: str, caption: str, now: str, parts: list[str], hovers: list[str]
) -> str:
    low, high = frame.ends
    short = name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
    grid, labels = [], []
    for value in ticks(low, high):
        y = float(frame.y(value))
        text = f"{value:.0%}" if frame.share else tick(value, high - low)
        grid.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}"/>')
        labels.append(
            f'<text class="muted" x="{LEFT - 7}" y="{y + 3.8:.1f}" text-anchor="end">{text}</text>'
        )
    bottom = HEIGHT - BOTTOM
    at = _step_ticks(frame.last_step)
    if at[-1] < 0.93 * frame.last_step:
        right = f'x="{WIDTH - RIGHT}" y="{bottom + 16}" text-anchor="end"'
        labels.append(f'<text class="muted" {right}>step</text>')
    for step in at:
        x = float(frame.x(step))
        labels.append(
            f'<path class="axis" d="M{x:.1f},{bottom}v4"/>'
            f'<text class="muted" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step}</text>'
        )
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{html.escape(name, quote=True)} over steps">'
        f'<text class="name" x="0" y="16">{html.escape(short)}</text>'
        f'<text class="name" x="{WIDTH - RIGHT}" y="16" text-anchor="end">{html.escape(now)}</text>'
        f'<text class="muted" x="0" y="32">{html.escape(caption)}</text>'
        f"{''.join(grid)}{''.join(parts)}"
        f'<path class="axis" d="M{LEFT},{bottom}H{WIDTH - RIGHT}"/>{"".join(labels)}'
        f"{''.join(hovers)}</svg>"
    )


def _step_ticks(last_step: int) -> list[int]:
    return [int(step) for step in ticks(0, last_step, 6) if float(step).is_integer()]
