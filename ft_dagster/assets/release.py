"""Group release: the export with its certificate, and the append-only log of what was released."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.assets.evaluation import verdict_on
from ft_dagster.errors import UserError
from ft_dagster.evaluation.gates import Verdict, gates_digest, to_json
from ft_dagster.lineage.release import history, record_release
from ft_dagster.report.tables import markdown_table
from ft_dagster.store import Artifact, verify

GROUP = "release"
PROBES = 8


@stage_asset(
    group=GROUP,
    kinds={"huggingface"},
    deps=["evaluation"],
    checks={"certificate": "The export, reloaded from disk, behaves as the weights that were judged"},
)
def model_export(bench: Bench) -> dg.MaterializeResult[Any]:
    """What is served: the adapter in PEFT's layout, or a merged plain model with its adapter inside.

    Made only for weights whose recorded evaluation passes the gate, judged again here.
    """
    base, tuned = bench.upstream("base_model"), bench.upstream("fine_tuned_model")
    evaluation, verdict = rejudge(bench, tuned)
    if not verdict.passed:
        failed = "; ".join(rule.sentence for rule in verdict.rules if not rule.passed)
        raise UserError(
            f"the gate does not hold for weights {tuned.digest[:12]}: {failed}",
            fix="Train again with other data or settings, or change the gates and evaluate again",
        )
    recorded = base.predicate["spec"]["base"]
    reference = str(recorded["reference"])

    def run(output: Path) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "base": {
                "folder": str(locate(bench, base)),
                "digest": base.digest,
                "reference": reference,
                "revision": recorded["revision"],
            },
            "weights": str(bench.payload(tuned)),
            "weights_digest": tuned.digest,
            "format": bench.spec.export.format,
            "card": _card(bench, tuned, evaluation, reference, verdict),
            "probes": _probes(bench),
            "device": bench.device,
            "output": str(output),
        }

    artifact = bench.make(
        "model_export",
        lambda attempt: bench.produce("export", attempt, run),
        inputs={
            "fine_tuned_model": tuned.digest,
            "evaluation": evaluation.digest,
            "base_model": base.digest,
        },
        spec=bench.spec.slice("export", "description", "owners"),
    )
    certificate = certificate_of(bench, artifact)
    return bench.report(
        artifact,
        {
            "format": bench.spec.export.format,
            "card": dg.MetadataValue.md(
                (bench.folder(artifact) / "evidence" / "README.md").read_text("utf-8")
            ),
            "certificate": dg.MetadataValue.json(certificate),
        },
        [check("certificate", certificate["passed"], _certified(certificate))],
    )


@stage_asset(group=GROUP, kinds={"json"}, deps=["model_export"])
def release(bench: Bench) -> dg.MaterializeResult[Any]:
    """A version of the variant, recorded only if the gate held for exactly these bytes."""
    export, tuned = bench.upstream("model_export"), bench.upstream("fine_tuned_model")
    verify(bench.store, export, bench.cache)
    evaluation, verdict = rejudge(bench, tuned)
    entry = record_release(
        bench.store,
        bench.prefix,
        variant=str(bench.key),
        export=export,
        evaluation=evaluation,
        verdict=to_json(verdict),
        gates=gates_digest(bench.spec.gates),
        certificate=certificate_of(bench, export),
        run_id=bench.context.run_id,
        reason=bench.context.run.tags.get("ft/reason", "materialized"),
    )
    past = [
        [e["version"], e["at"], e["action"], e["export"][:12]] for e in history(bench.store, bench.prefix)
    ]
    return dg.MaterializeResult(
        metadata={
            "version": entry["version"],
            "digest": entry["export"],
            "weights": entry["weights"],
            "history": dg.MetadataValue.md(markdown_table(["version", "at", "action", "export"], past)),
            "owners": ", ".join(bench.spec.owners),
            "dagster/uri": bench.store.uri(export.path),
        },
        data_version=dg.DataVersion(entry["export"]),
    )


def rejudge(bench: Bench, tuned: Artifact) -> tuple[Artifact, Verdict]:
    """The recorded evaluation of exactly these weights, its bytes verified, and its verdict derived anew."""
    evaluation = bench.upstream("evaluation")
    if evaluation.inputs["fine_tuned_model"] != tuned.digest:
        raise UserError(
            f"the newest evaluation judged other weights than {tuned.digest[:12]}",
            fix="Materialize evaluation again",
        )
    if evaluation.inputs["gates"] != gates_digest(bench.spec.gates):
        raise UserError("the gates changed after the evaluation", fix="Materialize evaluation again")
    before = bench.upstream("base_evaluation")
    if evaluation.inputs["base_evaluation"] != before.digest:
        raise UserError("the base's scores changed after the evaluation", fix="Materialize evaluation again")
    for artifact in (tuned, evaluation, before):
        verify(bench.store, artifact, bench.cache)
    return evaluation, verdict_on(bench, before, bench.payload(evaluation))


def certificate_of(bench: Bench, export: Artifact) -> dict[str, Any]:
    file = bench.folder(export) / "evidence" / "certificate.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def _card(
    bench: Bench, tuned: Artifact, evaluation: Artifact, reference: str, verdict: Verdict
) -> dict[str, Any]:
    spec = bench.spec
    return {
        "variant": str(bench.key),
        "description": spec.description,
        "owners": list(spec.owners),
        "base_model": reference,
        "objective": spec.objective,
        "method": bench.upstream("training_plan").figures["method"],
        "training": bench.upstream("training_plan").figures["training"],
        "figures": tuned.figures,
        "verdict": to_json(verdict),
        "sources": [{"path": s.path, "licence": s.licence} for s in spec.data.sources],
        "general": None if spec.data.general is None else spec.data.general.corpus,
        "weights": tuned.digest,
        "evaluation": evaluation.digest,
    }


def _probes(bench: Bench) -> list[str]:
    """Prompts of the variant's own validation rows, on which the certificate compares."""
    from ft_dagster.data.probes import probe_prompts

    base_folder = locate(bench, bench.upstream("base_model"))
    return probe_prompts(bench.payload(bench.upstream("task_dataset")), base_folder, PROBES)


def _certified(certificate: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in certificate["figures"].items())
