"""The plan: the resolved method and hyperparameters, what they occupy, and the reason for each value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.planning.defaults import LARGEST_BATCH_ROWS, LORA, WANTED_STEPS, Default, lora_rank
from ft_dagster.planning.shapes import adapter_parameters
from ft_dagster.spec import VariantSpec

SCHEMA_VERSION = 1
DECLARED = "declaration"


@dataclass(frozen=True)
class Facts:
    """What a plan is made from, besides the declaration."""

    examples: int  # training examples of the mixture, general ones among them
    tokens: int
    trained_tokens: int
    max_length: int
    parameters: int  # of the base
    linear_shapes: dict[str, list[list[int]]]  # see planning.shapes
    device_kind: str  # "cpu" or "cuda"
    device_count: int
    device_memory: int | None  # bytes of one device, None where unknown
    bf16: bool  # the hardware computes in bf16


def make_plan(spec: VariantSpec, facts: Facts) -> dict[str, Any]:
    """Resolve `spec` into plan.json. Raises UserError when there is nothing to train on."""
    if facts.trained_tokens == 0:
        raise UserError("the mixture has no trained token", fix="See the counts of training_mixture")
    reasons: list[dict[str, Any]] = []

    def settle(field: str, declared: Any, default: Default) -> Any:
        value = default.value if declared is None else declared
        origin, why = ("built-in", default.reason) if declared is None else (DECLARED, "as declared")
        reasons.append({"field": field, "value": value, "origin": origin, "reason": why})
        return value

    method = _method(spec, facts, settle)
    training = _training(spec, facts, settle)
    memory = _memory(method, training, facts)
    return {
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "training": training,
        "device": {"kind": facts.device_kind, "count": facts.device_count},
        "steps": _steps(training, facts),
        "memory": memory,
        "fits": memory["fits"],
        "warnings": _warnings(spec, method),
        "reasons": reasons,
    }


def _method(spec: VariantSpec, facts: Facts, settle: Any) -> dict[str, Any]:
    declared = spec.method
    auto = Default("lora", "instructions: an adapter learns behaviour, at a fraction of the memory of full")
    name = settle("method.name", None if declared.name == "auto" else declared.name, auto)
    rank = settle("method.rank", declared.rank, lora_rank(facts.examples))
    return {
        "name": name,
        "rank": rank,
        "alpha": float(settle("method.alpha", declared.alpha, Default(2.0 * rank, "alpha = 2r"))),
        "dropout": settle("method.dropout", declared.dropout, LORA["dropout"]),
        "target_modules": _as_list(
            settle("method.target_modules", declared.target_modules, LORA["target_modules"])
        ),
        "use_rslora": declared.use_rslora,
        "use_dora": declared.use_dora,
    }


def _training(spec: VariantSpec, facts: Facts, settle: Any) -> dict[str, Any]:
    declared = spec.training
    micro = settle(
        "training.per_device_train_batch_size",
        declared.per_device_train_batch_size,
        Default(1, "a row holds many packed examples")
        if declared.packing
        else Default(4, "unpacked examples"),
    )
    epochs = settle("training.num_train_epochs", declared.num_train_epochs, LORA["num_train_epochs"])
    precision = declared.precision
    if precision == "auto":
        why = "the hardware computes in bf16" if facts.bf16 else "no bf16 arithmetic on this hardware"
        precision = settle("training.precision", None, Default("bf16" if facts.bf16 else "fp32", why))
    return {
        "learning_rate": settle("training.learning_rate", declared.learning_rate, LORA["learning_rate"]),
        "num_train_epochs": float(epochs),
        "max_steps": declared.max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settle(
            "training.gradient_accumulation_steps",
            declared.gradient_accumulation_steps,
            _accumulation(declared.packing, micro, epochs, facts),
        ),
        "max_length": facts.max_length,
        "gradient_checkpointing": settle(
            "training.gradient_checkpointing",
            declared.gradient_checkpointing,
            _checkpointing(facts),
        ),
        "precision": precision,
        **{
            name: getattr(declared, name)
            for name in (
                "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "packing",
                "evaluations", "keep_best", "keep_last", "seed",
            )
        },
    }  # fmt: skip


def _rows(packing: bool, facts: Facts) -> int:
    """Rows of one epoch: packed ones hold about max_length tokens each."""
    return math.ceil(facts.tokens / facts.max_length) if packing else facts.examples


def _accumulation(packing: bool, micro: int, epochs: float, facts: Facts) -> Default:
    rows = _rows(packing, facts) * epochs
    wanted = rows / (WANTED_STEPS * micro)
    value = max(1, min(LARGEST_BATCH_ROWS // micro, int(wanted)))
    return Default(
        value,
        f"about {rows:,.0f} rows in all: {WANTED_STEPS} steps or more of at most {LARGEST_BATCH_ROWS} rows",
    )


def _checkpointing(facts: Facts) -> Default:
    large = facts.parameters >= 3_000_000_000
    why = "3B parameters or more: recomputing costs 20-40% and frees most activations"
    return Default(large, why if large else "a small model: recomputing would only cost time")


def _steps(training: dict[str, Any], facts: Facts) -> int:
    if training["max_steps"]:
        return int(training["max_steps"])
    rows = _rows(training["packing"], facts) * training["num_train_epochs"]
    batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    return max(1, math.ceil(rows / (batch * facts.device_count)))


def _memory(method: dict[str, Any], training: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """Bytes known before a dry run: a floor, since activations are not in it."""
    trainable = adapter_parameters(facts.linear_shapes, method["rank"], method["target_modules"])
    width = 2 if training["precision"] == "bf16" else 4
    weights = facts.parameters * width
    states = trainable * 16  # fp32 weight, gradient and two moments
    floor = weights + states
    fits = facts.device_memory is None or floor <= facts.device_memory
    return {
        "trainable_parameters": trainable,
        "weights_bytes": weights,
        "adapter_states_bytes": states,
        "floor_bytes": floor,
        "device_bytes": facts.device_memory,
        "fits": fits,
        "note": "a floor: activations are not counted",
    }


def _warnings(spec: VariantSpec, method: dict[str, Any]) -> list[str]:
    said = []
    scaling = method["alpha"] / (math.sqrt(method["rank"]) if method["use_rslora"] else method["rank"])
    if not method["use_rslora"] and scaling != 2.0:
        said.append(f"alpha {method['alpha']:g} with rank {method['rank']} scales by {scaling:g}; 2 is usual")
    if spec.data.general is None:
        said.append("no general data: frozen weights are not frozen behaviour; 5-10% is the usual share")
    elif not 0.05 <= spec.data.general.share <= 0.10:
        said.append(f"general share {spec.data.general.share:.0%} is outside the usual 5-10%")
    return said


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
