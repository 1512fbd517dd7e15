"""A run as one page: what it came to, its curves, certificates, completions and configuration."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayesft.report import curves
from bayesft.report.curves import Curve, Limits, curve_svg, limits_svg
from bayesft.report.numbers import number, percent, signed
from bayesft.report.page import Html, Section, page
from bayesft.report.smoothing import last_tenth
from bayesft.track.config import text
from bayesft.track.run import Run, is_metric

CAPTIONS = {
    "objective": "what is minimised, in nats",
    "reward": "mean over the completions of a step",
    "reward_std": "spread among the completions of a prompt",
    "frac_reward_zero_std": "prompts whose completions all have one reward",
    "kl": "E[log q − log π₀], nats per completion",
    "log_evidence": "E[log φ], nats",
    "ess_share": "effective completions per completion, as draws of p*",
    "entropy": "−log q, nats per token",
    "grad_norm": "of the last update of a step",
    "learning_rate": "",
    "tokens_per_second": "completion tokens",
    "num_tokens": "prompts and completions so far",
    "step_time": "seconds",
    "completions/mean_length": "tokens; the band is from shortest to longest",
    "completions/mean_terminated_length": "tokens, of those that ended",
    "completions/clipped_ratio": "completions cut at the limit",
}
SHARES = {"ess_share", "frac_reward_zero_std", "completions/clipped_ratio"}
IN_BANDS = {
    f"completions/{end}_{which}length" for end in ("min", "max") for which in ("", "terminated_")
}
MAIN = (
    "objective",
    "reward",
    "kl",
    "ess_share",
    "log_evidence",
    "entropy",
    "reward_std",
    "frac_reward_zero_std",
)
SPEED = ("grad_norm", "learning_rate", "tokens_per_second", "step_time", "num_tokens")
RUNNING = {"num_tokens", "learning_rate"}
SUMMARY = ("objective", "reward", "kl", "ess_share", "tokens_per_second")
BOUNDED = {
    "reverse_kl": ("KL(q‖p*)", "from the guide to its target, nats"),
    "forward_kl": ("KL(p*‖q)", "from the target to the guide, nats"),
    "log_z": ("log Z", "of the target, nats"),
}
MAX_CHARACTERS = 700

STYLE = (
    curves.STYLE
    + """
body { max-width: 66rem; }
.grid { display: grid; gap: 1.4rem 1.6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); }
.tiles { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(9.2rem, 1fr)); }
.tile { background: var(--card); padding: 0.8rem 1rem; border-radius: 6px; }
.tile b { display: block; font: 600 1.5rem/1.3 "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
.tile span, table, .step { font: 13px/1.45 "Helvetica Neue", Arial, sans-serif; }
.tile span { color: var(--muted); display: block; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--muted); font-weight: 600;
  border-bottom: 1px solid var(--muted); }
th, td { padding: 0.35rem 1rem 0.35rem 0; vertical-align: top; }
td { border-bottom: 1px solid var(--faint); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
td.prompt { color: var(--muted); }
table.rows { table-layout: fixed; }
th.prompt { width: 11rem; } th.number { width: 5.5rem; overflow-wrap: anywhere; }
td.name { color: var(--muted); white-space: nowrap; width: 14rem; }
.step { font-weight: 600; margin: 1.4rem 0 0.3rem; }
"""
)


def run_page(run: Run) -> str:
    """The page of a run, complete in itself; of one that still goes on, as far as it is.

    What cannot be shown, in a folder that was edited or is another program's, is left out.
    """
    sections = [
        Section("At a glance", "", _tiles(run)),
        *_curves(run),
        *_certificates(run),
        *_completions(run),
        *_configuration(run),
    ]
    shown = page(run.folder.resolve().name, sections, _facts(run), style=STYLE)
    return text(shown)  # JSON may hold lone surrogates


def _facts(run: Run) -> str:
    first, last = (run.metrics[at] for at in (0, -1))
    (_, times), (_, tokens) = run.curve("step_time"), run.curve("num_tokens")
    took = float(times[np.isfinite(times)].sum())
    facts = [f"Steps {first['step']} to {last['step']} in {_duration(took)}"]
    if len(tokens) and np.isfinite(tokens[-1]):
        facts.append(f"{number(tokens[-1])} tokens")
    starts = (name for name in ("started", "resumed") if name in run.environment)
    facts += [f"{name} {run.environment[name]}" for name in starts]
    if "devices" in run.environment:
        facts.append(str(run.environment["devices"]))
    return " · ".join(facts)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1.5:
        return f"{hours:.1f} hours"
    return f"{minutes:.1f} minutes" if minutes >= 1.5 else f"{seconds:.1f} seconds"


# ---- what it came to -----------------------------------------------------------------------------


def _tiles(run: Run) -> Html:
    tiles = []
    for name in SUMMARY:
        _, values = run.curve(name)
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        shown = percent if name in SHARES else number
        start, end = last_tenth(known[::-1]), last_tenth(known)
        tiles.append(_tile(name, shown(end), f"from {shown(start)}"))
    if (limits := _limits(run, "reverse_kl")) is not None:
        lower, upper = limits.lower[-1], limits.upper[-1]
        kind = "certified" if limits.certified[-1] else "not certified"
        value = f"≤ {number(upper)}" if np.isfinite(upper) else "unbounded"
        note = f"≥ {number(lower)}, step {limits.steps[-1]}"
        tiles.append(_tile(f"KL(q‖p*), {kind}", value, note))
    note = "<p>Means over the last tenth of the steps, and over the first.</p>"
    return Html(f'<div class="tiles">{"".join(tiles)}</div>{note}')


def _tile(name: str, value: str, note: str) -> str:
    name, value, note = map(html.escape, (name, value, note))
    return f'<div class="tile"><span>{name}</span><b>{value}</b><span>{note}</span></div>'


# ---- curves --------------------------------------------------------------------------------------


def _curves(run: Run) -> Iterator[Section]:
    names = [
        name
        for name in run.names
        if not name.startswith("certificate/")
        and name not in IN_BANDS
        and not (name.startswith("rewards/") and name.endswith("/std"))
    ]
    rewards = [name for name in names if name.startswith(("rewards/", "log_potentials/"))]
    lengths = [name for name in names if name.startswith("completions/")]
    main = [name for name in MAIN if name in names] + rewards
    speed = [name for name in SPEED if name in names]
    rest = [name for name in names if name not in {*main, *lengths, *speed}]
    prose = (
        "Thin is every step, bold a local average over 3% of the run. The number in the corner is "
        "the mean over the last tenth of the steps; rest on a chart for the value of one."
    )
    titled = (
        ("Objective and target", main, prose),
        ("Lengths", lengths, ""),
        ("Optimisation and speed", speed, ""),
        ("Other metrics", rest, ""),
    )
    for title, group, prose in titled:
        if group:
            charts = "".join(_curve(run, name) for name in group)
            yield Section(title, prose, Html(f'<div class="grid">{charts}</div>'))


def _curve(run: Run, name: str) -> str:
    steps, values = run.curve(name)
    caption, band = CAPTIONS.get(name, ""), None
    if name.startswith("completions/mean_"):
        low, high = (run.curve(name.replace("mean", end)) for end in ("min", "max"))
        if np.array_equal(low[0], steps) and np.array_equal(high[0], steps):
            band = low[1], high[1]
    elif name.startswith("rewards/") and name.endswith("/mean"):
        at, spread = run.curve(name.replace("/mean", "/std"))
        caption = "the band is one standard deviation of completions to either side"
        if np.array_equal(at, steps):
            band = values - spread, values + spread
    elif name.startswith("log_potentials/"):
        caption = "unscaled log φ, nats"
    curve = Curve(name, steps, values, caption, band, name in SHARES, name in RUNNING)
    return curve_svg(curve, run.metrics[-1]["step"])


# ---- certificates --------------------------------------------------------------------------------


def _limits(run: Run, quantity: str) -> Limits | None:
    sides = [f"certificate/{quantity}/{side}" for side in ("lower", "upper")]
    steps = np.union1d(*(run.curve(side)[0] for side in sides))
    if not len(steps):
        return None
    lower, upper, certified = (_at(run, name, steps) for name in (*sides, "certificate/certified"))
    name, caption = BOUNDED[quantity]
    return Limits(name, steps, lower, upper, certified == 1, caption, quantity != "log_z")


def _at(run: Run, name: str, steps: Int[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """The metric at these steps, NaN where it is missing."""
    known = dict(zip(*run.curve(name), strict=True))
    return np.asarray([known.get(step, np.nan) for step in steps], float)


def _certificates(run: Run) -> Iterator[Section]:
    found = [limits for name in BOUNDED if (limits := _limits(run, name)) is not None]
    if not found:
        return
    levels = run.curve("certificate/level")[1]
    known = f" with probability {levels[-1]:.0%}" if np.isfinite(levels[-1:]).any() else ""
    prose = (
        f"Limits that hold{known} at any one step, for means over the prompts of the certificate. "
        "Dashed ones rest on approximate draws of the posterior and are not certified; a whisker "
        "without an end has no limit there."
    )
    charts = "".join(limits_svg(limits, run.metrics[-1]["step"]) for limits in found)
    yield Section("Certificates", prose, Html(f'<div class="grid">{charts}</div>'))


# ---- completions ---------------------------------------------------------------------------------


def _completions(run: Run) -> Iterator[Section]:
    found = [(record["step"], rows) for record in run.completions if (rows := _rows(record))]
    if not found:
        return
    last = len(found) - 1
    shown = [found[at] for at in sorted({0, last // 2, last})]
    prose = (
        "The first ones of their step, as they came. log φ is their evidence and log q/π₀ how much "
        "likelier than under the prior they have become, in nats."
    )
    tables = "".join(f'<div class="step">step {step}</div>{_table(rows)}' for step, rows in shown)
    yield Section("Completions", prose, Html(tables))


def _rows(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The completions of a record that are some."""
    rows = record.get("completions")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _rewards(row: Mapping[str, Any]) -> Mapping[str, Any]:
    rewards = row.get("rewards")
    return rewards if isinstance(rewards, Mapping) else {}


def _score(value: Any) -> str:
    return signed(value if is_metric(value) else None)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    rewards = list(_rewards(rows[0])) if rows else []
    prompts = any(row.get("prompt") for row in rows)
    scored = any(row.get("log_evidence") is not None for row in rows)
    head = [*(['<th class="prompt">prompt</th>'] if prompts else []), "<th>completion</th>"]
    numbers = [*rewards, *(["log φ", "log q/π₀"] if scored else [])]
    head += [f'<th class="number">{html.escape(name)}</th>' for name in numbers]
    lines = [f"<tr>{''.join(head)}</tr>"]
    for row in rows:
        cells = [f'<td class="text prompt">{_cut(row.get("prompt"))}</td>'] if prompts else []
        cells.append(f'<td class="text">{_cut(row.get("text"))}</td>')
        values = [_rewards(row).get(name) for name in rewards]
        values += [row.get("log_evidence"), row.get("log_ratio")] if scored else []
        cells += [f'<td class="number">{_score(value)}</td>' for value in values]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="rows">{"".join(lines)}</table>'


def _cut(text: Any) -> str:
    text = str(text or "").strip()
    cut = text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
    return html.escape(cut)


# ---- configuration -------------------------------------------------------------------------------


def _configuration(run: Run) -> Iterator[Section]:
    facts = {**dict(_flat(run.config)), **dict(_flat(run.environment))}
    if facts:
        rows = "".join(
            f'<tr><td class="name">{html.escape(name)}</td>'
            f'<td class="text">{html.escape(value)}</td></tr>'
            for name, value in facts.items()
        )
        yield Section("Configuration", "", Html(f"<table>{rows}</table>"))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names, without what was left open."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield prefix + name, text
