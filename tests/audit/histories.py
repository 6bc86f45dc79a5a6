"""Stores with histories: data sets, mixtures, trainings, releases and children, made without a training.

Data sets and corpora are built by the project's own code from real files; a mixture has one example a row, of
three tokens, the last by its first four words; a model is a file and a ledger.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import pyarrow as pa
from pyarrow import parquet

from ft_dagster.audit.audit import Audit, open_audit
from ft_dagster.data.mixture.cuts import Cut, write_cuts
from ft_dagster.data.mixture.mixture_figures import GENERAL, GeneralShare, MixtureFigures
from ft_dagster.data.mixture.shards import SplitWriter
from ft_dagster.data.rows.corpus import build_general_corpus, write_written_origins
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.sources.fingerprint import fingerprint_sources
from ft_dagster.evaluation.sampled import write_parts
from ft_dagster.gate.samples import Answer, Sample, write_answers, write_samples
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import ReleaseCandidate, ReleaseRequest, record_release
from ft_dagster.lineage.tries import record_try, try_of
from ft_dagster.objectives import Rendered
from ft_dagster.provenance.digest import hash_folder, payload_digest, sha256_json
from ft_dagster.records.mixture_records import write_mixture_records
from ft_dagster.records.record_keys import SHARED_OWNER, EvidenceKeys, keys_of
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.records.sealed_rows import bind_records
from ft_dagster.records.tree_growth import grow_tree
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec.variant import CorpusSpec, VariantSpec
from ft_dagster.stages.chain import CHAIN
from ft_dagster.store import SHARED, Artifact, Attempt, Store, write_head
from ft_dagster.store.contents import contents_of
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.removal import DAY, claim_removal, finish_removal
from ft_dagster.strict_json import dumps
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.retrain.resume_points import FOLDER
from ft_dagster.workspace.corpora import prefix_of_corpus
from tests.certificates import certificate
from tests.releases import VERDICT

GATES = "b" * 64
WITH_HEADS = {"general_corpus", *(each.name for each in CHAIN)}
SPLITS = {"validation": 0.2, "test": 0.2, "minimum": 1}


def this_moment() -> str:
    """As `audit at` takes it."""
    return datetime.now(UTC).isoformat()


@dataclass
class History:
    """A project folder and its store. `kept`: what evidence is made: trees, as now; trees beside files that
    have identities; rows without trees; none.
    """

    folder: Path
    kept: Literal["trees", "identities", "rows", "none"] = "trees"

    def __post_init__(self) -> None:
        (self.folder / "tenants").mkdir(parents=True, exist_ok=True)

    @property
    def settings(self) -> Settings:
        return load_settings(self.folder)

    @property
    def store(self) -> Store:
        return self.settings.open_store()

    def audit(self, **options: Any) -> Audit:
        return open_audit(self.settings, **options)

    def base(self, name: str = "models/x", revision: str | None = None) -> Artifact:
        return self._put("base_model", "shared", {"base.json": {"reference": name, "revision": revision}}, {})

    def corpus(
        self, texts: Sequence[str | Mapping[str, Any]], name: str = "general", **source: Any
    ) -> Artifact:
        """Of texts, or of rows that `source` says how to read."""
        self._write(f"{name}.jsonl", [{"text": text} if isinstance(text, str) else text for text in texts])
        declared = {"path": f"{name}.jsonl", **source}
        spec = CorpusSpec.model_validate({"description": "x", "sources": [declared], "holdout": 0.2})
        prints: list[Any] = [[{"path": f"{name}.jsonl", "size": 1, "sha256": "c" * 64}]]

        def build(attempt: Attempt) -> dict[str, Any]:
            figures = build_general_corpus(
                name, spec, self.folder, attempt.payload, evidence=attempt.evidence
            )
            return {**figures, **self._tree(attempt, SHARED_OWNER)}

        parts = {"corpus": spec.model_dump(mode="json"), "sources": prints, "texts": sha256_json(list(texts))}
        return self._make(Recipe("general_corpus", prefix_of_corpus(name), spec=parts), build)

    def base_text(self, base: Artifact) -> Artifact:
        """Text that a base wrote, in place of a corpus."""

        def build(attempt: Attempt) -> dict[str, Any]:
            write_parts([f"The base wrote text {n}." for n in range(40)], attempt.payload, 40)
            write_written_origins(attempt.payload, attempt.evidence)
            return {"texts": 40, **self._tree(attempt, SHARED_OWNER)}

        manifests = {"base_model": base.manifest}
        recipe = Recipe(
            "base_text", "shared", {"base_model": base.digest}, {"documents": 40}, manifests=manifests
        )
        return self._make(recipe, build)

    def dataset(self, variant: str, rows: Sequence[Mapping[str, Any]], **data: Any) -> Artifact:
        self._write("rows.jsonl", rows)
        content = {"description": "x", "owners": ["me"], "base_model": "base"}
        declared = {"sources": ["rows.jsonl"], "splits": SPLITS, **data}
        spec = VariantSpec.model_validate({**content, "data": declared})

        def build(attempt: Attempt) -> dict[str, Any]:
            figures = build_task_dataset(spec, self.folder, [], attempt.payload, evidence=attempt.evidence)
            return {**figures, **self._tree(attempt, variant.split(".", maxsplit=1)[0])}

        sources = spec.model_dump(mode="json")["data"]["sources"]
        parts = {"spec": {"data": {"sources": sources}}, "rows": sha256_json(list(rows))}
        return self._make(Recipe("task_dataset", _prefix(variant), {"sources": "5" * 64}, parts), build)

    def mixture(
        self,
        variant: str,
        dataset: Artifact,
        corpus: Artifact | None = None,
        general: int = 5,
        held: Sequence[Row] = (),
        *,
        cuts: Sequence[Cut] = (),
        tells: bool = True,
    ) -> Artifact:
        """Every row of the data set's splits, and the first documents of the corpus. `held`: documents that
        it has for the gate, each in `pieces`. `cuts`: of rows that it has in part or left out, which it tells
        unless it is older than that.
        """
        inputs = {"task_dataset": dataset, **({"general_corpus": corpus} if corpus else {})}

        def build(attempt: Attempt) -> dict[str, Any]:
            documents = general if corpus else 0
            figures = _write_mixture(self._payload(dataset), attempt.payload, documents, cuts)
            if tells:
                write_cuts(cuts, attempt.evidence)
            texts = [{"text": text, "group": row.likeness.hex()} for row in held for text in pieces(row)]
            if texts:
                (attempt.payload / "general_holdout").mkdir(exist_ok=True)
                file = attempt.payload / "general_holdout" / "texts.parquet"
                parquet.write_table(pa.Table.from_pylist(texts), file)
            if not self._has_trees:
                return figures.to_json()
            evidence = [None if each is None else self._evidence(each) for each in (dataset, corpus)]
            assert evidence[0] is not None
            assert write_mixture_records(attempt.payload, attempt.evidence, evidence[0], evidence[1])
            return {**figures.to_json(), **self._tree(attempt, variant.split(".", maxsplit=1)[0])}

        spec = {"general": general, "held": len(held), "cuts": [*map(list, cuts)], "tells": tells}
        return self._make(self._recipe("training_mixture", variant, inputs, spec), build)

    def model(  # noqa: PLR0913
        self,
        variant: str,
        mixture: Artifact,
        base: Artifact,
        *,
        seed: int = 0,
        times: int = 1,
        reached: int | None = None,
        ledger: Callable[[dict[str, Any]], str] = json.dumps,
        plan: Artifact | None = None,
        measured: str = "",
        wrote: Sequence[str] = (),
        steps: int = 1,
        points: Sequence[int] = (),
    ) -> Artifact:
        """Trained `times` times on each of the first `reached` examples (None: all). `measured`: on what the
        validation loss was. `wrote`: what it answered at a look of its training. `points`: of its `steps`,
        those after which a state is kept.
        """
        inputs = {"training_mixture": mixture, "base_model": base}
        inputs |= {} if plan is None else {"training_plan": plan}
        named = ledger_names(self._payload(mixture))
        counts = [times if reached is None or at < reached else 0 for at in range(len(named))]

        def build(attempt: Attempt) -> dict[str, Any]:
            (attempt.payload / "adapter_model.safetensors").write_text(
                f"weights {seed} {counts} {mixture.digest}"
            )
            said = {"mixture_digest": mixture.digest, "records": named, "times_exported": counts}
            (attempt.evidence / "ledger.json").write_text(ledger({**said, "schema_version": 1}), "utf-8")
            if wrote:
                lines = [{"step": 0, "loss": 1.0}, {"step": 8, "degeneration": {"answers": [*wrote]}}]
                log = "".join(f"{json.dumps(line)}\n" for line in lines)
                (attempt.evidence / "log.jsonl").write_text(log, "utf-8")
            for point in points:
                folder = attempt.evidence / FOLDER / f"checkpoint-{point}"
                folder.mkdir(parents=True)
                (folder / MANIFEST).write_text("{}", "utf-8")
            figures = {"measured_on": {"validation loss": measured}} if measured else {}
            return {"steps": steps, "flops": 10, **figures}

        return self._make(
            self._recipe("fine_tuned_model", variant, inputs, {"seed": seed, "times": counts}), build
        )

    def evaluated(
        self,
        variant: str,
        weights: Artifact,
        samples: Sequence[Sample],
        answers: Sequence[Answer],
        stage: str = "evaluation",
    ) -> Artifact:
        """An evaluation that asked these questions of the weights."""

        def build(attempt: Attempt) -> dict[str, Any]:
            write_samples(samples, attempt.payload)
            write_answers(answers, attempt.evidence)
            return {"questions": len(samples), "verdict": {"passed": True}}

        return self._make(self._recipe(stage, variant, {"fine_tuned_model": weights}, {}), build)

    def declared(self, variant: str, rows: Sequence[Mapping[str, Any]], kept: int) -> Artifact:
        """A model that has all that it takes to make it again. Its data set has the first `kept` rows of the
        declared file.
        """
        self._write("declared.jsonl", rows)
        data = {"sources": ["declared.jsonl"], "splits": SPLITS, "decontaminate": {"enabled": False}}
        spec = VariantSpec.model_validate(
            {"description": "x", "owners": ["me"], "base_model": "models/x", "data": data}
        )
        prints = fingerprint_sources(spec.data.sources, self.folder)
        plain = spec.model_dump(mode="json")
        frozen = {"spec": plain, "sources": prints, "tasks": {"task": {}, "general": {}}}
        self._put("declaration", _prefix(variant), {"declaration.json": frozen}, {})
        asked = {name: plain["data"][name] for name in ("sources", "splits", "deduplicate", "decontaminate")}

        def build(attempt: Attempt) -> dict[str, Any]:
            self._write("declared.jsonl", rows[:kept])
            figures = build_task_dataset(spec, self.folder, [], attempt.payload, evidence=attempt.evidence)
            self._write("declared.jsonl", rows)
            return {**figures, **self._tree(attempt, variant.split(".", maxsplit=1)[0])}

        digests = {"sources": sha256_json(prints)}
        dataset = self._make(
            Recipe("task_dataset", _prefix(variant), digests, {"spec": {"data": asked}}), build
        )
        mixture, base = self.mixture(variant, dataset), self.base()
        made_of = {"training_mixture": mixture, "base_model": base}
        plan = self._put("training_plan", _prefix(variant), {"plan.json": {}}, made_of, {"training": {}})
        return self.model(variant, mixture, base, plan=plan)

    def release(self, variant: str, weights: Artifact, base: Artifact) -> tuple[Artifact, ReleaseEntry]:
        """The export, and the entry of the log."""
        tuned = {"fine_tuned_model": weights}
        asked = [Sample("general", "sea", "acc", f"sea:0:{'5' * 32}", 1.0, 1.0, higher_is_better=True)]

        def build(attempt: Attempt) -> dict[str, Any]:
            write_samples(asked, attempt.payload)
            (attempt.payload / "scores.json").write_text(json.dumps(weights.digest), "utf-8")
            return {"questions": 1, "verdict": VERDICT.to_json()}

        made_of = {"fine_tuned_model": weights.digest, "gates": GATES}
        manifests = {"fine_tuned_model": weights.manifest}
        ordinal = 0
        for questions in ("8" * 64, "9" * 64):
            ordinal = try_of(self.store, _prefix(variant), weights.digest, questions)
            record_try(self.store, _prefix(variant), weights.digest, questions, ordinal)
        recipe = Recipe("evaluation", _prefix(variant), made_of, {"tries": ordinal}, manifests=manifests)
        evaluation = self._make(recipe, build)
        inputs = {**tuned, "evaluation": evaluation, "base_model": base}

        def certified(attempt: Attempt) -> None:
            speaks = certificate(payload_digest(hash_folder(attempt.payload)), weights.digest)
            (attempt.evidence / "certificate.json").write_text(json.dumps(speaks.to_json()), "utf-8")

        files = {"model.json": f"export of {weights.digest}"}
        export = self._put("model_export", _prefix(variant), files, inputs, evidence=certified)
        speaks = certificate(export.digest, weights.digest)
        candidate = ReleaseCandidate(export, evaluation, VERDICT, GATES, speaks)
        wish = ReleaseRequest("test", "ann")
        entry = record_release(self.store, _prefix(variant), candidate, wish, variant=variant, run_id=None)
        return export, entry

    def derived_base(
        self, variant: str, parent: str, export: Artifact, weights: Artifact, base: Artifact
    ) -> Artifact:
        """The base of a variant that starts from another's release."""
        inputs = {
            "model_export": export.digest,
            "fine_tuned_model": weights.digest,
            "base_model": base.digest,
        }
        figures = {"parent": {"variant": parent, "version": 1, "mode": "stack"}}
        manifests = {"model_export": export.manifest, "base_model": base.manifest}
        recipe = Recipe("base_model", _prefix(variant), inputs, manifests=manifests)

        def build(attempt: Attempt) -> dict[str, Any]:
            content = {"reference": parent, "revision": None, "of": weights.digest}
            (attempt.payload / "base.json").write_text(json.dumps(content), "utf-8")
            return figures

        return self._make(recipe, build)

    def remove(self, *stages: str) -> list[Artifact]:
        """What stands of these stages, as retention does it."""
        return self._remove(lambda one: one.place.stage in stages)

    def retire(self, variant: str) -> list[Artifact]:
        """All that stands of a variant, as retention does it once it is retired."""
        return self._remove(lambda one: one.place.prefix == _prefix(variant))

    def _remove(self, chosen: Callable[[Artifact], bool]) -> list[Artifact]:
        store = self.store
        standing = [each.artifact for each in contents_of(store).keyed.values() if each.artifact is not None]
        removed = [one for one in standing if chosen(one)]
        for one in removed:
            assert claim_removal(store, one, "retention", time.time() + DAY)
            finish_removal(store, one)
        return removed

    def _put(
        self,
        stage: str,
        prefix: str,
        files: Mapping[str, Any],
        inputs: Mapping[str, Artifact],
        figures: Mapping[str, Any] | None = None,
        *,
        evidence: Callable[[Attempt], None] = lambda attempt: None,
        **digests: str,
    ) -> Artifact:
        def build(attempt: Attempt) -> dict[str, Any]:
            for name, content in files.items():
                (attempt.payload / name).write_text(json.dumps(content), "utf-8")
            evidence(attempt)
            return dict(figures or {})

        named = {**{name: each.digest for name, each in inputs.items()}, **digests}
        manifests = {name: each.manifest for name, each in inputs.items()}
        recipe = Recipe(stage, prefix, named, {"files": dict(files)}, manifests=manifests)
        return self._make(recipe, build)

    def _recipe(
        self, stage: str, variant: str, inputs: Mapping[str, Artifact], spec: dict[str, Any]
    ) -> Recipe:
        digests = {name: each.digest for name, each in inputs.items()}
        manifests = {name: each.manifest for name, each in inputs.items()} if self._has_trees else {}
        return Recipe(stage, _prefix(variant), digests, spec, manifests=manifests)

    def _make(self, recipe: Recipe, build: Any) -> Artifact:
        """With its head, as a run leaves it."""
        made = make_artifact(self.store, self.settings.work_folder, recipe, build)
        if made.place.prefix != SHARED and made.place.stage in WITH_HEADS:
            write_head(self.store, made.place.prefix, made, None)
        return made

    def _tree(self, attempt: Attempt, owner: str) -> dict[str, Any]:
        for file in attempt.evidence.iterdir() if self.kept == "none" else ():
            file.unlink()
        if not self._has_trees:
            return {}
        own, shared = (keys_of(self.settings.keys_folder, name).current for name in (owner, SHARED_OWNER))
        if self.kept == "identities":
            return {FIGURES: grow_tree(attempt.evidence, own).to_json()}
        return {FIGURES: bind_records(attempt.evidence, EvidenceKeys(own, shared)).to_json()}

    @property
    def _has_trees(self) -> bool:
        return self.kept in ("trees", "identities")

    def _payload(self, artifact: Artifact) -> Path:
        return artifact.folder(self.store, self.settings.cache_folder) / "payload"

    def _evidence(self, artifact: Artifact) -> Path:
        return artifact.folder(self.store, self.settings.cache_folder) / "evidence"

    def _write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        (self.folder / name).write_text("".join(dumps(row) + "\n" for row in rows), "utf-8")


def pieces(document: Row) -> tuple[str, str]:
    """Both halves of its words."""
    words = document.text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def ledger_names(mixture: Path) -> list[str]:
    """What the ledger of a training calls its examples."""
    table = parquet.read_table(
        mixture / "train" / "shard-00000.parquet", columns=["source", "row"]
    ).to_pylist()
    return [f"{one['source']}:{one['row']}" for one in table]


def question(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"What is item {number}?", "completion": f"Item {number} is a thing.", **more}


def _prefix(variant: str) -> str:
    return f"tenants/{variant.replace('.', '/')}"


def _write_mixture(dataset: Path, out: Path, general: int, cuts: Sequence[Cut] = ()) -> MixtureFigures:
    splits, cut = {}, {(one.split, one.row): one for one in cuts}
    for split in ("train", "validation"):
        writer = SplitWriter(out, split)
        for number, row in enumerate(read_split(dataset / f"{split}.parquet")):
            token, its = crc32(" ".join(row.words[:4]).encode()) % 30_000, cut.get((split, number))
            if its is None or not its.left_out:
                writer.add(Rendered([0, 1, token], ((1, 3),), truncated=its is not None), row.source, number)
        for number in range(general if split == "train" else 0):
            writer.add(Rendered([0, 1, 2], ((1, 3),), truncated=False), f"{GENERAL}general", number)
        splits[split] = writer.close()
    splits["general_holdout"] = SplitWriter(out, "general_holdout").close()
    dropped = dict(Counter(one.reason for one in cuts if one.left_out))
    figures = MixtureFigures("t", 3, 0, "as they are", splits, GeneralShare(0.0, 0.0), 3, dropped)
    (out / "mixture.json").write_text(dumps(figures.file_json()), "utf-8")
    return figures
