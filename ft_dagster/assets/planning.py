"""Group planning: how the variant will be trained, what that occupies, and why."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.errors import UserError
from ft_dagster.planning.advice import release_warnings
from ft_dagster.planning.cost.training_cost import unseen_margins
from ft_dagster.planning.context import Site, counts_of, facts_of, hardware_of, keyed, plan_context, sharing
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.survey import general_matters
from ft_dagster.store import Attempt, read_head
from ft_dagster.report.plots import as_markdown_image, memory_bars
from ft_dagster.report.recommendation import (
    cost_markdown,
    memory_line,
    ranking_markdown,
    reasons_markdown,
    refusal,
)
from ft_dagster.report.tables import markdown_table, size
from ft_dagster.spec.formats import export_problem

FIGURES = ("steps", "trainable_parameters", "fits", "storage", "warnings", "predicted", "on")
ESTIMATE = "estimate.json"


@stage_asset(
    group="planning",
    kinds={"json"},
    deps=["training_mixture"],
    checks={"fits": "The training's memory, by a dry run of its step, fits the device"},
)
def training_plan(bench: Bench) -> dg.MaterializeResult[Any]:
    """Method, hyperparameters and layout, each with its reason; what it occupies and costs, and whether it fits.

    All methods are ranked. Memory is that of a dry run of the step on the base's shapes; prices, the variants
    on the base and what finished trainings taught are those of the day it was planned.
    """
    bench.refuse_what_cannot_be_lent()
    mixture, base = bench.upstream("training_mixture"), bench.upstream("base_model")
    hardware = hardware_of(bench.spec, bench.gpus.inventory(), bench.project)

    def build(attempt: Attempt) -> dict[str, Any]:
        weights = base.figures["parameters"], base.figures["weights_bytes"]
        facts = facts_of(counts_of(mixture), *weights, locate(bench, base), hardware)
        try:
            plan = make_plan(bench.spec, facts, plan_context(_site(bench), bench.spec, base, hardware))
        except UserError as error:
            error.file = error.file or str(bench.declared_in)
            raise
        content = plan.content.to_json()
        _write(attempt.payload / "plan.json", content)
        _write(attempt.evidence / ESTIMATE, plan.estimate)
        names = ("method", "training", "ranks")
        return {**{name: content[name] for name in names}, **{name: plan.estimate[name] for name in FIGURES}}

    artifact = bench.make(
        "training_plan", build, inputs={"training_mixture": mixture.digest, "base_model": base.digest},
        spec={**_slices(bench), "hardware": keyed(hardware)},
    )  # fmt: skip
    estimate = json.loads((bench.folder(artifact) / "evidence" / ESTIMATE).read_text("utf-8"))
    _refuse_export(bench, artifact.figures["method"]["name"])
    return bench.report(artifact, _metadata(bench, estimate), [_fits(estimate)])


def _metadata(bench: Bench, estimate: dict[str, Any]) -> dict[str, Any]:
    row = next(r for r in estimate["ranking"] if r["method"] == estimate["plan"]["method"]["name"])
    warnings = _warnings(bench, estimate)
    known = {"hours": row["hours"], "cost_usd": row["cost_usd"], "days_to_candidate": row["days_to_candidate"]}
    return {
        "method": estimate["plan"]["method"]["name"],
        "steps": estimate["steps"],
        "trainable_parameters": estimate["trainable_parameters"],
        "memory_bytes": estimate["plan"]["memory_bytes"]["total"],
        **{name: value for name, value in known.items() if value is not None},
        "warnings": dg.MetadataValue.md("\n".join(f"- {line}" for line in warnings) or "none"),
        "ranking": dg.MetadataValue.md(ranking_markdown(estimate)),
        "memory": dg.MetadataValue.md(as_markdown_image(memory_bars(estimate))),
        "why": dg.MetadataValue.md(reasons_markdown(estimate)),
        "plan": dg.MetadataValue.md(reasons_table(estimate["plan"])),
        "cost": dg.MetadataValue.md(cost_markdown(estimate)),
        "storage": dg.MetadataValue.md(storage_table(estimate)),
    }


def _fits(estimate: dict[str, Any]) -> dg.AssetCheckResult:
    held, device = estimate["plan"]["memory_bytes"]["total"], estimate["device_bytes"]
    known = {} if device is None else {"device_bytes": device}
    wanted = [change["sentence"] for change in estimate["changes"]]
    said = f"{memory_line(estimate)}; {estimate['plan']['learned']}"
    if not estimate["fits"]:
        said = f"{refusal(estimate)}\n{said}"
    return check("fits", estimate["fits"], said, needed=held, changes=wanted, **known)


def reasons_table(plan: dict[str, Any]) -> str:
    rows = [[r["field"], _shown(r["value"]), r["origin"], r["reason"]] for r in plan["reasons"]]
    return markdown_table(["field", "value", "from", "why"], rows)


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


def _warnings(bench: Bench, estimate: dict[str, Any]) -> list[str]:
    """Those of the plan, and of what is declared now about judging and serving."""
    spec = bench.spec
    unseen = unseen_margins(spec.gates, spec.evaluation, _seconds_per_question(bench))
    name, variants = estimate["plan"]["method"]["name"], len(sharing(_site(bench), spec))
    return [
        *estimate["warnings"], *release_warnings(spec, name, estimate["storage"], variants), *unseen
    ]  # fmt: skip


def _seconds_per_question(bench: Bench) -> float | None:
    """Of one model, in the newest evaluation of this variant; None before the first."""
    before = read_head(bench.store, bench.heads, "evaluation")
    if before is None or not before.figures.get("questions"):
        return None
    return float(before.figures["seconds"] / before.figures["questions"])


def _site(bench: Bench) -> Site:
    return Site(bench.project, bench.store, bench.cache, bench.key)


def _slices(bench: Bench) -> dict[str, Any]:
    """What of the declaration a plan reads; `report_to` only says where curves are shown.

    What only ranks methods is read where the plan chooses one.
    """
    spec = bench.spec
    names = ("objective", "base_model.new_tokens", "method", "training", "resources.gpus", "resources.cpu_slots")
    chosen = ("export.format", "resources.budget_usd", "resources.deadline_hours")
    slices = spec.slice(*names, *(chosen if spec.method.name == "auto" else ()))
    slices["training"] = {k: v for k, v in slices["training"].items() if k != "report_to"}
    return {**slices, "general_matters": general_matters(spec)} if spec.method.name == "auto" else slices


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1, sort_keys=True), "utf-8")
