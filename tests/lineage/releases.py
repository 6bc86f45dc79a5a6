"""Made for tests of the release log: artifacts that were judged, and entries of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import ReleaseCandidate, ReleaseRequest, history, record_release
from ft_dagster.lineage.served import aliases
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.store import Artifact, Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.certificates import certificate
from tests.verdicts import stored_rule

PREFIX = "tenants/acme/support"
WEIGHTS, GATES = "a" * 64, "b" * 64
VERDICT = Verdict.from_json({"passed": True, "rules": [stored_rule()]})
BROKEN = Verdict.from_json({"passed": False, "rules": [stored_rule(passed=False, sentence="it fell")]})


def weights(name: str) -> str:
    """The digest of the weights with this name."""
    return hashlib.sha256(name.encode()).hexdigest()


def artifact(store: Store, stage: str, content: str, inputs: dict[str, str]) -> Artifact:
    """A committed artifact with one payload file."""

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "file").write_text(content, "utf-8")
        (attempt.evidence / "certificate.json").write_text(json.dumps({"of": content}), "utf-8")
        return {}

    work = Path(tempfile.mkdtemp())
    try:
        return make_artifact(store, work, Recipe(stage, PREFIX, inputs, {"content": content}), build)
    finally:
        shutil.rmtree(work)


def sha256_of(store: Store, of: Artifact) -> str:
    """Of the artifact's manifest as it lies in the store."""
    return hashlib.sha256(store.read(of.place.manifest)).hexdigest()


def judged(store: Store, content: str = "export", weights: str | None = None) -> ReleaseCandidate:
    """A candidate that holds; by weights of its own unless they are given."""
    weights = weights or hashlib.sha256(content.encode()).hexdigest()
    evaluation = artifact(
        store, "evaluation", f"scores of {content}", {"fine_tuned_model": weights, "gates": GATES}
    )
    inputs = {"fine_tuned_model": weights, "evaluation": evaluation.digest}
    export = artifact(store, "model_export", content, inputs)
    return ReleaseCandidate(export, evaluation, VERDICT, GATES, certificate(export.digest, weights))


def put(store: Store, candidate: ReleaseCandidate, *, run_id: str = "run-1", **request: Any) -> ReleaseEntry:
    asked = ReleaseRequest(**{"reason": "materialized", "by": "ann", **request})
    return record_release(store, PREFIX, candidate, asked, variant="acme.support", run_id=run_id)


def why(reason: str, by: str | None = None, approvers: tuple[str, ...] = ()) -> ReleaseRequest:
    return ReleaseRequest(reason, by, approvers)


def with_inputs(old: Artifact, **inputs: str) -> Artifact:
    return replace(old, predicate={**old.predicate, "inputs": {**old.inputs, **inputs}})


def released(store: Store, *contents: str, **more: Any) -> list[ReleaseEntry]:
    return [put(store, judged(store, content), **more) for content in contents]


def served(store: Store) -> int | None:
    return aliases(history(store, PREFIX))["production"]
