"""Group training: the plan carried out by the trainer program."""

import json

import dagster as dg

from ft_dagster.assets.adapter import Metadata, stage_asset
from ft_dagster.report.plots import as_markdown_image, spectrum_plot, training_curves
from ft_dagster.report.tables import size
from ft_dagster.stages import fine_tuned_model as stage
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact
from ft_dagster.training.training_figures import TrainingFigures


def _fine_tuned_model(workspace: Workspace, artifact: Artifact) -> Metadata:
    """Figures, plots, and in words what to try next and what the checkpoints cost on disk."""
    evidence = workspace.evidence(artifact)
    log = (evidence / "log.jsonl").read_text("utf-8")
    shown = {"curves": training_curves([json.loads(line) for line in log.splitlines()])}
    if (evidence / "spectrum.json").exists():
        layers = json.loads((evidence / "spectrum.json").read_text("utf-8"))["layers"]
        shown["spectrum"] = spectrum_plot(layers)
    figures = TrainingFigures.of(artifact)
    plain = {name: value for name, value in figures.to_json().items() if value is not None}
    for name in ("flops", "flops_estimate"):
        if name in plain:
            plain[name] = float(plain[name])  # beyond 64 bits for a large model
    return {
        **plain,
        "advice": dg.MetadataValue.md(_advice(figures)),
        "checkpoint_storage": dg.MetadataValue.text(_storage(figures)),
        **{name: dg.MetadataValue.md(as_markdown_image(png)) for name, png in shown.items()},
    }


def _advice(figures: TrainingFigures) -> str:
    lines = [*([figures.stop_reason] if figures.stop_reason else []), *figures.advice]
    return "\n".join(f"- {line}" for line in lines) or "nothing: spectrum and loss curves look as they should"


def _storage(figures: TrainingFigures) -> str:
    weights, rest = size(figures.checkpoint_weights_bytes), size(figures.checkpoint_optimizer_bytes)
    return f"{figures.checkpoints_kept} checkpoints: weights {weights}, optimizer states {rest}"


fine_tuned_model = stage_asset(
    stage.STAGE, group="training", kinds={"torch", "huggingface"}, describe=_fine_tuned_model
)
