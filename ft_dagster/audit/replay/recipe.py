"""Finds all that a model was made of, as the store has it, and lays out a clean project in which it can be
made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.task_files import task_references
from ft_dagster.files import expanded
from ft_dagster.launch.launcher import RUN_FILE
from ft_dagster.lineage.graph import needed, walk
from ft_dagster.lineage.log import entry_path, mark_newest, recalled_log
from ft_dagster.lineage.tries import records_of
from ft_dagster.models.base_record import BaseRecord
from ft_dagster.planning.hardware.catalogue import FILE as CARDS
from ft_dagster.provenance.digest import sha256_file, sha256_json
from ft_dagster.roots import is_address
from ft_dagster.settings import FILE, Settings
from ft_dagster.spec.policy import POLICY_FILE, Policy
from ft_dagster.stage_entries import (
    BASE_MODEL,
    DECLARATION,
    EVALUATION,
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    FORMER_STAGES,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
    made_before,
)
from ft_dagster.stages import declaration, evaluation
from ft_dagster.store import Artifact, Store, write_head
from ft_dagster.store.artifacts import Removed
from ft_dagster.workspace.stage_version import usual_share_of

# In their order.
REBUILT = (TASK_DATASET.name, TRAINING_MIXTURE.name, TRAINING_PLAN.name, FINE_TUNED_MODEL.name)
JUDGED = (EVALUATION.name, MODEL_EXPORT.name)  # what is made of the weights, in its order
_NOT_TAKEN = (DECLARATION.name, *REBUILT)
TAKEN = (  # as the store has them
    *(each.name for each in made_before(FINE_TUNED_MODEL) if each.name not in _NOT_TAKEN),
    *FORMER_STAGES,
)
RUN, WORK = "replay", "work"


@dataclass(frozen=True)
class ModelRecipe:
    """Names a model and what it was made of. `rebuilt`: the artifact of each stage of REBUILT. `taken`: what
    of other stages these were made of, parents' exports among it. `content`: declaration.json. `judged`: of
    JUDGED what was made of the weights.
    """

    model: Indexed
    rebuilt: Mapping[str, Indexed]
    taken: tuple[Indexed, ...]
    declaration: Indexed
    content: Mapping[str, Any]
    judged: Mapping[str, Indexed]

    @property
    def variant(self) -> str:
        return self.model.variant or ""


def recorded_of(audit: Audit, weights: Indexed) -> ModelRecipe:
    """Raises UserError where something that the model was made of is gone."""
    mixture = needed(audit.index, weights, TRAINING_MIXTURE.name)
    plan = needed(audit.index, weights, TRAINING_PLAN.name)
    dataset = needed(audit.index, mixture, TASK_DATASET.name)
    rebuilt = {part.place.stage: part for part in (dataset, mixture, plan, weights)}
    found = walk(rebuilt.values(), partial(_taken, audit, tuple(rebuilt.values())))
    taken = {each.id: each for each, below in found if below is not None}
    declared, content = _declaration(audit, rebuilt, taken.values())
    return ModelRecipe(weights, rebuilt, tuple(taken.values()), declared, content, _judged(audit, weights))


def _judged(audit: Audit, weights: Indexed) -> dict[str, Indexed]:
    """Return the newest export and the evaluation that it was made by, else the newest evaluation."""
    for export in reversed(audit.index.made_of(weights, MODEL_EXPORT.name)):
        evaluation = audit.index.parent(export, EVALUATION.name)
        if evaluation is not None:
            return {EVALUATION.name: evaluation, MODEL_EXPORT.name: export}
    evaluations = audit.index.made_of(weights, EVALUATION.name)
    return {EVALUATION.name: evaluations[-1]} if evaluations else {}


def _taken(audit: Audit, rebuilt: Collection[Indexed], part: Indexed) -> Iterator[Indexed]:
    """Yield what a part was made of by others; of a base the release that it starts from, and the base of
    that.
    """
    of_release = (MODEL_EXPORT.name, BASE_MODEL.name) if part.place.stage == BASE_MODEL.name else ()
    names = TAKEN if part in rebuilt else of_release
    known = audit.index.inputs(part)
    return (needed(audit.index, part, name) for name in names if name in known)


def _declaration(
    audit: Audit, rebuilt: Mapping[str, Indexed], taken: Iterable[Indexed]
) -> tuple[Indexed, Mapping[str, Any]]:
    """Return the newest declaration before the model that says what its manifests say that it was made from;
    of several the newest that says what those of `taken` do: they may be of an earlier one.
    """
    weights = rebuilt[FINE_TUNED_MODEL.name]
    parts = [audit.artifact(part) for part in rebuilt.values()]
    sources = audit.artifact(rebuilt[TASK_DATASET.name]).inputs.get("sources")
    own = [
        part
        for part in taken
        if part.place.prefix == weights.place.prefix or part.place.stage == EVALUATION_TEXTS.name
    ]
    said = [audit.artifact(part).spec for part in own]
    newest = None
    for each, content in _declarations(audit, weights):
        if (
            sha256_json(content["sources"]) == sources
            and all(_is_within(part.spec.get("spec", {}), content["spec"]) for part in parts)
            and _is_mixed_alike(audit.artifact(rebuilt[TRAINING_MIXTURE.name]), content)
        ):
            if all(_agrees(spec, content) for spec in said):
                return each, content
            newest = newest or (each, content)
    if newest is None:
        problem = "no declaration in the store is the one that it was made by"
        raise UserError(problem, value=weights.digest[:12], fix="Restore it from a backup")
    return newest


def _is_mixed_alike(mixture: Artifact, content: Mapping[str, Any]) -> bool:
    """Say whether a declaration counts general text as the key of a mixture does. The key leaves out what was
    usual when it was made; a declaration without the field is from when there was nothing but `trained`.
    """
    then = mixture.spec.get("spec", {}).get("data", {}).get("general")
    now = content["spec"]["data"]["general"]
    if not then or not now:
        return True  # said by what is within
    return bool(then.get("share_of", usual_share_of(mixture)) == now.get("share_of", "trained"))


def _agrees(spec: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Say whether a declaration asks and says what the manifest of a part does that was taken."""
    tasks = {**content["tasks"]["task"], **content["tasks"]["general"]}
    return spec.get("tasks", tasks) == tasks and _is_within(spec.get("spec", {}), content["spec"])


def judged_by(audit: Audit, judged: Indexed) -> tuple[Indexed, Mapping[str, Any]]:
    """Return the newest declaration before an evaluation that asks and demands what its manifest says. Raises
    UserError.
    """
    spec = audit.artifact(judged).spec
    asked = {name: spec.get(f"{name}.tasks") for name in ("task", "general")}
    slices = [part for name, part in spec.items() if name.rpartition(".")[2] == "spec"]
    for each, content in _declarations(audit, judged):
        if content["tasks"] == asked and all(_is_within(part, content["spec"]) for part in slices):
            return each, content
    problem = "no declaration in the store is the one that it was judged by"
    raise UserError(problem, value=judged.digest[:12], fix="Restore it from a backup")


def _declarations(audit: Audit, made: Indexed) -> Iterator[tuple[Indexed, Mapping[str, Any]]]:
    """Yield the declarations of a variant from before something was made, the newest first, with their
    declaration.json.
    """
    for each in reversed(audit.index.of_stage(DECLARATION.name, made.place.prefix)):
        if each.created <= made.created:
            file = audit.stored.left(audit.artifact(each), f"payload/{declaration.FILE}")
            if file is not None:
                yield each, json.loads(file.read_text("utf-8"))


def _is_within(part: Any, whole: Any) -> bool:
    """Say whether a narrowed declaration says what the whole one says."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(name in whole and _is_within(value, whole[name]) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list) and len(part) == len(whole):
        return all(_is_within(*each) for each in zip(part, whole, strict=True))
    return bool(part == whole)


@dataclass(frozen=True)
class CleanProject:
    """Is a project folder with a store of its own, in which nothing of the model is but what it was made of.
    `from_dataset`: why its data set was taken from the store as it is; empty where its sources are here.
    """

    folder: Path
    store: Store
    prefix: str
    from_dataset: str

    def take(self, audit: Audit, part: Indexed) -> Artifact:
        """Copy an artifact of the audited store, its bytes held against its manifest, and let the head of its
        stage point at it. Raises UserError for one that is damaged, or that retention removed.
        """
        said = audit.said(part)
        if isinstance(said, Removed):
            raise said.error(audit.store)
        target = self.folder / "store" / said.path
        if not target.exists():
            with said.held(audit.store, audit.settings.cache_folder) as folder:
                shutil.copytree(folder, target)
        for generation in range(1, said.generation + 1):
            name = said.place.manifest_of(generation)
            self.store.write(name, audit.store.read(name))
        return said

    def ran_out_of_memory(self, weights: Indexed) -> None:
        """Let the training of these weights find what one left that ran out of memory: the code of its day
        then takes half the micro-batch.
        """
        run = (
            self.folder
            / WORK
            / "runs"
            / str(weights.variant)
            / f"{FINE_TUNED_MODEL.name}-{weights.place.key[:16]}"
        )
        run.mkdir(parents=True)
        (run / RUN_FILE).write_text(json.dumps({"members": [{"micro_batch_halved": True}]}), "utf-8")

    def take_tries(self, audit: Audit, weights: Indexed) -> None:
        """Copy the record of the questions that weights were put to: theirs keep their ordinal by it."""
        for path in records_of(audit.store, weights.place.prefix, weights.digest):
            self.store.write(path, audit.store.read(path))

    def take_log(self, audit: Audit, prefix: str, until: Indexed) -> None:
        """Copy the release log of a variant as it was when an artifact was made."""
        past = (entry for entry in recalled_log(audit.store, prefix).entries if entry.at <= until.created)
        content = b""
        for number, _ in enumerate(past, 1):
            content = audit.store.read(entry_path(prefix, number))
            self.store.write(entry_path(prefix, number), content)
            mark_newest(self.store, prefix, number, content)

    def declare(self, variant: str, content: Mapping[str, Any]) -> None:
        """Let the variant's file say what its declaration.json does; its parents' are named alone."""
        self._declared_in(variant, content["spec"])
        parent = content["spec"]["base_model"].get("variant")
        if parent is not None:
            self._declared_in(parent, {})

    def _declared_in(self, variant: str, spec: Mapping[str, Any]) -> None:
        tenant, _, name = variant.partition(".")
        _write(self.folder / "tenants" / tenant / f"{name}.yaml", spec)

    def point_at(self, artifact: Artifact) -> None:
        """Let the head of the artifact's stage be this one; a corpus is declared as it was made."""
        corpus = artifact.place.stage == GENERAL_CORPUS.name
        if corpus:
            name = PurePosixPath(artifact.place.prefix).name
            _write(self.folder / "corpora" / f"{name}.yaml", artifact.spec["corpus"])
        write_head(self.store, artifact.place.prefix if corpus else self.prefix, artifact, RUN)


def lay_out(audit: Audit, recorded: ModelRecipe, folder: Path) -> CleanProject:
    """Make the clean project of a model, in a folder that is empty. Raises UserError."""
    tenant, _, _ = recorded.variant.partition(".")
    (folder / "tenants" / tenant).mkdir(parents=True)
    settings = audit.settings
    _write(folder / FILE, _settings(settings, _engine(audit, recorded, settings)))
    _write_policy(audit, recorded.model, folder)
    _copy(settings.project / CARDS, folder / CARDS)
    asked = _task_files(settings, tenant, recorded.content["spec"])
    for entry in filter(_is_inside, dict.fromkeys((*asked, *_function_files(settings)))):
        _copy(settings.project / entry, folder / entry)
    why = _copy_sources(settings.project, recorded.content, folder)
    project = CleanProject(folder, Store(str(folder / "store")), recorded.model.place.prefix, why)
    for part in (recorded.declaration, *recorded.taken):
        project.take(audit, part)
    own_base = needed(audit.index, recorded.model, BASE_MODEL.name)
    for part in (recorded.declaration, own_base, *recorded.taken):
        if part.place.stage in (DECLARATION.name, GENERAL_CORPUS.name) or part is own_base:
            project.point_at(audit.artifact(part))
    _link_bases(audit, recorded, folder)
    for part in recorded.taken:
        if part.place.stage == MODEL_EXPORT.name:  # of a release beneath it
            project.take_log(audit, part.place.prefix, recorded.rebuilt[TRAINING_PLAN.name])
    if audit.artifact(recorded.model).figures.get("micro_batch_halved"):
        project.ran_out_of_memory(recorded.model)
    if why:
        project.point_at(project.take(audit, recorded.rebuilt[TASK_DATASET.name]))
    return project


def _engine(audit: Audit, recorded: ModelRecipe, settings: Settings) -> dict[str, str]:
    """Return what wrote the answers, where the code that made the model knows of more than one engine."""
    judged = recorded.judged.get(EVALUATION.name)
    said = None if judged is None else audit.artifact(judged)
    if said is None or "engine" not in said.figures:
        return {}
    if said.spec.get("engine.name") == "vllm":
        return {"engine": "vllm", "vllm": str(settings.vllm_python)}
    return {"engine": "transformers"}


def _settings(settings: Settings, engine: dict[str, str]) -> dict[str, object]:
    """Return what this host lends, and what declarations may read and run, as the project says; all else as
    built in, with nothing shared but the leases. `engine`: of the settings of evaluations.
    """
    said = settings.model_dump(mode="json", exclude_unset=True, include={"host", "sources", "evaluation"})
    host = {**said.get("host", {}), "warm_start": "off"}
    named = said.pop("evaluation", {}).items()
    evaluation = {name: value for name, value in named if name not in ("engine", "vllm")} | engine
    asked = {"evaluation": evaluation} if evaluation else {}
    return {"store": "store", "work": WORK, "keys": "keys", **said, **asked, "host": host}


def _write_policy(audit: Audit, weights: Indexed, folder: Path) -> None:
    """Write the policy that the model was judged by, where it was judged."""
    for judged in reversed(audit.index.made_of(weights, EVALUATION.name)):
        said = audit.artifact(judged)
        if audit.stored.has(said, f"evidence/{evaluation.POLICY}"):
            file = audit.stored.left(said, f"evidence/{evaluation.POLICY}")
            if file is not None:
                floors = json.loads(file.read_text("utf-8"))
                kept = {name: value for name, value in floors.items() if name not in Policy.gone}
                _write(folder / POLICY_FILE, {"schema_version": 1, **kept})
                return


def _task_files(settings: Settings, tenant: str, spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the folder of each task of the evaluation that is a file of the project: a training may ask its
    questions; of one beside the settings the file alone. And what the task names elsewhere in the project.
    """
    asked = spec.get("evaluation", {})
    for entry in (*asked.get("task", ()), *asked.get("general", ())):
        path = PurePosixPath(str(entry))
        if path.suffix in (".yaml", ".yml") and _is_inside(str(path)):
            yield str(path.parent) if len(path.parts) > 1 else str(path)
            with suppress(UserError):  # what asks it says what is wrong with it
                for named in task_references(settings.project / path, settings.roots(tenant)):
                    yield os.path.relpath(named.file, settings.project)


def _function_files(settings: Settings) -> Iterator[str]:
    """Yield files of the project whose functions its tasks may call."""
    yield from (name for name in settings.evaluation.functions if name.endswith(".py") and _is_inside(name))


def _copy_sources(project: Path, content: Mapping[str, Any], folder: Path) -> str:
    """Copy the files that the data set was read from; why that cannot be done, empty where it was."""
    files = [entry for prints in content["sources"] for entry in prints]
    for entry in files:
        path = str(entry.get("path", ""))
        if "sha256" not in entry or not _is_inside(path):
            return f"{path or entry.get('repo', 'a source')} is no file of this project"
        if not (project / path).is_file() or sha256_file(project / path) != entry["sha256"]:
            return f"{path} is gone, or another by now"
    for entry in files:
        _copy(project / entry["path"], folder / entry["path"])
    return ""


def _link_bases(audit: Audit, recorded: ModelRecipe, folder: Path) -> None:
    """Let paths of bases that count from the project, and downloads of others, lead to where they lie."""
    for name in ("hub", "bases"):
        downloads = audit.settings.cache_folder / name
        if downloads.is_dir():
            (folder / WORK / "cache").mkdir(parents=True, exist_ok=True)
            (folder / WORK / "cache" / name).symlink_to(downloads, target_is_directory=True)
    for part in recorded.taken:
        if part.place.stage != BASE_MODEL.name:
            continue
        file = audit.stored.file(audit.artifact(part), "payload/base.json")
        base = BaseRecord.parse(file.read_bytes(), file)
        reference, named = base.reference, base.revision or base.parent or is_address(base.reference)
        source = audit.settings.project / reference
        if not named and _is_inside(str(expanded(reference))) and source.is_dir():
            target = folder / reference
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(source.resolve(), target_is_directory=True)


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts and not is_address(path)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False), "utf-8")
