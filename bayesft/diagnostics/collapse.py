"""Collapse: how much variety draws have left, beside the prior and the posterior."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bayesft.base import Key, Prior, sequence_lengths
from bayesft.diagnostics.evaluated import Evaluator
from bayesft.diagnostics.tilting import Estimate
from bayesft.diagnostics.validation import require_belonging
from bayesft.draws import Draws
from bayesft.errors import DiagnosticError
from bayesft.samplers.validation import require_count
from bayesft.target import Target

ORDERS = (1, 2, 3)
"""Lengths n of the n-grams."""


@dataclasses.dataclass(frozen=True)
class Variety:
    """Variety of one distribution per prompt, [P]; entropies in nats."""

    name: str
    entropy: Estimate | None
    """H = −E[log p(y)] of a sequence; None where log p is not known."""
    mean_length: Float[np.ndarray, " P"]
    """In tokens, EOS counted."""
    distinct: Float[np.ndarray, "P 3"]
    """Different n-grams over all n-grams, for n = 1, 2, 3; NaN where there is none."""
    self_overlap: Estimate
    """Mean n-gram overlap of two draws, between 0 and 1."""
    ess: Float[np.ndarray, " P"]
    """Effective draws behind it."""

    @property
    def entropy_per_token(self) -> Float[np.ndarray, " P"] | None:
        """H / E[length]."""
        return None if self.entropy is None else self.entropy.value / self.mean_length


@dataclasses.dataclass(frozen=True)
class Collapse:
    """Varieties of the prior and others, to be compared with one another."""

    rows: Sequence[Variety]
    num_samples: int
    unit: str
    """What n-grams are made of."""
    num_prompts: int
    notes: Sequence[str]

    def __getitem__(self, name: str) -> Variety:
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=100, color_system=None)
        console.print(self)
        return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]

    def __rich__(self) -> RenderableType:
        means = f", means over {self.num_prompts} prompts" if self.num_prompts > 1 else ""
        title = f"{self.num_samples} draws each, n-grams of {self.unit}{means}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        names = ("", "entropy", "per token", "length", *(f"distinct-{n}" for n in ORDERS))
        for name in (*names, "self-overlap", "ESS"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        for row in self.rows:
            entropy = None if row.entropy is None else row.entropy.value
            cells = [entropy, row.entropy_per_token, row.mean_length, *row.distinct.T]
            cells += [row.self_overlap.value]
            shown = ["–" if c is None else _mean_of(c) for c in cells]
            table.add_row(Text(row.name), *shown, f"{row.ess.mean():.0f}")
        return Group(table, *map(Text, self.notes))


def collapse(
    target: Target,
    key: Key,
    *,
    guides: Mapping[str, Prior] | None = None,
    draws: Mapping[str, Draws] | None = None,
    split: Callable[[str], Sequence[Hashable]] | None = None,
    num_samples: int = 256,
) -> Collapse:
    """Entropy, distinct-n and self-overlap of guides and draws, beside the prior's.

    Entropy H = −E[log p(y)] in nats per sequence, and H/E[length] per token: from `num_samples`
    draws of the prior and of each guide; for `draws` that are of the target (proper weights, or
    exact ones) from p* = π0·φ/Z with their own log Z, E weighted; None for others.

    distinct-n is the number of different n-grams over the number of n-grams in `num_samples` draws
    (Li et al. 2016). It falls as there are more draws, so all are given the same number: weighted
    draws are resampled to it, whose repetitions count as such; a note says where they matter.

    Self-overlap is the mean of o(y, y') over pairs of different draws, weighted by w·w',

        o(y, y') = mean over n = 1, 2, 3 of Σ_g min(c_g, c'_g) / ((Σ_g c_g + Σ_g c'_g)/2),

    c_g the count of the n-gram g in y: 1 for equal texts, 0 where nothing is shared; an order that
    neither text is long enough for is left out. From `num_samples` random pairs; like self-BLEU
    (Zhu et al. 2018), but symmetric and free of the number of draws.

    n-grams are of token ids without EOS, or of what `split` makes of a text: `str.split` for words.
    Give exact or weighted draws of the target among `draws` to compare with the posterior.

    Raises DiagnosticError for guides and draws of another target and for a name given twice.
    """
    guides, draws = dict(guides or {}), dict(draws or {})
    names = ["prior", *guides, *draws]
    if len(set(names)) < len(names):
        raise DiagnosticError(
            f"Two of the distributions {names} have the same name.",
            cause='a guide and draws of one name, or the name "prior", which is taken.',
            remedy="give every guide and every set of draws a name of its own.",
        )
    num_samples = require_count("num_samples", num_samples)
    require_belonging(target, guides, draws)
    sampled = {"prior": target.prior, **guides}
    rows = []
    for number, name in enumerate(names):
        own = jax.random.fold_in(key, number)
        if name in sampled:
            found = _sampled(target, sampled[name], own, num_samples)
        else:
            found = _given(draws[name])
        rows.append(_variety(name, target, found, own, num_samples, split))
    return Collapse(
        rows=rows,
        num_samples=num_samples,
        unit="tokens" if split is None else getattr(split, "__name__", "texts as split"),
        num_prompts=len(target.prompts),
        notes=_notes(rows, num_samples),
    )


@dataclasses.dataclass(frozen=True)
class _Weighted:
    tokens: np.ndarray  # [P, N, T]
    lengths: np.ndarray
    weights: np.ndarray  # normalised, 0 in rows without a draw
    log_prob: np.ndarray | None
    equal: bool
    """Draws of equal weight, which are taken as they are."""


def _sampled(target: Target, source: Prior, key: Key, num_samples: int) -> _Weighted:
    evaluator = Evaluator(target, source, source)
    tokens, log_prob = evaluator.generate(source, key, num_samples)
    lengths = np.asarray(sequence_lengths(jax.numpy.asarray(tokens), target.prior.eos))
    weights = np.full(lengths.shape, 1 / num_samples)
    return _Weighted(tokens, lengths, weights, log_prob, equal=True)


def _given(draws: Draws) -> _Weighted:
    log_prob = None
    if draws.claim.kind in ("proper weights", "exact draws") and draws.log_z is not None:
        log_density = np.asarray(draws.log_prior, np.float64) + np.asarray(draws.log_evidence)
        log_z = np.asarray(draws.log_z)[:, None]
        log_prob = log_density - np.where(np.isfinite(log_z), log_z, 0.0)
    weights = np.asarray(draws.weights, np.float64)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-30)
    equal = bool((np.asarray(draws.log_weights) == 0).all())
    return _Weighted(np.asarray(draws.tokens), np.asarray(draws.lengths), weights, log_prob, equal)


def _variety(
    name: str,
    target: Target,
    found: _Weighted,
    key: Key,
    num_samples: int,
    split: Callable[[str], Sequence[Hashable]] | None,
) -> Variety:
    distinct, overlap = [], []
    ids = np.asarray(target.xs.id)
    for row in range(len(target.prompts)):
        seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, int(ids[row]))))
        random = np.random.default_rng(seed.tolist())
        units = _Units(target, found, row, split)
        distinct.append(_distinct(units, found, row, random, num_samples))
        overlap.append(_self_overlap(units, found.weights[row], random, num_samples))
    weights, alive = found.weights, found.weights.any(1)
    entropy = None
    if found.log_prob is not None:
        surprise = np.where(weights > 0, -found.log_prob, 0.0)
        mean = (weights * surprise).sum(1)
        # −E_w[log γ] + log Ẑ: the weights' own error is in both parts; equal ones have none.
        influence = weights * (surprise - mean[:, None]) + (weights - 1 / weights.shape[1])
        spread = np.sqrt(np.square(influence).sum(1))
        entropy = Estimate(np.where(alive, mean, np.nan), spread)
    overlaps = np.asarray(overlap)
    return Variety(
        name=name,
        entropy=entropy,
        mean_length=np.where(alive, (weights * found.lengths).sum(1), np.nan),
        distinct=np.asarray(distinct),
        self_overlap=Estimate(overlaps[:, 0], overlaps[:, 1]),
        ess=np.where(alive, 1 / np.maximum((weights**2).sum(1), 1e-30), 0.0),
    )


class _Units:
    """The n-grams of the draws of one prompt, counted when they are asked for."""

    def __init__(self, target: Target, found: _Weighted, row: int, split):
        self._target, self._found, self._row, self._split = target, found, row, split
        self._known: dict[int, list[Counter]] = {}

    def __getitem__(self, draw: int) -> list[Counter]:
        if draw not in self._known:
            length = int(self._found.lengths[self._row, draw])
            ids = self._found.tokens[self._row, draw, :length]
            ended = length > 0 and int(ids[-1]) in self._target.prior.eos
            ids = ids[: length - ended].tolist()
            units = ids if self._split is None else self._split(self._target.prior.decode(ids))
            self._known[draw] = [_ngrams(list(units), n) for n in ORDERS]
        return self._known[draw]


def _ngrams(units: list, n: int) -> Counter:
    return Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))


def _distinct(
    units: _Units, found: _Weighted, row: int, random: np.random.Generator, size: int
) -> list[float]:
    weights = found.weights[row]
    if not weights.any():
        return [np.nan] * len(ORDERS)
    if found.equal and weights.size >= size:
        # Spread over all: draws of Markov chains stand chain by chain.
        chosen = np.arange(size) * weights.size // size
    else:
        chosen = random.choice(weights.size, size, p=weights)
    result = []
    for order in range(len(ORDERS)):
        total: Counter = Counter()
        for draw in chosen:
            total.update(units[int(draw)][order])
        result.append(len(total) / total.total() if total else np.nan)
    return result


def _self_overlap(
    units: _Units, weights: Float[np.ndarray, " N"], random: np.random.Generator, size: int
) -> tuple[float, float]:
    """Mean over random pairs i ≠ j with probability in proportion to w_i·w_j, and its error."""
    if (weights > 0).sum() < 2:
        return np.nan, np.nan
    # i in proportion to w_i·(1 − w_i), then j among the others: redrawing equal pairs instead would
    # never end where one draw holds nearly all of the weight.
    others = np.array([weights[:i].sum() + weights[i + 1 :].sum() for i in range(weights.size)])
    first = weights * others
    pairs = []
    for i in random.choice(weights.size, size, p=first / first.sum()):
        rest = np.where(np.arange(weights.size) == i, 0.0, weights) / others[i]
        pairs.append((i, random.choice(weights.size, p=rest / rest.sum())))
    values = [overlap(units[int(i)], units[int(j)]) for i, j in pairs]
    # Pairs share draws: the error is that of at most half as many draws as are effective.
    effective = min(size, 0.5 / np.square(weights).sum())
    return float(np.mean(values)), float(np.std(values) / np.sqrt(effective))


def overlap(one: Sequence[Counter], other: Sequence[Counter]) -> float:
    """o(y, y') of `collapse`, from the n-grams of two texts by order; 1 for two empty ones."""
    shares = []
    for a, b in zip(one, other, strict=True):
        if total := a.total() + b.total():
            shares.append(2 * (a & b).total() / total)
    return float(np.mean(shares)) if shares else 1.0


def _notes(rows: Sequence[Variety], num_samples: int) -> list[str]:
    notes = [
        f"{row.name}: {row.ess.min():.0f} effective draws stand for {num_samples}, so that "
        "distinct-n counts repetitions"
        for row in rows
        if row.ess.min() < num_samples
    ]
    if any(row.entropy is None for row in rows):
        notes.append("–: the claim of these draws does not say what their log-probs are")
    return notes


def _mean_of(values: Float[np.ndarray, " P"]) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.3f}".replace("-", "−") if known.size else "–"
