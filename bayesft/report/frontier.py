"""The reward–KL frontier of one prompt as a picture."""

from __future__ import annotations

import numpy as np

from bayesft.diagnostics import Frontier
from bayesft.report.figure import ACCENT, CURVE, FAINT, MUTED, drawing


def frontier_svg(
    frontier: Frontier, prompt: int = 0, labels: tuple[float, ...] = (1.0,), title: str = ""
) -> str:
    """SVG of E[log φ] against the KL from the prior: the optimal curve, and points beside it.

    Both in nats, with the frontier's intervals as whiskers; parts of the curve that cannot be
    trusted are dashed. `labels` are exponents λ to be marked. Points without a KL are horizontal
    lines; what lies at -inf is left out and named below.
    """
    with drawing(7.5, 4.6) as found:
        axes = found.axes
        _curve(axes, frontier, prompt, labels)
        left_out = _points(axes, frontier, prompt)
        axes.set_xlabel("KL from the prior (nats)")
        axes.set_ylabel("E[log φ] (nats)")
        axes.margins(0.06)
        if title:
            axes.set_title(title, loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
        if left_out:
            axes.annotate(
                f"not shown, at −∞: {', '.join(left_out)}",
                (0.99, 0.02),
                xycoords="axes fraction",
                ha="right",
                color=MUTED,
            )
    return found.svg


def _curve(axes, frontier: Frontier, prompt: int, labels: tuple[float, ...]) -> None:
    kl, reward = frontier.kl.value[prompt], frontier.reward.value[prompt]
    known = np.isfinite(kl) & np.isfinite(reward)
    trusted = known & frontier.trusted[prompt]
    limits = frontier.reward.interval(frontier.level)
    if known.any() and not trusted[known].all():
        axes.plot(kl[known], reward[known], "--", color=FAINT, label="not to be trusted")
    band = limits.lower[prompt][trusted], limits.upper[prompt][trusted]
    axes.fill_between(kl[trusted], *band, color=CURVE, alpha=0.15, linewidth=0)
    axes.plot(kl[trusted], reward[trusted], color=CURVE, label="optimal: π0·φ^λ")
    for at in np.flatnonzero(trusted & np.isin(frontier.tilts, labels)):
        axes.plot(kl[at], reward[at], "o", color=CURVE, markersize=5)
        axes.annotate(
            f"λ = {frontier.tilts[at]:g}",
            (kl[at], reward[at]),
            xytext=(-6, 6),
            textcoords="offset points",
            ha="right",
            color=CURVE,
        )


def _points(axes, frontier: Frontier, prompt: int) -> list[str]:
    """Draws the points; the names of those at -inf."""
    left_out = []
    markers = iter("sD^vP*Xhp<>d" * (1 + len(frontier.points) // 12))
    best_of = [point for point in frontier.points if point.kl_bound < np.inf]
    others = [point for point in frontier.points if not point.kl_bound < np.inf]
    for point in [*others, *best_of]:
        reward = float(point.reward.value[prompt])
        if not np.isfinite(reward):
            left_out.append(point.name)
            continue
        color = MUTED if point.kl_bound < np.inf else ACCENT
        if point.kl is None:
            axes.axhline(reward, color=color, linestyle=":", label=f"{point.name} (KL unknown)")
            continue
        both = point.kl.interval(frontier.level), point.reward.interval(frontier.level)
        size = [float(each.upper[prompt] - each.lower[prompt]) / 2 for each in both]
        axes.errorbar(
            point.kl.value[prompt],
            reward,
            xerr=size[0],
            yerr=size[1],
            fmt=next(markers),
            color=color,
            markersize=6,
            linewidth=1,
            label=point.name,
        )
    return left_out
