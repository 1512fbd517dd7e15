"""Low-rank adapters as guides: `params` are the factors alone, the base weights are shared."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bayesft.base import Guide, Key, PyTree, checked_count, require_key
from bayesft.errors import GuideError
from bayesft.lm.adapters import places, save_adapter
from bayesft.lm.card import Card
from bayesft.lm.decoder import PRODUCTS, Decoder, RematPolicy, require_policy, structure
from bayesft.lm.language_model import DecoderPrior, LanguageModel
from bayesft.lm.linear import Adapter, full
from bayesft.lm.targets import resolve


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "weights"],
    meta_fields=["card", "adapter", "remat"],
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LoraGuide(DecoderPrior, Guide):
    """A language model with low-rank factors beside its frozen weights."""

    params: PyTree
    """The factors A and B of every adapted module, in float32 whatever the model computes in."""
    weights: PyTree
    """The base model's arrays, by reference."""
    card: Card
    adapter: Adapter
    remat: RematPolicy | None = PRODUCTS

    def decoder(self) -> Decoder:
        graph, _, _ = structure(self.card.architecture, self.adapter, self.remat)
        return nnx.merge(graph, self.params, self.weights)

    def with_params(self, params: PyTree) -> LoraGuide:
        return dataclasses.replace(self, params=params)

    def with_remat(self, policy: RematPolicy | None) -> LoraGuide:
        """The same guide, storing for the backward pass what a policy says: see `FullGuide`."""
        return dataclasses.replace(self, remat=require_policy(policy))

    def merge(self) -> LanguageModel:
        """The language model whose weights are W + scale · A B."""
        return LanguageModel(_merge(self), self.card)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a PEFT adapter folder; raises ModelError where it would replace other files."""
        save_adapter(path, self.params, self.card, self.adapter)

    def __repr__(self) -> str:
        return f"LoraGuide({self.card.name!r}, rank={self.adapter.rank})"


def lora(
    lm: LanguageModel,
    *,
    rank: int = 8,
    key: Key,
    alpha: float | None = None,
    target_modules: Sequence[str] | str = "all-linear",
) -> LoraGuide:
    """A guide W + (alpha / rank) · A B that starts equal to the language model (B = 0).

    `target_modules` are names as the checkpoint spells them ("q_proj", "mlp.c_proj"), by default
    every linear map of attention and MLP; alpha is 2 · rank by default. A starts uniform on
    ±1/√in, as in PEFT. Raises GuideError for a rank that is no positive integer, an alpha that is
    no finite number, and a module that does not exist or of some layers only.
    """
    if not isinstance(lm, LanguageModel):
        raise GuideError(
            f"lora adapts a language model, not a {type(lm).__name__}.",
            remedy="give what bft.lm.load returns; merge() or language_model() make one of a guide",
        )
    require_key(key, GuideError)
    rank = checked_count("rank", rank, GuideError)
    alpha = 2.0 * rank if alpha is None else alpha
    number = not isinstance(alpha, str | bool) and np.ndim(alpha) == 0
    if not number or not math.isfinite(alpha):
        raise GuideError(
            f"alpha is {alpha!r}.",
            cause="a text, an array, or a quotient by 0.",
            remedy="give a finite number, or leave it out",
        )
    architecture = lm.card.architecture
    named = target_modules if isinstance(target_modules, Iterable) else [target_modules]
    targets = named if isinstance(named, str) else tuple(named)
    slots, unknown, partial = resolve(targets, architecture)
    if partial:
        raise GuideError(
            f"{partial[0]!r} names modules of some layers of {lm.name} only.",
            cause="the number of a layer in a name or a pattern.",
            remedy=f"choose modules of every layer from: {', '.join(architecture.modules)}",
        )
    if unknown or not slots:
        absent = repr(unknown[0]) if unknown else "of the names given"
        raise GuideError(
            f"{lm.name} has no module {absent} to adapt.",
            remedy=f"choose from: {', '.join(architecture.modules)}",
        )
    adapter = Adapter(rank, float(alpha), False, slots)
    _, _, shapes = structure(architecture, adapter)
    paths, tree = jax.tree.flatten_with_path(shapes)
    keys = jax.random.split(key, len(paths))
    factors = [
        _uniform(leaf_key, shape.shape)
        if path[-1].key == "a"
        else jnp.zeros(shape.shape, shape.dtype)
        for leaf_key, (path, shape) in zip(keys, paths, strict=True)
    ]
    return LoraGuide(jax.tree.unflatten(tree, factors), lm.weights, lm.card, adapter)


def _uniform(key: Key, shape: tuple[int, ...]) -> jax.Array:
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


@jax.jit
def _merge(guide: LoraGuide) -> PyTree:
    """Weights with the factors added into the kernels."""
    weights = jax.tree.map(lambda array: array, guide.weights)
    for place in places(guide.card.architecture, guide.adapter):
        linear = place.linear_of(weights)
        factors = place.factors_of(guide.params)
        update = guide.adapter.scale * (factors["a"] @ factors["b"])
        kernel = full(linear["kernel"])
        linear["kernel"] = kernel.at[:, place.slot.columns].add(update.astype(kernel.dtype))
    return weights
