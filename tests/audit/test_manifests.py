"""A manifest of which a field is absent, or of another type, is one error or none: never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.figures import READ, read
from ft_dagster.audit.models import diff, model
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import record
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.traces import source
from ft_dagster.audit.verify.verify import verify
from ft_dagster.cli import app
from ft_dagster.cli.audit.shown import model_parts, print_parts
from ft_dagster.errors import UserError
from ft_dagster.provenance.manifest import check_predicate
from tests.audit.histories import History, question, this_moment
from tests.kept_project import OLD_PROJECT
from tests.long import mostly_long
from tests.present import present

ABSENT = object()
VALUES = {"absent": ABSENT, "a list": [1], "a number": 7, "null": None, "a text": "x"}
HOLD = {
    *{("seed", kind) for kind in ("a number", "null")},
    *{("schema_version", kind) for kind in VALUES},  # read before all else
    *{("code.package", kind) for kind in VALUES},
    *{(f"environment.{name}", "a text") for name in ("python", "platform")},
    *{("attempt", "a text"), ("evidence.0", "absent"), ("evidence.0.path", "a text")},
    ("evidence.0.size", "a number"),
}  # of its type, or in no use
NAMED = ("sources", "splits", "general_share", "parent", "method", "verdict", "flops", "steps", "texts")
Path_ = tuple[str | int, ...]


def paths(tree: Any, above: Path_ = ()) -> Iterator[Path_]:
    """Of every field, however deep; of a list the first of its members."""
    names: list[str | int] = (
        [*tree] if isinstance(tree, dict) else [0] if isinstance(tree, list) and tree else []
    )
    for name in names:
        yield (*above, name)
        yield from paths(tree[name], (*above, name))


def edited(tree: Any, path: Path_, value: Any) -> Any:
    """A copy in which a field has another value, or is absent."""
    changed = copy.deepcopy(tree)
    *above, last = path
    part = changed
    for name in above:
        part = part[name]
    if value is ABSENT:
        del part[last]
    else:
        part[last] = value
    return changed


def manifests() -> dict[str, dict[str, Any]]:
    """One predicate of each stage of a store, with where it lies."""
    found = {}
    for file in sorted((OLD_PROJECT / "store").rglob("manifest.json")):
        predicate = json.loads(file.read_text("utf-8"))["predicate"]
        found[predicate["stage"]] = {
            "predicate": predicate,
            "prefix": file.relative_to(OLD_PROJECT / "store"),
        }
    return found


MANIFESTS = manifests()


@pytest.mark.slow
@pytest.mark.parametrize("stage", MANIFESTS)
def test_a_manifest_of_other_fields_does_not_hold(stage: str) -> None:
    """But for what may be either; figures are read by stage, see below."""
    predicate = MANIFESTS[stage]["predicate"]
    place = (str(MANIFESTS[stage]["prefix"].parents[2]), stage, predicate["key"], "manifest.json")
    check_predicate(predicate, *place)
    held = set[tuple[str, str]]()
    for path in paths({name: value for name, value in predicate.items() if name != "figures"}):
        for kind, value in VALUES.items():
            other = edited(predicate, path, value)
            error = error_of(partial(check_predicate, other, *place))
            if error is None and other != predicate:
                held.add((".".join(map(str, path)), kind))
            elif error is not None:
                assert "\n" not in str(error)
                assert "does not hold" in str(error)
    libraries = {(f"environment.libraries.{name}", kind) for name in predicate["environment"]["libraries"]
                 for kind in ("absent", "a text")}  # fmt: skip
    assert held - libraries <= HOLD


def test_a_field_that_is_absent_is_named() -> None:
    predicate = MANIFESTS["fine_tuned_model"]["predicate"]
    prefix = str(MANIFESTS["fine_tuned_model"]["prefix"].parents[2])
    place = (prefix, "fine_tuned_model", predicate["key"], "manifest.json")
    for path in (
        ("code",),
        ("code", "sha256"),
        ("environment", "python"),
        ("created",),
        ("payload", 0, "size"),
    ):
        with pytest.raises(UserError, match="a field is absent") as refused:
            check_predicate(edited(predicate, path, ABSENT), *place)
        assert refused.value.field == ".".join(map(str, path))


@pytest.mark.parametrize("moment", ["2026-11-26", "2026-11-26T01:08:05", "yesterday"])
def test_a_moment_that_no_other_can_be_held_against_is_none(moment: str) -> None:
    predicate = MANIFESTS["fine_tuned_model"]["predicate"]
    prefix = str(MANIFESTS["fine_tuned_model"]["prefix"].parents[2])
    place = (prefix, "fine_tuned_model", predicate["key"], "manifest.json")
    with pytest.raises(UserError, match="created: a manifest that does not hold"):
        check_predicate({**predicate, "created": moment}, *place)


def answers(audit: Audit) -> list[Callable[[], object]]:
    """What reads all figures of two models, with what it prints."""
    return [
        lambda: print_parts(model_parts(model(audit, "acme.child"))),
        lambda: diff(audit, "acme.one", "acme.child"),
    ]


def error_of(answer: Callable[[], object]) -> UserError | None:
    """None where there is an answer."""
    try:
        answer()
    except UserError as error:
        return error
    return None


def newer(manifest: Path) -> None:
    """Written by a newer ft-dagster."""
    content = json.loads(manifest.read_text("utf-8"))
    content["predicate"]["schema_version"] = 99
    manifest.write_text(json.dumps(content), "utf-8")


def cut_short(manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes()[:100])


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [newer, cut_short])
def test_a_record_is_not_never_seen_where_a_manifest_cannot_be_read(
    history: History, spoil: Callable[[Path], None]
) -> None:
    """To the tenant whose it is; a release log that cannot be read has no part in it."""
    asked = parse_record("nobody ever wrote this")
    prefix = history.folder / ".ft_dagster/store/tenants/globex/two"
    [manifest] = (prefix / "training_mixture").glob("*/manifest.json")
    spoil(manifest)
    cut_short(history.folder / ".ft_dagster/store/tenants/acme/one/releases/000001.json")
    for tenant, seen in ((None, None), ("globex", None), ("acme", False)):
        found = record(history.audit(tenant=tenant, again=True), asked)
        assert found.equal is seen
        assert any(str(manifest) in line for line in found.checked.unread) is (seen is None)
        assert ("could not be read" in sought(found)) is (seen is None)


@pytest.mark.slow
def test_what_can_have_no_record_takes_no_never_seen_away(history: History) -> None:
    """A base that all share, and a declaration; a base that is another's release leads to its children."""
    asked = parse_record("nobody ever wrote this")
    history._put("declaration", "tenants/acme/one", {"declaration.json": {}}, {})
    store = history.folder / ".ft_dagster/store"
    for place, seen in (
        ("shared/base_model", False), ("tenants/acme/one/declaration", False),
        ("tenants/acme/child/base_model", None),
    ):  # fmt: skip
        [manifest] = (store / place).glob("*/manifest.json")
        cut_short(manifest)
        found = record(history.audit(again=True), asked)
        assert (found.equal, len(found.checked.unread)) == (seen, 0 if seen is False else 1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fine_tuned_model", "training_plan", "declaration"])
def test_what_came_of_a_source_names_manifests_that_cannot_be_read(history: History, stage: str) -> None:
    """More may have come of it; to another tenant they are none."""
    history._put("training_plan", "tenants/acme/one", {"plan.json": {}}, {})
    history._put("declaration", "tenants/acme/one", {"declaration.json": {"sources": [], "spec": {}}}, {})
    with closing(history.audit().index) as index:
        [dataset] = index.of_stage("task_dataset", "tenants/acme/one")
        [corpus] = index.of_stage("general_corpus")
    [manifest] = (history.folder / ".ft_dagster/store/tenants/acme/one" / stage).glob("*/manifest.json")
    cut_short(manifest)
    audit = history.audit(again=True)
    [unread] = source(audit, dataset.digest).unread
    assert str(manifest) in unread
    with pytest.raises(UserError, match="of what could be read: 1 could not"):
        source(audit, "elsewhere.jsonl")
    assert source(history.audit(tenant="globex"), corpus.digest).unread == ()
    done = CliRunner().invoke(app, ["--project", str(history.folder), "audit", "source", dataset.digest])
    assert f"could not be read {manifest}" in " ".join(done.output.split())


@pytest.mark.slow
def test_what_is_near_a_record_names_data_sets_whose_manifest_cannot_be_read(history: History) -> None:
    [manifest] = (history.folder / ".ft_dagster/store/tenants/acme/one/task_dataset").glob("*/manifest.json")
    cut_short(manifest)
    asked = parse_record("What is item 3? Item 3 is a thing.")
    found = present(look_through(history.audit(again=True), asked, near=0.05).near)
    assert any(str(manifest) in line for line in found.unread)
    assert len(set(found.unread)) == len(found.unread)
    words = ["audit", "record", "What is item 3? Item 3 is a thing.", "--near", "0.05"]
    done = CliRunner().invoke(app, ["--project", str(history.folder), *words])
    assert done.output.count(str(manifest)) == 1


@pytest.mark.long
def test_figures_of_other_fields_end_in_an_answer_or_one_error(history: History) -> None:
    """Every field of the figures that are read, with everything that it can be in place of what it is."""
    audit = history.audit()
    errors: list[UserError | None] = []
    for stage in READ:
        for indexed in audit.index.of_stage(stage)[:1]:
            whole = read(audit, indexed)
            for path in paths(whole.figures):
                for value in VALUES.values():
                    figures = edited(whole.figures, path, value)
                    forged = {**whole.predicate, "figures": figures}
                    audit._said[indexed] = replace(whole, predicate=forged)
                    errors.append(error_of(partial(read, audit, indexed)))
                    if errors[-1] is None and path[0] in NAMED:
                        errors += map(error_of, answers(audit))
            audit._said[indexed] = whole
    refused = [error for error in errors if error is not None]
    assert len(errors) > len(refused) > 50
    assert not any("\n" in str(error) for error in refused)
    assert all(str(error.file).endswith("manifest.json") for error in refused)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("task_dataset", ("sources",)),
        ("training_mixture", ("splits", "train", "trained_tokens")),
        ("training_mixture", ("general_share", "asked")),
        ("general_corpus", ("sources",)),
        ("fine_tuned_model", ("steps",)),
        ("evaluation", ("verdict",)),
        ("evaluation", ("verdict", "passed")),
    ],
)
def test_a_figure_that_is_read_and_is_absent_is_named(history: History, stage: str, path: Path_) -> None:
    audit = history.audit()
    indexed = audit.index.of_stage(stage)[0]
    whole = read(audit, indexed)
    figures = edited(whole.figures, path, ABSENT)
    audit._said[indexed] = replace(whole, predicate={**whole.predicate, "figures": figures})
    with pytest.raises(UserError, match="does not hold") as refused:
        read(audit, indexed)
    assert str(refused.value.field).startswith("figures.")


QUESTIONS = {
    "model": ["acme.one"],
    "at": ["acme.one", "NOW"],
    "diff": ["acme.one", "acme.child"],
    "record": [json.dumps(question(3))],
    "source": ["rows.jsonl"],
    "tenant": ["acme"],
    "replay": ["acme.one"],
    "prove": [json.dumps(question(3)), "acme.child"],
    "verify": ["--all"],
}


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "field",
    mostly_long(["code", "environment", "figures", "created", "attempt", "input_manifests"], ["figures"]),
)
def test_every_command_answers_in_one_line(history: History, field: str, known: bool) -> None:
    """`known`: whether the index knew the manifest before it was edited."""
    if known:
        history.audit().index.close()
    for manifest in (history.folder / ".ft_dagster/store/tenants/acme").glob("*/*/*/manifest.json"):
        content = json.loads(manifest.read_text("utf-8"))
        del content["predicate"][field]
        manifest.write_text(json.dumps(content), "utf-8")
    for question_, words in QUESTIONS.items():
        said = [this_moment() if word == "NOW" else word for word in words]
        done = CliRunner().invoke(app, ["--project", str(history.folder), "audit", question_, *said])
        if isinstance(done.exception, UserError):
            assert "\n" not in str(done.exception)
            assert done.exception.fix
        else:
            assert done.exit_code in (0, 1), done.exception
            assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_store_without_anything_is_not_said_to_hold(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    with pytest.raises(UserError, match="nothing is stored there"):
        CliRunner().invoke(
            app, ["--project", str(made.folder), "audit", "verify", "--all"], catch_exceptions=False
        )


@pytest.mark.slow
def test_a_tenant_of_whom_nothing_is_stored_is_not_said_to_hold(history: History) -> None:
    """Though a base that all share is there."""
    with pytest.raises(UserError, match="nothing of nobody is stored there"):
        verify(history.audit(tenant="nobody"))
    assert verify(history.audit(tenant="globex")).holds
