"""Group release: the export with its certificate, and the append-only log of what was released."""

from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import Metadata, described, stage_asset, variant_asset
from ft_dagster.report.tables import history_markdown
from ft_dagster.stages import model_export as export_stage
from ft_dagster.stages import release as release_step
from ft_dagster.stages.verdicts import certificate_of
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact

GROUP = "release"


def _model_export(workspace: Workspace, artifact: Artifact) -> Metadata:
    card = (workspace.evidence(artifact) / "README.md").read_text("utf-8")
    return {
        "format": workspace.spec.export.format,
        "card": dg.MetadataValue.md(card),
        "certificate": dg.MetadataValue.json(certificate_of(workspace, artifact).to_json()),
    }


def _release(workspace: Workspace) -> dg.MaterializeResult[Any]:
    done = release_step.release(workspace)
    judgement = "\n".join(f"- {rule.sentence}" for rule in done.verdict.rules)
    return dg.MaterializeResult(
        metadata={
            "version": done.entry.version,
            "digest": done.entry.export,
            "weights": done.entry.weights,
            "judgement": dg.MetadataValue.md(judgement),
            "production": done.history[-1].production or "none yet",
            "next": dg.MetadataValue.text(done.next),
            "history": dg.MetadataValue.md(history_markdown(done.history)),
            "owners": ", ".join(workspace.spec.owners),
            "dagster/uri": workspace.store.uri(done.export.path),
        },
        data_version=dg.DataVersion(done.entry.export),
    )


model_export = stage_asset(
    export_stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_model_export
)
release = variant_asset(
    release_step.NAME,
    _release,
    description=described(release_step.release),
    group=GROUP,
    kinds={"json"},
)
