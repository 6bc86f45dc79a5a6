"""Group training: the plan carried out by the trainer program."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate, new_token_ids, parent_adapter
from ft_dagster.errors import UserError
from ft_dagster.report.plots import as_markdown_image, spectrum_plot, training_curves
from ft_dagster.report.tables import size
from ft_dagster.store import Artifact, Attempt
from ft_dagster.training.contract import RESULT_FILE
from ft_dagster.training.halving import wanted
from ft_dagster.strict_json import NOT_FINITE


@stage_asset(
    group="training",
    kinds={"torch", "huggingface"},
    deps=["training_plan"],
    checks={"learned": "The loss on the validation split, never trained on, fell"},
)
def fine_tuned_model(bench: Bench) -> dg.MaterializeResult[Any]:
    """The trained weights: the checkpoint with the lowest validation loss.

    The trainer is a program of its own; it resumes from its newest checkpoint that verifies.
    """
    plan, mixture, base = (bench.upstream(s) for s in ("training_plan", "training_mixture", "base_model"))
    content = json.loads((bench.payload(plan) / "plan.json").read_text("utf-8"))
    if not plan.figures["fits"]:
        raise UserError("the plan does not fit the device", fix="See training_plan, check `fits`")

    def run(output: Path) -> dict[str, Any]:
        member = {
            "variant": str(bench.key),
            "mixture": str(bench.payload(mixture)),
            "mixture_digest": mixture.digest,
            "plan": content,
            "seed": content["training"]["seed"],
            "output": str(output),
            "benchmarks": _benchmarks(bench),
            "report_to": list(bench.spec.training.report_to),
            "rivals": bench.rivals,
            "micro_batch_halved": wanted(output.parent, output / RESULT_FILE),
        }
        return {
            "schema_version": 1,
            "run_id": bench.context.run_id,
            "base": _base(bench, base),
            "members": [member],
            "launch": {"nodes": 1, "ranks_per_node": content["ranks"], "rendezvous": None},
        }

    def build(attempt: Attempt) -> dict[str, Any]:
        figures = bench.produce("training", attempt, run)
        # Halved, it measured another layout than the one that was predicted.
        return {**figures, "predicted": None if "micro_batch_halved" in figures else plan.figures["predicted"]}

    artifact = bench.make(
        "fine_tuned_model",
        build,
        inputs={
            "training_plan": plan.digest,
            "training_mixture": mixture.digest,
            "base_model": base.digest,
        },
        seed=content["training"]["seed"],
    )
    return bench.report(artifact, _metadata(bench, artifact), [_learned(artifact)])


def _base(bench: Bench, base: Artifact) -> dict[str, Any]:
    parent = parent_adapter(bench, base)
    return {
        "folder": str(locate(bench, base)),
        "digest": base.digest,
        "new_token_ids": new_token_ids(bench, base),
        "parent": None if parent is None else {"adapter": str(parent[0]), "digest": parent[1]},
    }


def _benchmarks(bench: Bench) -> dict[str, Any] | None:
    """The general benchmarks that are asked while training, where the declaration wants any."""
    evaluation = bench.spec.evaluation
    if not bench.spec.training.watch.questions or not evaluation.general:
        return None
    return {"tasks": list(evaluation.general), "project": str(bench.project), "seed": evaluation.seed}


def _metadata(bench: Bench, artifact: Artifact) -> dict[str, Any]:
    """Figures, plots, and in words what to try next and what the checkpoints cost on disk."""
    evidence = bench.folder(artifact) / "evidence"
    log = (evidence / "log.jsonl").read_text("utf-8")
    shown = {"curves": training_curves([json.loads(line) for line in log.splitlines()])}
    if (evidence / "spectrum.json").exists():
        layers = json.loads((evidence / "spectrum.json").read_text("utf-8"))["layers"]
        shown["spectrum"] = spectrum_plot(layers)
    figures = {name: value for name, value in artifact.figures.items() if value is not None}
    for name in ("flops", "flops_estimate"):
        if name in figures:
            figures[name] = float(figures[name])  # beyond 64 bits for a large model
    figures.pop("advice", None)
    return {
        **figures,
        "advice": dg.MetadataValue.md(_advice(artifact.figures)),
        "checkpoint_storage": dg.MetadataValue.text(_storage(artifact.figures)),
        **{name: dg.MetadataValue.md(as_markdown_image(png)) for name, png in shown.items()},
    }


def _advice(figures: Mapping[str, Any]) -> str:
    lines = [*([figures["stop_reason"]] if figures.get("stop_reason") else []), *figures.get("advice", ())]
    return "\n".join(f"- {line}" for line in lines) or "nothing: spectrum and loss curves look as they should"


def _storage(figures: Mapping[str, Any]) -> str:
    kept, weights, rest = (
        figures.get(name)
        for name in ("checkpoints_kept", "checkpoint_weights_bytes", "checkpoint_optimizer_bytes")
    )
    return f"{kept} checkpoints: weights {size(weights)}, optimizer states {size(rest)}"


def _learned(artifact: Artifact) -> dg.AssetCheckResult:
    first, best = (artifact.figures.get(f"validation_loss_{which}") for which in ("first", "best"))
    if {"validation_loss_first", "validation_loss_best"} & set(artifact.figures.get(NOT_FINITE, ())):
        return check("learned", False, "the validation loss was not a finite number")
    if first is None or best is None:
        return check("learned", True, "no validation split was declared: not judged here")
    return check(
        "learned", best < first, f"validation loss {first:.3f} → {best:.3f}", before=first, after=best
    )
