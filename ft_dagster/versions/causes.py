"""Gathers what changed since a version's artifacts were made, as root causes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from ft_dagster.lineage.frozen import content_of
from ft_dagster.lineage.graph import inputs_among
from ft_dagster.lineage.stale import StaleCause, field_changed
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.schema_version import STORED
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import shown_value
from ft_dagster.stage_entries import (
    DECLARATION,
)
from ft_dagster.store import Artifact
from ft_dagster.versions.look import STAGES, TASKS
from ft_dagster.versions.version_artifacts import VersionArtifacts
from ft_dagster.workspace.keyed_inputs import (
    UNKNOWN,
    Digest,
    File,
    Part,
    Unopened,
    differing,
    digest_of,
    plain,
)
from ft_dagster.workspace.stage_version import is_of_now


class Causes:
    """Gathers the changes of a version's artifacts, one after the other. `fields`: declared ones."""

    def __init__(self, spec: VariantSpec, version: VersionArtifacts) -> None:
        self.spec, self.version = spec, version
        self.fields, self.tasks, self.derived = dict[str, None](), list[StaleCause](), list[StaleCause]()
        self._following = list[tuple[Artifact, tuple[str, ...], bool]]()
        self._others = set[str]()  # the stages whose artifacts would have another key

    def add(self, artifact: Artifact, parts: Mapping[str, Part]) -> None:
        """Compare the parts of an artifact's key with those that it would have."""
        other, stage = others(artifact, parts), artifact.place.stage
        if other and self._stands(artifact, other):
            return
        self._others |= {stage} if other else set()
        declared = {
            name: part
            for name, part in other.items()
            if part.kind == "declared" or part.fields(self.spec, "")
        }
        alone = not any(isinstance(part.value, BaseModel) for part in declared.values())
        for name, part in declared.items():
            self._declared(artifact, name, part, alone=alone)
        if declared or not self._made_of_now(artifact):
            return  # what follows is another by that
        said = dict.fromkeys(part.words for part in other.values() if part.words)
        self.derived += [StaleCause("stage", stage, words.format(stage=stage)) for words in said]

    def _stands(self, artifact: Artifact, other: Collection[str]) -> bool:
        """Say whether an artifact stands though these parts of its key changed: see `Stage.stands`. It does
        not where what it was made from would change, or is a verdict by which it may not be made.
        """
        stands = STAGES[artifact.place.stage].stands
        if stands is None or not self._others.isdisjoint(artifact.inputs) or not self._made_of_now(artifact):
            return False
        above = inputs_among(self.version.artifacts, artifact)
        judged = [each.figures["verdict"] for each in above if "verdict" in each.figures]
        return all(Verdict.from_json(each).passed for each in judged) and stands(artifact, other)

    def _declared(self, artifact: Artifact, name: str, part: Part, *, alone: bool) -> None:
        if isinstance(part.value, BaseModel):
            named = _differences(artifact.spec.get(name, {}), self.spec, part.value)
            self.fields |= dict.fromkeys(named)
            return
        then, now = artifact.spec.get(name), _plain(part.value)
        for leaf in differing(then, now):
            if TASKS in (*name.split("."), *leaf)[:-1] and None not in (
                value_at(then, leaf),
                value_at(now, leaf),
            ):
                self.tasks.append(StaleCause("task", leaf[-1], f"the task {leaf[-1]} is another"))
            self._following.append((artifact, part.fields(self.spec, ".".join(leaf)), alone))

    def of_fields(self) -> list[StaleCause]:
        """Return a cause for each field from which changed parts follow, if it changed since the newest run.
        Where none did, and nothing else of the artifact is declared otherwise, all of them; but none where a
        default changed with the version of what it was made from, which is said by itself.
        """
        now = _content_of(self.spec) if self.fields or self._following else {}
        before, direct = self._before if self._following else {}, list(self.fields)
        for artifact, fields, alone in self._following:
            said = [each for each in fields if any(f"{one}.".startswith(f"{each}.") for one in direct)]
            changed = [each for each in fields if before and value_at(before, each) != value_at(now, each)]
            if not changed and alone and not said and self._made_of_now(artifact):
                changed = list(fields)
            self.fields |= dict.fromkeys(each for each in changed if each not in said)
        return [field_changed(each, self._then(each), value_at(now, each)) for each in sorted(self.fields)]

    def _made_of_now(self, artifact: Artifact) -> bool:
        """Say whether everything it was made from is as it is made today."""
        return all(map(is_of_now, inputs_among(self.version.artifacts, artifact)))

    @property
    def _before(self) -> dict[str, Any]:
        """Return the declaration of the newest run, with defaults for later fields where it is still
        valid.
        """
        newest = self.version.heads.get(DECLARATION.name)
        declared: dict[str, Any] = {} if newest is None else content_of(newest)["spec"]
        with suppress(ValidationError):
            return _content_of(VariantSpec.model_validate(declared, context=STORED))
        return declared

    def _then(self, field: str) -> Any:
        """Return the value of a field as a key of the version has it; None where none has."""
        for artifact in filter(is_of_now, self.version.artifacts.values()):
            for part in artifact.spec.values():
                if (value := value_at(part, field)) is not None:
                    return value
        return None


def others(artifact: Artifact, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return those parts of a key that differ from an artifact's."""
    return {name: part for name, part in parts.items() if is_other(artifact, name, part)}


def is_other(artifact: Artifact, name: str, part: Part) -> bool:
    """Say whether a part of a key differs from an artifact's; of an artifact, whether there is one."""
    value = part.value
    then = artifact.inputs.get(name, artifact.spec.get(name))
    if value is UNKNOWN or part.kind == "host":
        return False
    if value is None or then is None:
        return (value is None) != (then is None)
    if isinstance(value, Artifact):
        return False
    with suppress(Unopened):
        return bool(then != _plain(value))
    return False


def _plain(value: Any) -> Any:
    return digest_of(value) if isinstance(value, File | Digest) else None if value is None else plain(value)


def _differences(then: Any, now: Any, listed: Any, path: str = "") -> Iterator[str]:
    """Return the fields below `path` on which a key differs from the declaration. `listed`: what of it the
    stage lists; a field that keys took up later is in none where it had its default.
    """
    if not (isinstance(then, dict) and isinstance(now, BaseModel)):
        if shown_value(now) != then:
            yield path
        return
    kind, there = type(now), listed.__dict__ if isinstance(listed, BaseModel) else {}
    for name, each in kind.model_fields.items():
        value, below = getattr(now, name), f"{path}.{name}".removeprefix(".")
        if name in then:
            yield from _differences(then[name], value, there.get(name), below)
        elif name in there and name in getattr(kind, "added", ()) and value != each.default:
            yield below


def _content_of(spec: VariantSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def value_at(tree: Any, field: str | Iterable[str]) -> Any:
    for name in field.split(".") if isinstance(field, str) else field:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
