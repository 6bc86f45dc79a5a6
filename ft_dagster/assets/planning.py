"""Group planning: how the variant will be trained, what that occupies, and why."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.planning.hardware import computes_bf16
from ft_dagster.planning.plan import Facts, make_plan
from ft_dagster.planning.shapes import linear_shapes
from ft_dagster.report.tables import markdown_table
from ft_dagster.store import Artifact, Attempt


@stage_asset(
    group="planning",
    kinds={"json"},
    deps=["training_mixture"],
    checks={"fits": "What is known to be needed fits the device"},
)
def training_plan(bench: Bench) -> dg.MaterializeResult[Any]:
    """The resolved method, hyperparameters and layout, each value with its origin and reason."""
    mixture, base = bench.upstream("training_mixture"), bench.upstream("base_model")
    hardware = _hardware(bench)

    def build(attempt: Attempt) -> dict[str, Any]:
        plan = make_plan(bench.spec, _facts(bench, mixture, base, hardware))
        (attempt.payload / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True), "utf-8")
        return {name: plan[name] for name in ("method", "training", "steps", "memory", "fits", "warnings")}

    slices = bench.spec.slice("objective", "method", "training", "resources.gpus", "resources.cpu_slots")
    artifact = bench.make(
        "training_plan", build, inputs={"training_mixture": mixture.digest, "base_model": base.digest},
        spec={**slices, "hardware": hardware},
    )  # fmt: skip
    plan = json.loads((bench.payload(artifact) / "plan.json").read_text("utf-8"))
    reasons = [[r["field"], r["value"], r["origin"], r["reason"]] for r in plan["reasons"]]
    memory = plan["memory"]
    return bench.report(
        artifact,
        {
            "method": plan["method"]["name"],
            "steps": plan["steps"],
            "trainable_parameters": memory["trainable_parameters"],
            "memory_floor_bytes": memory["floor_bytes"],
            "plan": dg.MetadataValue.md(markdown_table(["field", "value", "from", "why"], reasons)),
            "warnings": dg.MetadataValue.md("\n".join(f"- {w}" for w in plan["warnings"]) or "none"),
        },
        [check("fits", plan["fits"], memory["note"], needed=memory["floor_bytes"], **_device(memory))],
    )


def _device(memory: dict[str, Any]) -> dict[str, Any]:
    return {} if memory["device_bytes"] is None else {"device_bytes": memory["device_bytes"]}


def _hardware(bench: Bench) -> dict[str, Any]:
    """What of this host a plan depends on, so that another kind of host plans anew."""
    inventory = bench.gpus.inventory()
    memories = [device.memory_bytes for device in inventory.devices if device.memory_bytes]
    kind = "cuda" if inventory.kind == "gpu" else "cpu"
    return {
        "kind": kind,
        "count": bench.spec.resources.gpus if kind == "cuda" else 1,
        "memory": min(memories, default=None),
        "bf16": computes_bf16(kind),
    }


def _facts(bench: Bench, mixture: Artifact, base: Artifact, hardware: dict[str, Any]) -> Facts:
    train = mixture.figures["splits"]["train"]
    return Facts(
        examples=train["examples"],
        tokens=train["tokens"],
        trained_tokens=train["trained_tokens"],
        max_length=mixture.predicate["spec"]["max_length"],
        parameters=base.figures["parameters"],
        linear_shapes=linear_shapes(locate(bench, base)),
        device_kind=hardware["kind"],
        device_count=hardware["count"],
        device_memory=hardware["memory"],
        bf16=hardware["bf16"],
    )
