"""Group release: the export with its certificate, and the append-only log of what was released."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.bench import Bench, check, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.assets.evaluation import evaluate_weights, verdict_on
from ft_dagster.errors import UserError
from ft_dagster.evaluation.gates import gates_digest, regression, with_rules
from ft_dagster.evaluation.samples import read_samples
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import Candidate, ReleaseRequest, history, production, record_release, rolled_back
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.report.tables import history_markdown
from ft_dagster.store import Artifact, Attempt, verify

GROUP = "release"
PROBES = 8
OWN = "own_evaluation"  # beside the certificate of a merge that drifted from what was judged


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

    def build(attempt: Attempt) -> dict[str, Any]:
        figures = bench.produce("export", attempt, run)
        if not figures["certified"]:
            _judge_itself(bench, base, attempt)
        return figures

    artifact = bench.make(
        "model_export",
        build,
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
        [check("certificate", *_holds(bench, artifact, certificate))],
    )


@stage_asset(group=GROUP, kinds={"json"}, deps=["model_export"])
def release(bench: Bench) -> dg.MaterializeResult[Any]:
    """A version of the variant, recorded only if the gate held for exactly these bytes."""
    export, tuned = bench.upstream("model_export"), bench.upstream("fine_tuned_model")
    verify(bench.store, export, bench.cache)
    evaluation, verdict = rejudge(bench, tuned)
    verdict = with_rules(verdict, against_production(bench, tuned, evaluation))
    entry = record_release(
        bench.store,
        bench.prefix,
        Candidate(
            export,
            evaluation,
            verdict,
            gates_digest(bench.spec.gates),
            certificate_of(bench, export),
            _own_verdict(bench, export),
        ),
        ReleaseRequest(
            reason=bench.context.run.tags.get("ft/reason", "materialized"),
            approvers=bench.spec.release.approvers,
        ),
        variant=str(bench.key),
        run_id=bench.context.run_id,
    )
    past = history(bench.store, bench.prefix)
    return dg.MaterializeResult(
        metadata={
            "version": entry.version,
            "digest": entry.export,
            "weights": entry.weights,
            "judgement": dg.MetadataValue.md("\n".join(f"- {rule.sentence}" for rule in verdict.rules)),
            "production": past[-1].production or "none yet",
            "next": dg.MetadataValue.text(_next(bench, entry, past)),
            "history": dg.MetadataValue.md(history_markdown(past)),
            "owners": ", ".join(bench.spec.owners),
            "dagster/uri": bench.store.uri(export.path),
        },
        data_version=dg.DataVersion(entry.export),
    )


def _next(bench: Bench, entry: ReleaseEntry, past: list[ReleaseEntry]) -> str:
    """What is to be done for this version to be served, if anything."""
    version, gone = entry.version, rolled_back(past)
    if version in gone:
        return (
            f"version {version} was rolled back ({gone[version]}): it stays so; "
            f"`ft-dagster release {bench.key} --version {version} --force --reason ...` puts it back"
        )
    if past[-1].production != version:
        who = " or ".join(bench.spec.release.approvers) or "anyone"
        return f"version {version} waits for {who}: `ft-dagster release {bench.key} --version {version}`"
    return f"version {version} is in production"


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


def against_production(bench: Bench, tuned: Artifact, evaluation: Artifact) -> tuple[Rule, ...]:
    """The rules by which new weights are no regression against the version in production; none at the first.

    Derived here and kept in no key: production is another one tomorrow. The release log names the version
    before, and so from which evaluations the rules can be derived again.
    """
    standing = production(bench.store, bench.prefix)
    if standing is None or standing.weights == tuned.digest or bench.spec.gates.regression_margin is None:
        return ()
    before = find_digest(bench.store, [bench.prefix], "evaluation", standing.evaluation)
    if before is None:
        raise UserError(
            f"the evaluation of version {standing.version}, which is in production, is not in the store",
            field="gates.regression_margin",
            value=bench.spec.gates.regression_margin,
            fix="Restore it, or declare gates.regression_margin: null to release without a comparison",
        )
    verify(bench.store, before, bench.cache)
    old, new = (read_samples(bench.payload(each)) for each in (before, evaluation))
    return regression(old, new, bench.spec.gates, version=standing.version)


def _judge_itself(bench: Bench, base: Artifact, attempt: Attempt) -> None:
    """Evaluate a merge that drifted from what was judged; raises UserError where its own verdict is no pass."""
    bench.context.log.info("the certificate does not hold: the merged weights are evaluated by themselves")
    folder = attempt.evidence / OWN
    evaluate_weights(bench, base, attempt.payload, attempt, folder)
    verdict = verdict_on(bench, bench.upstream("base_evaluation"), folder / "payload")
    if not verdict.passed:
        certificate = json.loads((attempt.evidence / "certificate.json").read_text("utf-8"))
        failed = "; ".join(rule.sentence for rule in verdict.rules if not rule.passed)
        raise UserError(
            f"the certificate does not hold ({'; '.join(certificate['failures'])}), and the merged weights, "
            f"evaluated by themselves, do not pass: {failed}",
            field="export.format",
            value=bench.spec.export.format,
            fix="Declare `export: adapter`, which is served exactly as judged",
        )


def _own_verdict(bench: Bench, export: Artifact) -> Verdict | None:
    """Of an export that was evaluated by itself, derived anew from its samples; None for others."""
    folder = bench.folder(export) / "evidence" / OWN / "payload"
    if not folder.is_dir():
        return None
    return verdict_on(bench, bench.upstream("base_evaluation"), folder)


def _holds(bench: Bench, export: Artifact, certificate: dict[str, Any]) -> tuple[bool, str]:
    if certificate["passed"]:
        return True, _certified(certificate)
    own = _own_verdict(bench, export)
    said = f"{'; '.join(certificate['failures'])}: evaluated by itself"
    passed = own is not None and own.passed
    return passed, f"{said}, it passes" if passed else f"{said}: no pass"


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
        "verdict": verdict.to_json(),
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
