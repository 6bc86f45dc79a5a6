"""Declarations and facts to plan from: Llama 3's published shapes, no weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ft_dagster.methods import METHODS as KNOWN
from ft_dagster.planning.advice import training_warnings
from ft_dagster.planning.estimate import SCHEMA_VERSION
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory_formula import memory, storage
from ft_dagster.planning.methods.resolved import resolve
from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.spec import VariantSpec

METHODS = tuple(KNOWN)
ADAPTERS = tuple(name for name, known in KNOWN.items() if known.freezes)
A100_80 = 85_899_345_920  # bytes of a card sold as 80 GB
VOCABULARY = 128_256


SMALL_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "num_hidden_layers": 6,
    "intermediate_size": 640, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048,
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


def llama(hidden: int, layers: int, key_value: int, mlp: int) -> dict[str, Any]:
    """Facts of a Llama 3: linear shapes, parameters, dimensions. Embeddings and head are two matrices."""
    shapes = {
        "q_proj": [hidden, hidden], "k_proj": [key_value, hidden], "v_proj": [key_value, hidden],
        "o_proj": [hidden, hidden], "gate_proj": [mlp, hidden], "up_proj": [mlp, hidden],
        "down_proj": [hidden, mlp],
    }  # fmt: skip
    linear = layers * sum(rows * columns for rows, columns in shapes.values())
    parameters = linear + 2 * VOCABULARY * hidden + (2 * layers + 1) * hidden
    return {
        "linear_shapes": {name: [shape] * layers for name, shape in shapes.items()},
        "parameters": parameters, "base_bytes": 2 * parameters, "hidden_size": hidden, "layers": layers,
        "key_value_size": key_value, "tied_embeddings": False,
    }  # fmt: skip


LLAMA_8B = llama(4096, 32, 1024, 14336)
LLAMA_70B = llama(8192, 80, 1024, 28672)


def spec(**more: Any) -> VariantSpec:
    """A declaration; general data within the usual share unless said otherwise; an export it can have."""
    export = "merged" if more.get("method") in ("full", {"name": "full"}) else "adapter"
    data = {"sources": ["r.jsonl"], "general": {"corpus": "general", "share": 0.08}}
    return VariantSpec.model_validate(
        {"description": "x", "owners": ["a"], "base_model": "b", "data": data, "export": export, **more}
    )


def facts(**more: Any) -> Facts:
    given = {
        **LLAMA_8B, "examples": 400, "tokens": 40_000, "trained_tokens": 20_000, "general_share": 0.08,
        "max_length": 512, "device_kind": "cpu", "ranks": 1, "device_memory": None, "bf16": True,
    }  # fmt: skip
    return Facts(**{**given, **more})


def gpus(count: int = 1, memory: int | None = A100_80, **more: Any) -> Facts:
    return facts(device_kind="cuda", ranks=count, device_memory=memory, **more)


def plan(method: Any = "lora", given: Facts | None = None, **more: Any) -> dict[str, Any]:
    return resolved(spec(method=method, **more), given or facts())


def resolved(declared: VariantSpec, facts_: Facts) -> dict[str, Any]:
    """What is resolved without a dry run, of a method that is named."""
    made = resolve(declared, facts_)
    deepspeed, steps = made.training.deepspeed, steps_of(made.training, facts_)
    return {
        "schema_version": SCHEMA_VERSION,
        "method": made.method.model_dump(mode="json"),
        "training": made.training.model_dump(mode="json"),
        "reasons": [asdict(row) for row in made.reasons.rows],
        "device": {"kind": facts_.device_kind, "count": facts_.ranks},
        "ranks": facts_.ranks,
        "steps": steps,
        "trainable_parameters": made.load.trained,
        "memory": memory(made.load, deepspeed.stage, deepspeed.offload),
        "storage": storage(made.load, deepspeed.stage, made.training),
        "warnings": training_warnings(declared, facts_, made.method, made.training, steps),
    }


def reason(made: dict[str, Any], field: str) -> dict[str, Any]:
    """The one row of `reasons` about `field`."""
    (row,) = [row for row in made["reasons"] if row["field"] == field]
    return row
