"""Group planning: how the variant will be trained, what that occupies, and why."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.errors import UserError
from ft_dagster.planning.advice import release_warnings
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.hardware import computes_bf16
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.shapes import dimensions, linear_shapes
from ft_dagster.report.tables import count, markdown_table, size
from ft_dagster.spec import VariantKey
from ft_dagster.spec.formats import export_problem
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.store import Artifact, Attempt

FIGURES = ("method", "training", "ranks", "steps", "memory", "storage", "fits", "warnings")


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
        try:
            plan = make_plan(bench.spec, _facts(bench, mixture, base, hardware))
        except UserError as error:
            error.file = error.file or str(bench.declared_in)
            raise
        (attempt.payload / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True), "utf-8")
        return {name: plan[name] for name in FIGURES}

    artifact = bench.make(
        "training_plan", build, inputs={"training_mixture": mixture.digest, "base_model": base.digest},
        spec={**_slices(bench), "hardware": hardware},
    )  # fmt: skip
    plan = json.loads((bench.payload(artifact) / "plan.json").read_text("utf-8"))
    _refuse_export(bench, plan["method"]["name"])
    memory, warnings = plan["memory"], _warnings(bench, plan)
    return bench.report(
        artifact,
        {
            "method": plan["method"]["name"],
            "steps": plan["steps"],
            "trainable_parameters": memory["trainable_parameters"],
            "memory_floor_bytes": memory["floor_bytes"],
            "warnings": dg.MetadataValue.md("\n".join(f"- {line}" for line in warnings) or "none"),
            "plan": dg.MetadataValue.md(reasons_table(plan)),
            "memory": dg.MetadataValue.md(memory_table(plan)),
            "storage": dg.MetadataValue.md(storage_table(plan)),
        },
        [check("fits", plan["fits"], memory["note"], needed=memory["floor_bytes"], **_device(memory))],
    )


def reasons_table(plan: dict[str, Any]) -> str:
    rows = [[r["field"], _shown(r["value"]), r["origin"], r["reason"]] for r in plan["reasons"]]
    return markdown_table(["field", "value", "from", "why"], rows)


def memory_table(plan: dict[str, Any]) -> str:
    memory = plan["memory"]
    rows = [
        ["frozen weights", size(memory["frozen_bytes"])],
        ["trained weights", size(memory["trained_weights_bytes"])],
        ["gradients, master weights and moments", size(memory["states_bytes"])],
        [f"together ({memory['note']})", size(memory["floor_bytes"])],
        ["offloaded to the host or its disk", size(memory["offloaded_bytes"])],
        ["the device has", size(memory["device_bytes"])],
        ["processes", count(memory["processes"])],
    ]
    return markdown_table(["in each process", "GB = 1e9 bytes"], rows)


def storage_table(plan: dict[str, Any]) -> str:
    storage = plan["storage"]
    rows = [
        ["a checkpoint: weights", size(storage["checkpoint_weights_bytes"])],
        ["a checkpoint: optimizer states", size(storage["checkpoint_optimizer_bytes"])],
        [
            f"at most {storage['checkpoints_at_most']} checkpoints while it trains",
            size(storage["checkpoints_bytes"]),
        ],
        ["released as an adapter", size(storage["adapter_bytes"])],
        ["released whole", size(storage["whole_bytes"])],
    ]
    return markdown_table(["on disk", "tensors alone"], rows)


def _shown(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _refuse_export(bench: Bench, method: str) -> None:
    """Before anything is trained: what `auto` chose may not have the export that is declared."""
    declared = bench.spec.export.format
    problem = export_problem(method, declared)
    if problem:
        raise UserError(
            f"by its plan, {problem}",
            file=bench.declared_in,
            field="export.format",
            value=declared,
            fix="Or name the method, see the reasons of training_plan",
        )


def _warnings(bench: Bench, plan: dict[str, Any]) -> list[str]:
    bases = [_base_of(bench, key) for key in bench.tenants.variants()]
    sharing = max(1, bases.count(bench.spec.base_model))
    return [*plan["warnings"], *release_warnings(bench.spec, plan, sharing)]


def _base_of(bench: Bench, key: VariantKey) -> BaseModelSpec | None:
    """The base that another declaration names; None where that file is broken just now."""
    try:
        return bench.tenants.declared(key).spec.base_model
    except UserError:
        return None


def _slices(bench: Bench) -> dict[str, Any]:
    """What of the declaration a plan reads; `report_to` only says where curves are shown."""
    slices = bench.spec.slice(
        "objective", "base_model.new_tokens", "method", "training", "resources.gpus", "resources.cpu_slots"
    )
    return {**slices, "training": {k: v for k, v in slices["training"].items() if k != "report_to"}}


def _device(memory: dict[str, Any]) -> dict[str, Any]:
    return {} if memory["device_bytes"] is None else {"device_bytes": memory["device_bytes"]}


def _hardware(bench: Bench) -> dict[str, Any]:
    """What of this host a plan depends on, so that another kind of host plans anew."""
    inventory = bench.gpus.inventory()
    memories = [device.memory_bytes for device in inventory.devices if device.memory_bytes]
    kind = "cuda" if inventory.kind == "gpu" else "cpu"
    return {
        "kind": kind,
        "ranks": bench.spec.resources.gpus if kind == "cuda" else bench.spec.resources.cpu_ranks,
        "memory": min(memories, default=None),
        "bf16": computes_bf16(kind),
    }


def _facts(bench: Bench, mixture: Artifact, base: Artifact, hardware: dict[str, Any]) -> Facts:
    train, folder = mixture.figures["splits"]["train"], locate(bench, base)
    return Facts(
        examples=train["examples"],
        tokens=train["tokens"],
        trained_tokens=train["trained_tokens"],
        general_share=mixture.figures["general_share"]["realized"],
        max_length=mixture.predicate["spec"]["max_length"],
        parameters=base.figures["parameters"],
        base_bytes=base.figures["weights_bytes"],
        linear_shapes=linear_shapes(folder),
        **dimensions(folder)._asdict(),
        device_kind=hardware["kind"],
        ranks=hardware["ranks"],
        device_memory=hardware["memory"],
        bf16=hardware["bf16"],
    )
