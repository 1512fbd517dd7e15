"""Numbers as a page shows them: short, with a true minus sign."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def percent(value: float) -> str:
    """A share with one decimal."""
    return f"{value:.1%}" if math.isfinite(value) else "–"


def signed(value: float | None) -> str:
    """Two decimals with a sign, where it is not 0; a dash for what is not known."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def number(value: float) -> str:
    """Three significant digits, or whole below 10k; k, M and G for what is larger."""
    if not math.isfinite(value):
        return "–"
    size = abs(float(f"{value:.3g}"))  # 999.9 reads 1000, and 999,900 1M
    text = f"{value:.0f}" if 1e3 <= size < 1e4 else f"{value:.3g}"
    for unit, suffix, least in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e3, "k", 1e4)):
        if least <= size < 1e12:
            text = f"{value / unit:.3g}{suffix}"
            break
    return text.replace("-", "−")


def between(lower: float, upper: float) -> str:
    """Limits in words."""
    if not np.isfinite(upper):
        return f"≥ {number(lower)}" if np.isfinite(lower) else "unknown"
    return f"{number(lower)} to {number(upper)}" if np.isfinite(lower) else f"≤ {number(upper)}"


def ticks(low: float, high: float, num: int = 4) -> Float[np.ndarray, " K"]:
    """Round numbers between two ends, about `num` of them."""
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return step * np.arange(first, math.floor(high / step + 1e-9) + 1)


def tick(value: float, span: float) -> str:
    """A tick with as many decimals as its neighbours need to differ."""
    if abs(value) >= 1e4 or span >= 1e4:
        return number(value)
    decimals = max(0, 1 - math.floor(math.log10(span)))
    text = f"{value:.{decimals}f}" if decimals <= 5 else f"{value:.1e}"
    if decimals <= 5 and "." in text:
        text = text.rstrip("0").rstrip(".") or "0"
    return "0" if float(text) == 0 else text.replace("-", "−")
