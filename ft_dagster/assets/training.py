"""Group training: the plan carried out by the trainer program."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.errors import UserError
from ft_dagster.report.plots import as_markdown_image, training_curves
from ft_dagster.store import Artifact


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
    if not content["fits"]:
        raise UserError("the plan does not fit the device", fix="See training_plan, check `fits`")

    def run(output: Path) -> dict[str, Any]:
        member = {
            "variant": str(bench.key),
            "mixture": str(bench.payload(mixture)),
            "mixture_digest": mixture.digest,
            "plan": content,
            "seed": content["training"]["seed"],
            "output": str(output),
        }
        return {
            "schema_version": 1,
            "run_id": bench.context.run_id,
            "base": {"folder": str(locate(bench, base)), "digest": base.digest},
            "members": [member],
            "launch": {"nodes": 1, "ranks_per_node": 1, "rendezvous": None},
        }

    artifact = bench.make(
        "fine_tuned_model",
        lambda attempt: bench.produce("training", attempt, run),
        inputs={
            "training_plan": plan.digest, "training_mixture": mixture.digest, "base_model": base.digest
        },
        seed=content["training"]["seed"],
    )  # fmt: skip
    return bench.report(artifact, _metadata(bench, artifact), [_learned(artifact)])


def _metadata(bench: Bench, artifact: Artifact) -> dict[str, Any]:
    log = (bench.folder(artifact) / "evidence" / "log.jsonl").read_text("utf-8")
    curves = training_curves([json.loads(line) for line in log.splitlines()])
    figures = {name: value for name, value in artifact.figures.items() if value is not None}
    return {**figures, "curves": dg.MetadataValue.md(as_markdown_image(curves))}


def _learned(artifact: Artifact) -> dg.AssetCheckResult:
    first, best = (artifact.figures.get(f"validation_loss_{which}") for which in ("first", "best"))
    if first is None or best is None:
        return check("learned", True, "no validation split was declared: not judged here")
    return check(
        "learned", best < first, f"validation loss {first:.3f} → {best:.3f}", before=first, after=best
    )
