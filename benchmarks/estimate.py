"""What a guide costs on many accelerators: bytes, flops and collectives, on paper.

`estimate.py` prints the tables of docs/many_devices.md, `estimate.py check` compares the formulas
with what XLA says of compiled programs of a small model, on 4 virtual CPU devices.
"""

from __future__ import annotations

import dataclasses
import os
import sys

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder with grouped keys, gated MLPs and an untied head; `itemsize` is what it computes
    in. By default Mistral 7B in bfloat16."""

    layers: int = 32
    width: int = 4096
    mlp: int = 14336
    heads: int = 32
    key_heads: int = 8
    head_dim: int = 128
    vocab: int = 32000
    itemsize: int = 2

    @property
    def maps(self) -> list[tuple[int, int]]:
        """[in, out] of the linear maps of a layer."""
        query, key = self.heads * self.head_dim, self.key_heads * self.head_dim
        attention = [(self.width, query), (self.width, key), (self.width, key), (query, self.width)]
        return [*attention, (self.width, self.mlp), (self.width, self.mlp), (self.mlp, self.width)]

    @property
    def kernels(self) -> int:
        """Entries of the kernels of all layers."""
        return self.layers * sum(a * b for a, b in self.maps)

    @property
    def table(self) -> int:
        """Entries of the embedding, and of the head."""
        return self.vocab * self.width

    @property
    def vectors(self) -> int:
        """Entries of the norms."""
        return (2 * self.layers + 1) * self.width

    @property
    def matrices(self) -> int:
        """Entries that are split over "fsdp"."""
        return self.kernels + 2 * self.table

    @property
    def params(self) -> int:
        return self.matrices + self.vectors

    def adapter(self, rank: int) -> int:
        """Entries of the low-rank factors of all linear maps."""
        return self.layers * rank * sum(a + b for a, b in self.maps)

    def layer_flops(self, tokens: float, scores: float) -> float:
        """Of all layers, for tokens whose queries meet so many keys in all."""
        return 2 * self.kernels * tokens + 4 * self.layers * self.heads * self.head_dim * scores

    def head_flops(self, tokens: float) -> float:
        return 2 * self.table * tokens

    def cache(self, positions: float) -> float:
        """Bytes of keys and values of one particle."""
        heads = 2 * self.layers * self.key_heads * self.head_dim
        return heads * positions * self.itemsize


@dataclasses.dataclass(frozen=True)
class Machine:
    """Peak flop/s in bfloat16, bytes/s of memory, and bytes/s into a device from its neighbours
    ("fsdp") and from the others ("data")."""

    name: str
    flops: float
    memory: float
    near: float
    far: float


MACHINES = (
    Machine("H100 SXM, NVLink 450 GB/s, 400 Gb/s InfiniBand", 989e12, 3.35e12, 450e9, 50e9),
    Machine("TPU v5p, ICI 600 GB/s", 459e12, 2.765e12, 600e9, 600e9),
)


@dataclasses.dataclass(frozen=True)
class Load:
    """A step of `fit` on each device: rows (prompts × lanes), of which `micro` are differentiated
    at a time, with S prompt tokens and T new ones."""

    rows: int = 32
    micro: int = 4
    prompt: int = 128
    new: int = 512

    @property
    def length(self) -> int:
        return self.prompt + self.new

    @property
    def read(self) -> float:
        """Positions of which a new token reads the keys, on average: long caches grow in two
        stages."""
        return self.prompt + (0.75 if self.new >= 128 else 1.0) * self.new


@dataclasses.dataclass(frozen=True)
class Plan:
    """A guide on a mesh: `rank` of an adapter, or None for all parameters."""

    model: Model
    load: Load
    data: int
    fsdp: int
    rank: int | None = None

    @property
    def trained(self) -> int:
        return self.model.params if self.rank is None else self.model.adapter(self.rank)

    def split(self, itemsize: int) -> float:
        """Bytes on a device of the model's parameters."""
        return itemsize * (self.model.matrices / self.fsdp + self.model.vectors)

    def bytes(self) -> dict[str, float]:
        """Bytes on a device, at the time of sampling and of training."""
        model, load, adapts = self.model, self.load, self.rank is not None
        state = 4.0 * self.trained if adapts else self.split(4)  # factors are not split
        compute = self.split(model.itemsize)
        kept = {
            "parameters in float32": state,
            "Adam moments in float32": 2 * state,
            "frozen base, or prior, in bfloat16": compute,
        }
        sampling = {
            "whole parameters": model.itemsize * model.params,
            "KV cache": load.rows * model.cache(load.length),
            "logits in float32, twice": 2 * 4 * load.rows * model.vocab,
        }
        training = {
            "parameters cast to bfloat16": 0.0 if adapts else compute,
            "gradients in float32": state * (2 if load.micro < load.rows else 1),
            "gathered parameters, at most": model.itemsize * model.params,
            "inputs of blocks (remat)": self.block_inputs(),
            "one block's intermediates": self.one_block(),
        }
        return (
            kept
            | {f"sampling: {k}": v for k, v in sampling.items()}
            | {f"training: {k}": v for k, v in training.items()}
            | {
                "**peak while sampling**": sum(kept.values()) + sum(sampling.values()),
                "**peak while training**": sum(kept.values()) + sum(training.values()),
            }
        )

    def block_inputs(self) -> float:
        """What remat stores: the stream ahead of each block, and the prompt's keys and values."""
        model, load = self.model, self.load
        stream = load.length * model.width * model.itemsize * model.layers
        return load.micro * (stream + model.cache(load.prompt))

    def one_block(self) -> float:
        """MLP and attention of the block that is differentiated, scores in float32."""
        model, load = self.model, self.load
        wide = load.length * (5 * model.mlp + 8 * model.width) * model.itemsize
        scores = 3 * 4 * model.heads * (load.new * load.length + load.prompt**2)
        return load.micro * (wide + scores)

    def flops(self) -> dict[str, float]:
        """Flops on a device in one step; attention computes what it masks, too."""
        model, load = self.model, self.load
        tokens = load.rows * load.new
        drawn = model.layer_flops(tokens, tokens * load.read) + model.head_flops(tokens)
        scores = load.rows * (load.new * load.length + load.prompt**2)
        layers = model.layer_flops(load.rows * load.length, scores)
        # The backward pass runs the blocks again, but for their last product, which nothing needs.
        down = 2 * model.layers * model.mlp * model.width * load.rows * load.length
        passes = 3 if self.rank is None else 2  # forwards, inputs' gradients, kernels' gradients
        again = layers - down
        return {
            "decoding": drawn,
            "scoring under the prior": layers + model.head_flops(tokens),
            "gradient": passes * (layers + model.head_flops(tokens)) + again,
        }

    def collectives(self) -> dict[str, tuple[float, bool]]:
        """Bytes into a device in one step, and whether from near."""
        model, load = self.model, self.load
        whole = model.itemsize * model.matrices * (self.fsdp - 1) / self.fsdp
        parts = load.rows / load.micro
        gradient = 4.0 * self.trained if self.rank is not None else self.split(model.itemsize)
        found = {
            "all-gather ahead of decoding": (whole, True),
            "all-gather of tokens and log-probs": (
                8.0 * load.rows * self.data * self.fsdp * load.new,
                False,
            ),
            "all-gather for scoring": (whole, True),
            "all-gather, forwards and backwards": (parts * self.gathered(), True),
        }
        if self.rank is None:
            found["reduce-scatter of gradients"] = (parts * whole, True)
            share = 2 * (self.data - 1) / self.data
            found['all-reduce over "data"'] = (parts * share * gradient, False)
        else:
            share = 2 * (self.data * self.fsdp - 1) / (self.data * self.fsdp)
            found["all-reduce of the factors' gradients"] = (parts * share * gradient, False)
        return found

    def gathered(self) -> float:
        """Bytes into a device for the gradient of one micro-batch: XLA gathers a kernel once for
        the forward pass of prompt and completion, and for each of them on the way back."""
        entries = 3 * self.model.kernels + 3 * self.model.table
        return self.model.itemsize * entries * (self.fsdp - 1) / self.fsdp

    def seconds(self, machine: Machine, efficiency: float = 0.4) -> dict[str, float]:
        """Decoding by memory, the rest by flops at an efficiency, collectives not overlapped."""
        model, load, flops = self.model, self.load, self.flops()
        read = model.itemsize * model.params + load.rows * model.cache(load.read)
        moved = self.collectives()
        rate = efficiency * machine.flops
        return {
            "decoding": max(load.new * read / machine.memory, flops["decoding"] / rate),
            "scoring under the prior": flops["scoring under the prior"] / rate,
            "gradient": flops["gradient"] / rate,
            "collectives from near": sum(b for b, near in moved.values() if near) / machine.near,
            "collectives from far": sum(b for b, near in moved.values() if not near) / machine.far,
        }


def plans() -> dict[str, Plan]:
    model, load = Model(), Load()
    meshes = {"8": (1, 8), "256": (32, 8)}
    return {
        f"{what}, {name}": Plan(model, load, data, fsdp, rank)
        for what, rank in (("all parameters", None), ("LoRA", 16))
        for name, (data, fsdp) in meshes.items()
    }


def table(title: str, rows: dict[str, list[str]]) -> str:
    heads = [title, *plans()]
    lines = [heads, ["---", *["--:"] * len(plans())], *([k, *v] for k, v in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _columns(dicts: list[dict[str, float]], unit: float) -> dict[str, list[str]]:
    names = dict.fromkeys(name for each in dicts for name in each)

    def shown(value: float | None) -> str:
        if not value:
            return ""
        return f"{value / unit:.1f}" if value / unit >= 1 else f"{value / unit:.2g}"

    return {name: [shown(each.get(name)) for each in dicts] for name in names}


def tables() -> list[str]:
    """What the page shows, in this order."""
    every = list(plans().values())
    found = [
        table("GiB on a device", _columns([plan.bytes() for plan in every], GIB)),
        table("Tflop on a device and step", _columns([plan.flops() for plan in every], 1e12)),
        table(
            "GB into a device and step",
            _columns([{k: b for k, (b, _) in plan.collectives().items()} for plan in every], 1e9),
        ),
    ]
    for machine in MACHINES:
        times = [plan.seconds(machine) for plan in every]
        found.append(table(f"seconds: {machine.name}", _columns(times, 1)))
    return found


if __name__ == "__main__":
    if sys.argv[1:] != ["check"]:
        print("\n\n".join(tables()))
    else:
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        from estimate_check import check

        check()
