"""`adapter_config.json` of PEFT: what of it bayesft implements, and a refusal of the rest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from bayesft.errors import ModelError
from bayesft.io.files import read_json

CONFIG = "adapter_config.json"
STEM = "adapter_model"

INERT = re.compile(
    r"peft_type|peft_version|task_type|base_model_name_or_path|revision|inference_mode"
    r"|auto_mapping|lora_dropout|megatron_core|qalora_group_size|init_lora_weights"
    r"|(corda|eva|loftq|megatron|runtime)_config"
)
"""Options that say nothing about the adapted model's logits, or are checked one by one."""

STANDARD_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to start training that leave the base weights as they are, unlike PiSSA, LoftQ, LoRA-GA."""


@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """A plain LoRA adapter: A and B of one rank on the target modules of every layer."""

    rank: int
    alpha: float
    rank_stabilised: bool
    target_modules: str | tuple[str, ...]
    fan_in_fan_out: bool
    base_model: str


def read_peft_config(folder: Path) -> PeftConfig:
    """Reads adapter_config.json; raises ModelError for every option that is not implemented."""
    where = folder / CONFIG
    options = read_json(where)
    if options.get("peft_type") != "LORA":
        raise _unsupported(where, "peft_type", options.get("peft_type"))
    if options.get("init_lora_weights") not in STANDARD_STARTS:
        raise _unsupported(where, "init_lora_weights", options["init_lora_weights"])
    rank, alpha = options.pop("r", None), options.pop("lora_alpha", None)
    targets = options.pop("target_modules", None)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank <= 0:
        raise _unsupported(where, "r", rank)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not isfinite(alpha):
        raise _unsupported(where, "lora_alpha", alpha)
    flags = {name: options.pop(name, None) for name in ("use_rslora", "fan_in_fan_out")}
    for name, value in flags.items():
        if not isinstance(value, bool | None):
            raise _unsupported(where, name, value)
    if not isinstance(targets, str) and not _are_names(targets):
        raise _unsupported(where, "target_modules", targets)
    config = PeftConfig(
        rank=rank,
        alpha=alpha,
        rank_stabilised=bool(flags["use_rslora"]),
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        fan_in_fan_out=bool(flags["fan_in_fan_out"]),
        base_model=str(options.get("base_model_name_or_path") or ""),
    )
    for name, value in options.items():
        off = value is None or value is False or value in ("", "none", [], {})  # 0 is not
        if not off and not INERT.fullmatch(name):
            raise _unsupported(where, name, value)
    return config


def peft_options(config: PeftConfig) -> dict[str, Any]:
    """The options of adapter_config.json that make PEFT build the same adapter."""
    targets = config.target_modules
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": config.base_model,
        "bias": "none",
        "fan_in_fan_out": config.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": config.rank_stabilised,
    }


def factor_names(module: str) -> tuple[str, str]:
    """Names of a module's A [rank, in] and B [out, rank] in adapter_model.safetensors."""
    prefix = f"base_model.model.{module}"
    return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and bool(value) and all(isinstance(name, str) for name in value)
    )


def _unsupported(where: Path, name: str, value: Any) -> ModelError:
    return ModelError(
        f"{where} sets {name} to {value!r}, which bayesft does not implement.",
        cause="the adapter is more than plain LoRA, or the file was edited",
        remedy="merge the adapter into its base model with PEFT, then load that folder",
    )
