"""Figures to decide upon where any will do: memory by a small formula. The table is decided by dry run.

Bytes of one of n devices, micro-batch 1, gradient checkpointing, t trained parameters of P:

    full            16 P / n (one process: 16 P; over several ZeRO-3: weights, gradients, master, two moments)
    lora            2 P + 16 t, divided by n where a copy does not fit
    qlora           0.516 a linear weight + 2 for the rest + 16 t, a copy on each
    lora_8bit       1 a linear weight + 4 for the rest + 16 t, a copy on each
    soft prompts    2 P + 16 t, a copy on each
    and for all     1 GB of CUDA context, a hidden state of each layer (2 B), one layer's activations
                    (34 B a hidden value), logits in fp32 with their gradient (8 B)

FLOPs a token: 2 P forward, 2 P for the gradients of activations, 2 P recomputed, and 2 P for the gradients of
weights where those are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ft_dagster.methods import METHODS as KNOWN
from ft_dagster.planning.hardware.catalogue import Hardware, load_catalogue
from ft_dagster.planning.methods.question import Candidate, Question, fewest_gpus
from tests.planning.llama import METHODS

CATALOGUE = load_catalogue()
LENGTH = 512


@dataclass(frozen=True)
class Shape:
    """A Llama by its published sizes."""

    hidden: int
    layers: int
    key_value: int
    mlp: int
    vocabulary: int

    @property
    def linear(self) -> int:
        each = 2 * self.hidden * (self.hidden + self.key_value) + 3 * self.hidden * self.mlp
        return self.layers * each

    @property
    def parameters(self) -> int:
        return self.linear + 2 * self.vocabulary * self.hidden + (2 * self.layers + 1) * self.hidden

    def adapter(self, rank: int = 16) -> int:
        attention = 2 * (2 * self.hidden) + 2 * (self.hidden + self.key_value)
        return rank * self.layers * (attention + 3 * (self.hidden + self.mlp))

    def activations(self, length: int = LENGTH) -> int:
        return length * (2 * self.layers * self.hidden + 34 * self.hidden + 8 * self.vocabulary)


SMOL = Shape(576, 30, 192, 1536, 49_152)  # SmolLM2-135M, its head untied
LLAMA_7B = Shape(4096, 32, 4096, 11_008, 32_000)
LLAMA_8B = Shape(4096, 32, 1024, 14_336, 128_256)
LLAMA_13B = Shape(5120, 40, 5120, 13_824, 32_000)
LLAMA_70B = Shape(8192, 80, 1024, 28_672, 128_256)


def trained(method: str, shape: Shape) -> int:
    if method == "full":
        return shape.parameters
    if KNOWN[method].trains == "prompt":
        return 20 * (shape.hidden if method == "prompt_tuning" else 2 * shape.layers * shape.key_value)
    return shape.adapter()


def frozen(method: str, shape: Shape) -> int:
    if method == "full":
        return 0
    quantized = KNOWN[method].quantized
    if quantized:
        rest = 2 if method == "qlora" else 4
        return round(shape.linear * quantized.bytes_a_weight + (shape.parameters - shape.linear) * rest)
    return 2 * shape.parameters


def bytes_on(method: str, shape: Shape, count: int, *, sharded: bool) -> int:
    """Of one of `count` devices."""
    held = frozen(method, shape) + 16 * trained(method, shape)
    return (held // count if sharded else held) + 1_000_000_000 + shape.activations()


def candidate(method: str, shape: Shape, hardware: Hardware) -> Candidate:
    device = hardware.memory_bytes or 10**15
    copy = bytes_on(method, shape, 1, sharded=False)
    shards = method in ("full", "lora") and (method == "full" or copy > device)

    def on(count: int) -> int:
        return bytes_on(method, shape, count, sharded=shards and count > 1)

    needed = on(hardware.count)
    return Candidate(
        method,
        trained(method, shape),
        needed,
        needed <= device,
        fewest_gpus(on, device),
        (8 if method == "full" else 6) * shape.parameters,
        layout=f"ZeRO-3 over {hardware.count}" if shards and hardware.count > 1 else "a copy each",
        frozen_bytes=frozen(method, shape) or None,
    )


def candidates(shape: Shape, hardware: Hardware) -> list[Candidate]:
    return [candidate(method, shape, hardware) for method in METHODS]


def question(shape: Shape, gpus: str | Hardware, examples: int = 50_000, **more: Any) -> Question:
    """250 tokens an example, instructions, one variant, unless said otherwise."""
    hardware = CATALOGUE.gpus(gpus) if isinstance(gpus, str) else gpus
    given = {"objective": "instruction", "tokens": 250 * examples, **more}
    return Question(examples=examples, parameters=shape.parameters, hardware=hardware, **given)
