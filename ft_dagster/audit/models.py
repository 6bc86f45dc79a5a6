"""Traces from a model back to all that made it: sources, mixture, base, parents, recipe, code, evaluation,
releases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from ft_dagster.audit.answers import AtAnswer, Compute, DiffAnswer, ModelAnswer, PartOf, SourceOf
from ft_dagster.audit.audit import TO_PARENT, Audit, declared_sources
from ft_dagster.audit.figures import read
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.index.moments import moment_of
from ft_dagster.audit.records import descendants
from ft_dagster.audit.signed import signed_words
from ft_dagster.audit.trained import (
    forms_of,
    identities_now,
    in_part,
    mixtures_of,
    naming_of,
    records_as_known,
    records_of,
    training_records,
)
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ROLLBACK, ReleaseEntry
from ft_dagster.lineage.graph import ancestors, exports_of, missing
from ft_dagster.lineage.log import read_log
from ft_dagster.models.base_record import BaseRecord
from ft_dagster.spec.keys import VariantKey
from ft_dagster.stage_entries import (
    BASE_MODEL,
    BASE_TEXT,
    DECLARATION,
    ENTRIES,
    EVALUATION,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages.judging.export_lineage import source_files
from ft_dagster.store import Artifact
from ft_dagster.store.artifacts import Removed

THIRD = 1 / 3  # of what a base took: more makes a provider of who trained on it
MADE_WEIGHTS = (TRAINING_MIXTURE, TRAINING_PLAN, BASE_MODEL)
FIRST = 5  # records of a difference that are shown


@dataclass(frozen=True)
class _Chain:
    """Holds the artifacts of one model by stage, of its own variant or shared; those that are gone are
    None.
    """

    model: Indexed
    parts: Mapping[str, Artifact | None]

    def figures(self, stage: str) -> Mapping[str, Any]:
        found = self.parts.get(stage)
        return {} if found is None else found.figures


def model(audit: Audit, name: str) -> ModelAnswer:
    """Return the whole tree of a model; see `Audit.model` for `name`. Raises UserError for one that is not
    known.
    """
    return model_answer(audit, audit.model(name))


def model_answer(audit: Audit, weights: Indexed) -> ModelAnswer:
    chain = _chain(audit, weights)
    tuned = read(audit, weights)
    exports = audit.index.made_of(weights, MODEL_EXPORT.name)
    base = chain.parts[BASE_MODEL.name]
    entries = audit.log.get(weights.place.prefix, [])
    versions = {entry.version for entry in entries if entry.weights == weights.digest}
    parent = None if base is None else _parent(audit, weights, base)
    unmixed = audit.index.parent(weights, TRAINING_MIXTURE.name) is None
    parts, perhaps = (0, 0) if unmixed else in_part(audit, weights)
    children = (f"{child.variant} {child.digest}" for child, _ in descendants(audit, weights))
    return ModelAnswer(
        variant=weights.variant or "",
        weights=weights.digest,
        created=weights.created,
        exports=tuple(dict.fromkeys(export.digest for export in exports)),
        releases=tuple(entry.to_json() for entry in entries if entry.version in versions),
        parts=tuple(_parts(audit, [weights, *exports])),
        sources=_sources(audit, chain),
        mixture=_mixture(chain),
        base=_base(audit, base),
        parent=parent,
        recipe={name: chain.figures(TRAINING_PLAN.name).get(name) for name in ("method", "training", "on")},
        training=tuned.figures,
        evaluation=_evaluation(audit, exports),
        environment=tuned.predicate["environment"],
        compute=_compute(audit, weights),
        children=tuple(dict.fromkeys(children)),
        unread=_unread(audit, weights),
        in_part=parts,
        perhaps_in_part=perhaps,
        signed=signed_words(audit, [*ancestors(audit.index, [weights, *exports])]),
    )


def _unread(audit: Audit, weights: Indexed) -> tuple[str, ...]:
    """Return the equal mixtures of which the rows cannot be told."""
    known = audit.index.parent(weights, TRAINING_MIXTURE.name) is not None
    return tuple(mixtures_of(audit, weights)[1]) if known else ()


def _parts(audit: Audit, starts: list[Indexed]) -> Iterator[PartOf]:
    """Yield the artifacts and all that they were made of, in the order of the graph; what is gone among
    them.
    """
    found: dict[tuple[str, str], PartOf] = {}
    for part in ancestors(audit.index, starts):
        said = audit.said(part)
        code = audit.artifact(part).predicate["code"]["sha256"]
        found[part.place.stage, f"{part.place.path} {part.generation}"] = PartOf(
            part.place.stage, part.digest, part.variant, part.created, code,
            removed=said.at if isinstance(said, Removed) else "",
        )  # fmt: skip
        for stage, one in missing(audit.index, part).items():
            found[stage, one.digest] = PartOf(stage, one.digest, gone=True)
    ranks = {stage: at for at, stage in enumerate(ENTRIES)}
    yield from sorted(found.values(), key=lambda part: (ranks.get(part.stage, 99), part.created, part.digest))


def at(audit: Audit, variant: str, date: str, *, now: datetime | None = None) -> AtAnswer:
    """Say what a variant had in production at a date (its end) or a moment, by its release log alone.

    Raises UserError, also for what begins after `now`, which nobody knows.
    """
    moment, note = moment_of(date, now or datetime.now(UTC))
    prefix = _prefix(audit, variant)
    log = read_log(audit.store, prefix).entries
    entries = [entry for entry in log if entry.at <= moment]
    serving = entries[-1].production if entries else None
    if serving is None:
        problem = f"nothing of {variant} was in production then; {_since(log, entries)}"
        raise UserError(problem, value=date, fix="Name another date; `ft-dagster history` shows the log")
    entry = next(e for e in entries if e.action == RELEASE and e.version == serving)
    fix = "Restore the store from a backup"
    exports = exports_of(audit.index.of_stage(MODEL_EXPORT.name, prefix), entry)
    if not exports:
        raise UserError(f"the export of version {serving} of {variant} is gone", value=entry.export, fix=fix)
    weights = audit.index.parent(exports[-1], FINE_TUNED_MODEL.name)
    if weights is None:
        problem = f"the weights of version {serving} of {variant} are gone"
        raise UserError(problem, value=entry.weights, fix=fix)
    records = len(records_of(audit, weights))
    return AtAnswer(variant, moment, entry.to_json(), model_answer(audit, weights), records, note)


def _since(log: Sequence[ReleaseEntry], before: Sequence[ReleaseEntry]) -> str:
    """Say why nothing was in production after the entries `before`, the first ones of a log."""
    if not log:
        return "it was never released"
    if not before:
        return f"its first release was at {log[0].at}"
    last = before[-1]
    if last.action == ROLLBACK:
        return f"version {last.version} was taken out of it at {last.at}"
    return f"version {last.version} waited for approval"


def diff(audit: Audit, a: str, b: str) -> DiffAnswer:
    """Say what explains that model `b` behaves otherwise than `a`. Raises UserError."""
    one, other = audit.model(a), audit.model(b)
    alike = len(forms_of(audit, one, other)) < 2 and len(naming_of(audit, one, other)) == 1
    known = records_as_known if alike else identities_now
    before, after = (known(audit, model) for model in (one, other))
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    first, second = (_flat(_settings(audit, each)) for each in (one, other))
    names = sorted({*first, *second})
    examples = {
        "added": tuple(_some(audit, other, {after[each] for each in added})),
        "removed": tuple(_some(audit, one, {before[each] for each in removed})),
    }
    return DiffAnswer(
        one.digest, other.digest, len(added), len(removed), len(before.keys() & after.keys()), examples,
        {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)},
        (*_unread(audit, one), *_unread(audit, other)),
    )  # fmt: skip


def _some(audit: Audit, weights: Indexed, identities: set[bytes]) -> Iterator[Mapping[str, Any]]:
    wanted = {identity.hex() for identity in identities}
    found = (one for one in training_records(audit, weights) if one.identity in wanted or one.known in wanted)
    return ({"identity": one.identity, **one.facts} for one in islice(found, FIRST))


def _settings(audit: Audit, weights: Indexed) -> dict[str, object]:
    """Return all that shaped a model beside its records."""
    chain = _chain(audit, weights)
    tuned = read(audit, weights)
    exports = audit.index.made_of(weights, MODEL_EXPORT.name)
    plan = chain.figures(TRAINING_PLAN.name)
    data = {stage: chain.parts[stage] for stage in (TASK_DATASET.name, TRAINING_MIXTURE.name)}
    shown = ("steps", "epochs", "validation_loss_best", "general_holdout_loss_last", "trained_tokens")
    return {
        "base": _base(audit, chain.parts[BASE_MODEL.name]),
        "declared": {stage: part.spec for stage, part in data.items() if part is not None},
        "plan": {name: plan.get(name) for name in ("method", "training", "on", "ranks")},
        "code": tuned.predicate["code"]["sha256"],
        "environment": tuned.predicate["environment"],
        "training": {name: tuned.figures.get(name) for name in shown},
        "evaluation": _outcome(_evaluation(audit, exports)),
    }


def _outcome(evaluation: Mapping[str, Any]) -> dict[str, object]:
    """Return what a verdict came to, by which policy, and the measured figure of each of its rules."""
    verdict = evaluation.get("verdict") or {}
    measured = {rule["what"]: rule.get("tuned") for rule in verdict.get("rules", ()) if "what" in rule}
    said = {name: verdict.get(name) for name in ("passed", "policy")}
    return {**said, "questions": evaluation.get("questions"), **measured}


def _flat(tree: Any, name: str = "") -> dict[str, object]:
    if not isinstance(tree, Mapping) or not tree:
        return {name: tree}
    flat: dict[str, object] = {}
    for part, value in tree.items():
        flat |= _flat(value, f"{name}.{part}" if name else str(part))
    return flat


def _chain(audit: Audit, weights: Indexed) -> _Chain:
    found = {stage.name: audit.index.parent(weights, stage.name) for stage in MADE_WEIGHTS}
    for stage in (TASK_DATASET, GENERAL_CORPUS):
        found[stage.name] = audit.index.parent(weights, TRAINING_MIXTURE.name, stage.name)
    parts = {stage: None if part is None else read(audit, part) for stage, part in found.items()}
    return _Chain(weights, parts)


def _sources(audit: Audit, chain: _Chain) -> tuple[SourceOf, ...]:
    found = []
    dataset, corpus = chain.parts[TASK_DATASET.name], chain.parts[GENERAL_CORPUS.name]
    if dataset is not None:
        known = source_files(declarations(audit, dataset.place.prefix), dataset.inputs.get("sources", ""))
        prints = [files for _, files in next(known, [])]
        for at, source in enumerate(declared_sources(dataset)):
            files = tuple(prints[at]) if at < len(prints) else ()
            rows, path = dataset.figures["sources"], str(source["path"])
            found.append(SourceOf(path, files, rows.get(path, {})))
    if corpus is not None and corpus.place.stage == BASE_TEXT.name:
        named = chain.figures(TRAINING_MIXTURE.name)["splits"]["train"]["by_source"]
        sampled = next((name for name in named if name.startswith(GENERAL)), GENERAL)
        found.append(SourceOf(sampled, (), {"kept": int(corpus.figures.get("texts", 0))}))
    elif corpus is not None:
        for at, source in enumerate(corpus.spec["corpus"]["sources"]):
            kept = corpus.figures["sources"].get(source["path"], 0)
            files = tuple(corpus.spec["sources"][at])
            found.append(SourceOf(f"{GENERAL}{source['path']}", files, {"kept": kept}))
    return tuple(found)


def declarations(audit: Audit, prefix: str) -> Iterator[Mapping[str, Any]]:
    """Yield what the declaration.json of each declaration of a variant says, where it is there."""
    for each in audit.index.of_stage(DECLARATION.name, prefix):
        file = audit.stored.left(audit.artifact(each), "payload/declaration.json")
        if file is not None:
            yield json.loads(file.read_text("utf-8"))


def _mixture(chain: _Chain) -> Mapping[str, Any]:
    figures = chain.figures(TRAINING_MIXTURE.name)
    if not figures:
        return {}
    train, dataset = figures["splits"]["train"], chain.parts[TASK_DATASET.name]
    sources = [] if dataset is None else declared_sources(dataset)
    paths = {f"data.sources[{at}]": source["path"] for at, source in enumerate(sources)}
    by_source = train["by_source"]
    return {
        "trained_tokens": train["trained_tokens"],
        "by_source": {paths.get(name, name): part["trained_tokens"] for name, part in by_source.items()},
        "general_share": figures["general_share"],
        "dropped": figures["dropped"],
        "seed": figures["seed"],
        "records": figures.get("records"),
    }


def _base(audit: Audit, base: Artifact | None) -> Mapping[str, Any]:
    if base is None:
        return {}
    file = audit.stored.left(base, "payload/base.json")
    record = None if file is None else BaseRecord.parse(file.read_bytes(), file)
    names = ("reference", "revision", "architecture", "parameters")
    said = {name: getattr(record, name, None) for name in names}
    return {**said, "digest": base.digest, "files": 0 if record is None else len(record.files)}


def _compute(audit: Audit, weights: Indexed) -> Compute:
    """Count the FLOPs of the training and of those that it starts from, beside what the base under all of
    them took.
    """
    trained = [weights, *(parent for parent, _ in audit.above(weights))]
    bases = [audit.index.parent(each, BASE_MODEL.name) for each in trained]
    lowest = None if bases[-1] is None else read(audit, bases[-1])
    figures = [read(audit, each).figures for each in trained]
    counted = [each.get("flops") or each.get("flops_estimate") for each in figures]
    base = {} if lowest is None else _base(audit, lowest)
    reference, revision = base.get("reference"), base.get("revision")
    if lowest is None or lowest.figures.get("parent") or not reference:  # of a release that is gone
        return Compute(counted[0])
    name = f"{reference}@{revision}" if revision else str(reference)
    known = audit.settings.base_training_flops
    took = known.get(name, known.get(str(reference)))
    flops = [float(each) for each in counted if each]
    whole = sum(flops) if len(flops) == len(counted) else None
    share = None if took is None or whole is None else whole / took
    return Compute(counted[0], whole, name, took, share, None if share is None else share > THIRD)


def _parent(audit: Audit, child: Indexed, base: Artifact) -> Mapping[str, Any] | None:
    """Return the release that the base of a model starts from, and whether its weights are still there."""
    used = base.figures.get("parent")
    if not used:
        return None
    weights = audit.index.parent(child, *TO_PARENT)
    said = None if weights is None else audit.said(weights)
    removed = said.at if isinstance(said, Removed) else None
    named = {name: used[name] for name in ("variant", "version", "mode")}
    digest = base.inputs.get(FINE_TUNED_MODEL.name, "")
    return {**named, "weights": digest, "gone": weights is None, "removed": removed}


def _evaluation(audit: Audit, exports: list[Indexed]) -> Mapping[str, Any]:
    """Return the verdict that the newest export was made by."""
    for export in reversed(exports):
        judged = audit.index.parent(export, EVALUATION.name)
        if judged is not None:
            found = read(audit, judged)
            return {"digest": found.digest, "questions": found.figures.get("questions"),
                    "verdict": found.figures.get("verdict")}  # fmt: skip
    return {}


def _prefix(audit: Audit, variant: str) -> str:
    key = VariantKey.parse(variant)
    if audit.tenant not in (None, key.tenant):
        fix = f"Name one of {audit.tenant}"
        raise UserError("no variant that may be asked about", value=variant, fix=fix)
    return key.prefix
