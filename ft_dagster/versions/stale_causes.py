"""What of a version would be made otherwise now: the declaration, its tasks, corpus, parent and policy, and
the versions of the stages, each held against what the manifests say that it was made from.

No key is computed and no file of an artifact is read: a key covers values that its manifest lists, and
those that a declaration moves are compared one by one. What lies at sources and bases is listed elsewhere
(`fleet.watching`). Another host is no cause, nor another library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from ft_dagster.gate.answer_scores import find_database
from ft_dagster.lineage.stale import StaleCause, field_changed, stage_raised
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.models.derived import added_tokens, parents_moved
from ft_dagster.planning.probe import leaves_open
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.hash_cache import cached_sha256
from ft_dagster.schema_version import STORED
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantSpec
from ft_dagster.spec.narrow import shown_value
from ft_dagster.spec.policy import Breach
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    DECLARATION,
    EVALUATION,
    EVALUATION_TEXTS,
    GENERAL_CORPUS,
    GENERAL_SCORES,
    MODEL_EXPORT,
    PROBE,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
    version_of,
)
from ft_dagster.stages.declaration import content_of
from ft_dagster.stages.made_of import PARTS, frozen_declarations
from ft_dagster.store import SHARED, Artifact, Store
from ft_dagster.training.batches.apart import known_leak
from ft_dagster.versions.made_from import VersionArtifacts
from ft_dagster.workspace.plan_fields import RANKED, ranked_by
from ft_dagster.workspace.questions import chat_of
from ft_dagster.workspace.rendered_prompts import known_traits, rendered_otherwise
from ft_dagster.workspace.stage_version import former_input, is_of_now
from ft_dagster.workspace.workspace import Workspace

NODES = "resources.nodes"  # in no key: a plan's has the ranks of all of them
ASKED_AFTER = (  # what is asked by the rules of a chat that the one before it says
    (GENERAL_SCORES.name, BASE_EVALUATION.name),
    (BASE_EVALUATION.name, EVALUATION.name),
    (BASE_EVALUATION.name, MODEL_EXPORT.name),
)
TASK_PARTS = {"task": "task.tasks", "general": "general.tasks"}  # of a key: digests of the declared tasks


class CorpusNow(NamedTuple):
    """A general corpus. `digest`: of its newest artifact; `causes`: why that is out of date itself."""

    digest: str | None
    causes: tuple[StaleCause, ...] = ()


@dataclass(frozen=True)
class FoundNow:
    """What a run would find beside the declaration. `tasks`: digests by entry, by role; None where one cannot
    be read, and `wrong` says why. `breaches`: of the policy. `corpus`: the one that is declared.
    """

    tasks: Mapping[str, Mapping[str, str]] | None
    breaches: tuple[Breach, ...] = ()
    corpus: CorpusNow | None = None
    wrong: tuple[StaleCause, ...] = ()


def outdated(
    settings: Settings, declared: Declared, version: VersionArtifacts, now: FoundNow
) -> tuple[StaleCause, ...]:
    """The root causes, each once: the platform's first, then from the declaration on down the chain. None
    where nothing was made yet. Raises UserError for a store that cannot be read.
    """
    made, spec, store = version.artifacts, declared.spec, settings.open_store()
    if not made:
        return ()
    fields = list(_fields(settings, declared, version))
    changed = [field_changed(field, _then(made, field), _at(_content_of(spec), field)) for field in fields]
    found = [*map(_breached, now.breaches), *now.wrong, *changed, *_raised(made.values())]
    if now.tasks is not None:
        found += _tasks(made, now.tasks, fields)
    if "data.general" not in " ".join(fields):
        found += _corpus(made, now.corpus, spec)
    if not any(field.startswith("data.sources") for field in fields):
        found += _sources(store, declared.key.prefix, version)
    if not any(field.startswith("base_model") for field in fields):
        found += _base(store, declared, version)
    found += _asked_with_added(store, made)
    found += _by_other_rules(made)
    found += _by_other_rendering(Workspace(settings, declared.key, looking=True), spec, made)
    found += _packed_though_it_leaks(made, settings.cache_folder)
    return tuple(dict.fromkeys(found))


def _breached(breach: Breach) -> StaleCause:
    return StaleCause("policy", breach.rule, f"the policy demands {breach.allowed} ({breach.field})")


def _raised(made: Iterable[Artifact]) -> Iterator[StaleCause]:
    for artifact in made:
        stage, former = artifact.place.stage, former_input(artifact)
        if former is not None:
            yield StaleCause(
                "stage", stage, f"{stage} was made from {former}, which nothing goes by any more"
            )
        elif not is_of_now(artifact):
            yield stage_raised(stage, int(artifact.predicate["stage_version"]), version_of(stage))


def _fields(settings: Settings, declared: Declared, version: VersionArtifacts) -> Iterator[str]:
    """The declared fields that move a key of the version; those of a stage at another version stand for
    themselves there.
    """
    spec, made, named = declared.spec, version.artifacts, set[str]()
    for artifact in filter(is_of_now, made.values()):
        for part in PARTS:
            if isinstance(artifact.spec.get(part), dict):
                named |= set(_differences(artifact.spec[part], spec, partial(_then, made))) - {NODES}
        if artifact.place.stage == TRAINING_PLAN.name:
            named |= set(_planned(artifact, spec, version, named))
        if artifact.place.stage == EVALUATION.name and _database(settings, declared, artifact):
            named.add("evaluation.database")
    yield from sorted({*named, *_of_base(made.get(BASE_MODEL.name), spec)})


def _then(made: Mapping[str, Artifact], field: str) -> Any:
    """The value of a field as a key of the version has it; None where none has."""
    parts = (artifact.spec.get(part) for artifact in filter(is_of_now, made.values()) for part in PARTS)
    return next((value for part in parts if (value := _at(part, field)) is not None), None)


def _differences(then: Any, now: Any, said: Callable[[str], Any], path: str = "") -> Iterator[str]:
    """The fields below `path` that a key has otherwise; what it does not have is in another part. `said`: the
    value of a field in any key, None where it is in none.
    """
    if not (isinstance(then, dict) and isinstance(now, BaseModel)):
        if shown_value(now) != then:
            yield path
        return
    kind = type(now)
    for name, field in kind.model_fields.items():
        value, below = getattr(now, name), f"{path}.{name}".removeprefix(".")
        later = name in getattr(kind, "added", ())
        if name in then:
            yield from _differences(then[name], value, said, below)
        elif later and value != field.default and said(below) is None:
            yield below


def _planned(plan: Artifact, spec: VariantSpec, version: VersionArtifacts, named: set[str]) -> Iterator[str]:
    """Fields that a plan's key has by what follows from them."""
    yield from _other_ranks(plan, spec, version)
    if (PROBE.name in plan.inputs) != leaves_open(spec):
        yield "plan.probe"
    then, now = plan.inputs.get("ranked_by"), ranked_by(spec)
    if then is not None and now is not None and then != now and not any(map(_is_ranked, named)):
        yield from _ranked(version, spec)


def _other_ranks(plan: Artifact, spec: VariantSpec, version: VersionArtifacts) -> list[str]:
    """The fields by which a plan is for other ranks: a key has the number of all of them together. What
    changed since the newest run, or what says a node's.
    """
    own, hardware = spec.resources, plan.spec.get("hardware", {})
    by_kind = {"cpu": ("resources.cpu_ranks", own.cpu_ranks), "cuda": ("resources.gpus", own.gpus)}
    if hardware.get("kind") not in by_kind:
        return []
    field, ranks = by_kind[hardware["kind"]]
    if hardware["ranks"] == ranks * own.nodes:
        return []
    newest = version.heads.get(DECLARATION.name)
    then = {} if newest is None else _with_later_fields(content_of(newest)["spec"])
    now = _content_of(spec)
    return [each for each in (field, NODES) if then and _at(then, each) != _at(now, each)] or [field]


def _with_later_fields(declared: dict[str, Any]) -> dict[str, Any]:
    """A frozen declaration with the defaults of what could not be declared then, where it is still valid."""
    with suppress(ValidationError):
        return _content_of(VariantSpec.model_validate(declared, context=STORED))
    return declared


def _is_ranked(field: str) -> bool:
    return any(field == each or field.startswith(f"{each}.") for each in RANKED)


def _ranked(version: VersionArtifacts, spec: VariantSpec) -> Iterator[str]:
    """Of what `method: auto` chooses by: what changed since the newest run, or all of it; none where it is a
    default that changed with the version of the mixture, which is said by itself.
    """
    newest, mixture = version.heads[DECLARATION.name], version.artifacts.get(TRAINING_MIXTURE.name)
    then = {} if newest is None else _with_later_fields(content_of(newest)["spec"])
    changed = [field for field in RANKED if _at(then, field) != _at(_content_of(spec), field)]
    if changed or mixture is None or is_of_now(mixture):
        yield from changed or RANKED


def _content_of(spec: VariantSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def _at(tree: Any, field: str) -> Any:
    for name in field.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _database(settings: Settings, declared: Declared, evaluation: Artifact) -> bool:
    """Whether another database is asked than the one whose answers were judged."""
    then, path = evaluation.inputs.get("task.database"), declared.spec.evaluation.database
    if then is None or path is None:
        return then is not None or ("task.test" in evaluation.inputs and path is not None)
    file = find_database(path, settings.project, declared.file, settings.roots(declared.key.tenant))
    return cached_sha256(file, settings.cache_folder) != then


def _of_base(base: Artifact | None, spec: VariantSpec) -> Iterator[str]:
    """The fields of `base_model` that the record of a base is other by."""
    if base is None or not is_of_now(base):
        return
    declared, parent = spec.base_model, base.figures.get("parent") or {}
    if tuple(base.spec.get("new_tokens") or ()) != declared.new_tokens:
        yield "base_model.new_tokens"
    if parent.get("variant") != declared.variant:
        yield "base_model.variant" if declared.variant else "base_model.source"
    elif declared.variant is not None:
        if base.spec.get("mode") not in ("whole", declared.parent_adapter):
            yield "base_model.parent_adapter"
    else:
        yield from _of_source(base.spec, declared)


def _of_source(then: Mapping[str, Any], declared: Any) -> Iterator[str]:
    """A branch may have moved, which a listing tells; a commit says what it is."""
    record = then.get("base", {})
    commit = record.get("revision")
    if record.get("reference") != declared.source:
        yield "base_model.source"
    elif commit and declared.revision not in (None, commit) and len(declared.revision) == len(commit):
        yield "base_model.revision"
    if "keep" in then and then["keep"] != declared.keep:
        yield "base_model.keep"


def _tasks(
    made: Mapping[str, Artifact], now: Mapping[str, Mapping[str, str]], fields: Iterable[str]
) -> Iterator[StaleCause]:
    """Tasks whose files are others than those that were asked; a task that came or went is a field's."""
    then = dict[str, str]()
    for stage in (EVALUATION_TEXTS.name, GENERAL_SCORES.name, BASE_EVALUATION.name, EVALUATION.name):
        artifact = made.get(stage)
        if artifact is not None and is_of_now(artifact):
            then |= artifact.spec.get("tasks", {})
            for part in TASK_PARTS.values():
                then |= artifact.spec.get(part, {})
    for digests in now.values():
        for entry, digest in digests.items():
            if then.get(entry, digest) != digest:
                yield StaleCause("task", entry, f"the task {entry} is another")


def _corpus(made: Mapping[str, Artifact], now: CorpusNow | None, spec: VariantSpec) -> Iterator[StaleCause]:
    mixture, general = made.get(TRAINING_MIXTURE.name), spec.data.general
    if now is None or mixture is None or general is None or general.corpus is None:
        return
    yield from now.causes
    if now.digest is not None and mixture.inputs.get(GENERAL_CORPUS.name) != now.digest:
        yield StaleCause("corpus", general.corpus, f"the corpus {general.corpus} was made again")


def _sources(store: Store, prefix: str, version: VersionArtifacts) -> Iterator[StaleCause]:
    """Files that the newest run found otherwise than the run of the version did."""
    newest, then = version.heads[DECLARATION.name], version.sources_then
    if newest is None or then is None:
        return
    now = content_of(newest)["sources"]
    if sha256_json(now) != then:
        before = _frozen(store, prefix, then)
        yield from map(_source, dict.fromkeys(_other_files(before, now) if before else _names(now)))


def _source(name: str) -> StaleCause:
    return StaleCause("source", name, f"{name} changed")


def _frozen(store: Store, prefix: str, digest: str) -> list[Any] | None:
    """The fingerprints of that digest, of any declaration of the variant that was frozen."""
    frozen = (content["sources"] for content in frozen_declarations(store, prefix))
    return next((list(sources) for sources in frozen if sha256_json(sources) == digest), None)


def _other_files(then: Iterable[Any], now: Iterable[Any]) -> list[str]:
    before, after = ([entry for source in side for entry in source] for side in (then, now))
    return _names([[entry for entry in (*after, *before) if (entry in before) != (entry in after)]])


def _names(sources: Iterable[Any]) -> list[str]:
    return [str(entry.get("path", entry.get("repo"))) for source in sources for entry in source]


def _base(store: Store, declared: Declared, version: VersionArtifacts) -> Iterator[StaleCause]:
    """Another base than the version's: by its parent's release, or as the newest run found it."""
    base, newest = version.artifacts.get(BASE_MODEL.name), version.heads[BASE_MODEL.name]
    if base is None:
        return
    moved = list(parents_moved(store, declared.key, base))
    yield from moved
    if not moved and newest is not None and newest.digest != base.digest:
        what = str(declared.spec.base_model.source or declared.spec.base_model.variant)
        yield StaleCause("base", what, f"{what} is another")


def _asked_with_added(store: Store, made: Mapping[str, Artifact]) -> Iterator[StaleCause]:
    """The scores of a base that chose among tokens that were added to it, as older code had it do."""
    base, scores = made.get(BASE_MODEL.name), made.get(GENERAL_SCORES.name)
    if base is None or scores is None or base.place.prefix == SHARED or not is_of_now(scores):
        return
    if not scores.spec.get("withheld") and added_tokens(store, base):
        problem = "general questions were asked of the base with the tokens that were added to it"
        yield StaleCause("stage", GENERAL_SCORES.name, problem)


def _packed_though_it_leaks(made: Mapping[str, Artifact], cache: Path) -> Iterator[StaleCause]:
    """A plan of older code that packs examples which reach each other in its base: of a named source, where
    this host has measured it.
    """
    base, plan = made.get(BASE_MODEL.name), made.get(TRAINING_PLAN.name)
    if base is None or plan is None or not plan.figures["training"]["packing"] or plan.spec.get("leaks"):
        return
    files = base.spec.get("base", {}).get("files", ())
    config = next((file["sha256"] for file in files if file["path"] == CONFIG), None)
    if config is not None and known_leak(config, cache) is not None:
        yield StaleCause(
            "stage", TRAINING_PLAN.name, "its examples were packed, and reach each other in this base"
        )


def _by_other_rules(made: Mapping[str, Artifact]) -> Iterator[StaleCause]:
    """Answers to a chat by other rules than the base's scores of today say, where those came out the same."""
    for before, stage in ASKED_AFTER:
        scores, asked = made.get(before), made.get(stage)
        if scores is None or asked is None or not (is_of_now(scores) and is_of_now(asked)):
            continue
        if asked.spec.get("chat") != chat_of(scores):
            yield StaleCause("stage", stage, f"{stage} was answered by other rules of a chat")


def _by_other_rendering(
    workspace: Workspace, spec: VariantSpec, made: Mapping[str, Artifact]
) -> Iterator[StaleCause]:
    """What has its rows rendered otherwise, as by older code; by what this host knows of the template."""
    base = made.get(BASE_MODEL.name)
    if base is None or known_traits(workspace.cache, base) is None:
        return
    of_now = {name: one for name, one in made.items() if is_of_now(one)}
    for stage in rendered_otherwise(workspace.context, spec, of_now):
        yield StaleCause("stage", stage, f"{stage} has its rows rendered otherwise than a run would")
