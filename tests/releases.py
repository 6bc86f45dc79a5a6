"""Releases of a variant in a store, made by the store's own means from given payload files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import ReleaseCandidate, ReleaseRequest, record_release
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.provenance.digest import hash_folder, payload_digest
from ft_dagster.spec import VariantSpec
from ft_dagster.store import Artifact, Attempt, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact
from tests.certificates import certificate

WEIGHTS, GATES = "a" * 64, "b" * 64
VERDICT = Verdict(True, "pass", ())
Proof = Callable[[Attempt], dict[str, Any]]  # writes evidence of an artifact, returns its figures
LORA = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "sha256:base"}


def put(
    store: Store,
    stage: str,
    prefix: str,
    files: dict[str, Any],
    inputs: dict[str, str],
    *,
    manifests: dict[str, str] | None = None,
    proof: Proof | None = None,
    work: Path | None = None,
) -> Artifact:
    """A committed artifact whose payload is these files: JSON, or copies of local files. `manifests`: of its
    inputs, by their names.
    """

    def build(attempt: Attempt) -> dict[str, Any]:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, attempt.payload / name)
            else:
                (attempt.payload / name).write_text(json.dumps(content), "utf-8")
        return {} if proof is None else proof(attempt)

    spec = {"files": json.loads(json.dumps(files, default=str))}
    recipe = Recipe(stage, prefix, inputs, spec, manifests=manifests or {})
    return make_artifact(store, work or Path(store.root) / "work", recipe, build)


def _passed(attempt: Attempt) -> dict[str, Any]:
    return {"verdict": VERDICT.to_json()}


def release(
    store: Store,
    variant: str,
    files: dict[str, Any],
    weights: str = WEIGHTS,
    *,
    weights_manifest: str | None = None,
    work: Path | None = None,
) -> ReleaseEntry:
    """Release an export with these payload files; returns the log's entry."""
    prefix = f"tenants/{variant.replace('.', '/')}"
    record = {"base.json": {"reference": "models/x", "revision": None}}
    base = put(store, "base_model", "shared", record, {}, work=work)
    tuned = {"fine_tuned_model": weights}
    scores = {"scores.json": sorted(files)}
    by = {} if weights_manifest is None else {"fine_tuned_model": weights_manifest}
    judged = {**tuned, "gates": GATES}
    evaluation = put(store, "evaluation", prefix, scores, judged, manifests=by, proof=_passed, work=work)
    inputs = {**tuned, "evaluation": evaluation.digest, "base_model": base.digest}
    form = "adapter" if "adapter_config.json" in files else "merged"

    def certified(attempt: Attempt) -> dict[str, Any]:
        speaks = certificate(payload_digest(hash_folder(attempt.payload)), weights, form).to_json()
        (attempt.evidence / "certificate.json").write_text(json.dumps(speaks), "utf-8")
        return {}

    export = put(store, "model_export", prefix, files, inputs, manifests=by, proof=certified, work=work)
    write_head(store, prefix, export, None)
    candidate = ReleaseCandidate(
        export, evaluation, VERDICT, GATES, certificate(export.digest, weights, form)
    )
    return record_release(store, prefix, candidate, ReleaseRequest("test"), variant=variant, run_id=None)


def frozen(store: Store, variant: str, *, work: Path | None = None) -> Artifact:
    """A declaration of a variant, as a run freezes it, by which all built-in floors are held."""
    spec = VariantSpec.model_validate(
        {
            "description": "says hello",
            "owners": ["ann@acme.example"],
            "base_model": {"source": "models/x"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "evaluation": {"general": ["arc_easy"]},
        }
    )
    content = {"variant": variant, "spec": spec.model_dump(mode="json"), "sources": [], "tasks": {}}
    prefix = f"tenants/{variant.replace('.', '/')}"
    recipe = Recipe("declaration", prefix, {}, {"content": content})
    made = make_artifact(store, work or Path(store.root) / "work", recipe, lambda attempt: {})
    write_head(store, prefix, made, None)
    return made


def adapter(number: int = 1, **config: Any) -> dict[str, Any]:
    """Payload files of an adapter export."""
    return {"adapter_config.json": {**LORA, **config}, "adapter_model.safetensors": {"number": number}}


def whole_model(folder: Path) -> dict[str, Any]:
    """Payload files of a merged export: those of a model folder."""
    return {file.name: file for file in sorted(folder.iterdir())}
