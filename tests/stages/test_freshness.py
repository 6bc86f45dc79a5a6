"""What is said to be out of date, and why, held against the keys of the whole chain."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.fleet.history import RunHistory
from ft_dagster.fleet.picture import look_at
from ft_dagster.fleet.refresh.freshness import freshness
from ft_dagster.fleet.refresh.from_store import known_version, learnt
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet.refresh.sync_declarations import notice
from ft_dagster.fleet.refresh.watching import look, places_of
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import Watched
from ft_dagster.lineage.stale import StaleCause
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, Declared, VariantKey
from ft_dagster.spec.narrow import narrowed, shown
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.stage_entries import version_of
from ft_dagster.stages import probe, training_mixture
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.declaration import freeze
from ft_dagster.stages.general_corpus import corpora_stand
from ft_dagster.store import Artifact, Place
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.now import difference
from ft_dagster.versions.version_artifacts import VersionArtifacts, version_artifacts
from ft_dagster.workspace.plan_fields import PLANNED, RANKED, ranked_by
from ft_dagster.workspace.policy import problems
from ft_dagster.workspace.questions import GENERAL, QUESTIONS
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit
from tests.fleet.tables import row_of
from tests.long import mostly_long
from tests.stage_version import set_version

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
FILE = f"tenants/{KEY.tenant}/{KEY.variant}.yaml"
Change = Callable[[Path], None]

FIELDS: dict[str, Any] = {
    "description": "another",
    "base_model.keep": True,
    "base_model.new_tokens": ["<new>"],
    "data.splits.test": 0.2,
    "data.decontaminate.ngram": 8,
    "data.general.share": 0.1,
    "data.general.share_of": "trained",
    "data.general": None,
    "data.train_on": "assistant_turns",
    "method.rank": 8,
    "method.name": "qlora",
    "training.learning_rate": 1e-3,
    "training.max_length": 64,
    "training.report_to": ["tensorboard"],
    "training.checkpoint_minutes": 1.0,
    "training.seed": 7,
    "training.watch.questions": 4,
    "evaluation.general": [],
    "evaluation.task": ["tasks/sea_quiz.yaml"],
    "evaluation.limit": 10,
    "evaluation.canaries": ["a planted string"],
    "gates.general_margin": 0.5,
    "gates.metrics": {"sea_quiz": "acc"},
    "export.format": "merged",
    "resources.cpu_slots": 2,
    "resources.cpu_ranks": 2,
    "resources.priority": 5,
    "resources.budget_usd": 5.0,
    "retrain.cron": "0 3 * * 1",
    "release.approvers": ["boss"],
}


def declare(field: str, value: Any) -> Change:
    *parts, last = field.split(".")

    def change(content: Any) -> None:
        for part in parts:
            inside = content.get(part)
            if isinstance(inside, str):  # short for the object's first field
                inside = {"source" if part == "base_model" else "format": inside}
            content[part] = inside or {}
            content = content[part]
        content[last] = value

    return lambda project: edit(project / FILE, change)


def add_line(name: str) -> Change:
    def change(project: Path) -> None:
        lines = (project / name).read_text("utf-8").splitlines()
        (project / name).write_text("\n".join([*lines, lines[0]]) + "\n", "utf-8")

    return change


FILES = {name: add_line(name) for name in ("data/rows.jsonl", "data/general.jsonl", "tasks/quiz.jsonl")}
CHANGES: dict[str, Change] = {
    **{field: declare(field, value) for field, value in FIELDS.items()},
    **FILES,
    "policy": lambda project: edit(project / "policy.yaml", lambda c: c["gates"].update(general_margin=0.1)),
    "policy.everybodys": lambda project: edit(
        project / "policy.yaml", lambda c: c["evaluation"].update(general=["tasks/sea_quiz.yaml"])
    ),
    "corpora/general.yaml": lambda project: edit(
        project / "corpora/general.yaml", lambda c: c.update(holdout=0.2)
    ),
}


@pytest.fixture(scope="module")
def settled(chained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(chained.project, tmp_path_factory.mktemp("settled") / "project")


def causes(project: Path) -> list[StaleCause]:
    """As the fleet's table comes to know them: by a tick, then by a look at what lies at the sources."""
    now = datetime.now(UTC) + timedelta(hours=1)
    settings, declarations = load_settings(project), Declarations(project)
    table = FleetTable(f"sqlite:///{project / 'fleet.db'}")
    table.put(notice(table, declarations, now).rows)
    row = learnt(SharedState(settings), row_of(table, str(KEY)), RunHistory(), (), now)
    spec = declarations.declared(KEY)
    version = known_version(SharedState(settings), row, spec)
    assert version is not None
    assert version.unread == ""
    places = [*map(str, places_of(spec.spec, project, settings.roots(KEY.tenant)))]
    table.put([replace(row, version=version)], {str(KEY): Watched(places, 60)})
    assert look(table, settings, now).errors == {}
    return [each.cause for each in freshness(table.rows())[str(KEY)]]


def moved(project: Path) -> set[str]:
    """What a run would make again or be refused for, by the keys of the whole chain."""
    settings, named = load_settings(project), set[str]()
    desk = Workspace(settings, KEY, looking=True)
    declared = desk.declared()
    content = freeze(declared, project, desk.cache, desk.roots)
    desk.__dict__.update(frozen=content, spec=declared.spec)
    for stage in CHAIN[1:]:
        made = version_artifacts(desk.store, desk.prefix).artifacts[stage.name]
        try:
            key = desk.recipe(stage)[0].place.key
        except UserError:
            key = ""
        named |= set() if key == made.place.key else {stage.name}
    named |= set() if corpora_stand(settings) or declared.spec.data.general is None else {"general_corpus"}
    return named | ({"policy"} if problems(settings, declared) else set())


def age(project: Path) -> None:
    """The run was long ago, as far as the times of files tell."""
    store = load_settings(project).open_store()
    for head in ("tenants/acme/places/heads/declaration", "tenants/acme/places/heads/base_model",
                 "shared/corpora/general/heads/general_corpus"):  # fmt: skip
        later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds")
        store.write_json(f"{head}.json", {**store.read_json(f"{head}.json"), "at": later})


def test_what_nothing_changed_of_is_fresh(settled: Path, tmp_path: Path) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    age(project)
    assert moved(project) == set()
    assert causes(project) == []


def test_a_copied_or_restored_project_is_not_stale(settled: Path, tmp_path: Path) -> None:
    """Its times of writing and of change are new, its bytes are not."""
    project = shutil.copytree(settled, tmp_path / "project", copy_function=shutil.copy)
    assert moved(project) == set()
    assert causes(project) == []
    shown = look_at(Declarations(project), [KEY], None, load_settings(project), datetime.now(UTC))
    assert [row.causes for row in shown.rows] == [()]
    for kind, name in (("source", "data/rows.jsonl"), ("corpus", "data/general.jsonl")):
        file = project / name
        file.write_text(file.read_text("utf-8").replace("tower", "TOWER"), "utf-8")
        assert (kind, name) in {(cause.kind, cause.what) for cause in causes(project)}


def fleets() -> Iterator[tuple[str, ...]]:
    """Each change by itself, then some at once."""
    yield from ((name,) for name in CHANGES)
    dice = random.Random(16)
    for _ in range(10):
        yield tuple(dice.sample([*CHANGES], 3))


@pytest.mark.parametrize("names", mostly_long(fleets(), every=3, whole=True), ids="+".join)
def test_stale_is_what_a_run_would_make_again_and_the_cause_is_what_changed(
    settled: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    age(project)
    for name in names:
        CHANGES[name](project)
    found, expected = causes(project), moved(project)
    assert bool(found) == bool(expected), (found, expected)
    if len(names) == 1 and expected:
        (name,) = names
        said = {
            "tasks/quiz.jsonl": "the task tasks/sea_quiz.yaml is another",
            "policy": "gates.general_margin",
            "policy.everybodys": "evaluation took other tasks for the tenant's own choice",
        }
        assert said.get(name, name) in json.dumps(found)


STAGES = ("general_corpus", "evaluation_texts", "general_scores", *(stage.name for stage in CHAIN[1:]))


def test_a_changed_number_is_said_with_both_values(settled: Path, tmp_path: Path) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    declare("training.seed", 7)(project)
    assert "training.seed is 7, was 0" in {cause.words for cause in causes(project)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_raised_stage_version_is_the_cause(
    settled: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    age(project)
    set_version(monkeypatch, stage, 99)
    (cause,) = causes(project)
    assert (cause.kind, cause.what) == ("stage", stage)
    assert cause.words.startswith(f"{stage} is at version 99, it was made by ")


@pytest.mark.long
def test_raised_stages_are_no_cause_once_a_run_made_the_same_by_them(
    settled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made of their bytes is not made again, and names the older ones."""
    project, raised = shutil.copytree(settled, tmp_path / "project"), ("evaluation_texts", "general_scores")
    age(project)
    for stage in raised:
        set_version(monkeypatch, stage, 99)
    assert {cause.what for cause in causes(project)} == set(raised)
    desk = Workspace(load_settings(project), KEY)
    assert run_chain(desk).error is None
    made = version_artifacts(desk.store, desk.prefix).artifacts
    assert {made[stage].predicate["stage_version"] for stage in raised} == {99}
    age(project)
    assert causes(project) == []


def comment(project: Path) -> None:
    file = project / "tasks/sea_quiz.yaml"
    file.write_text(f"# what floats\n{file.read_text('utf-8')}", "utf-8")


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [comment, declare("gates.general_margin", 0.5), CHANGES["policy.everybodys"]],
    ids=["task", "gates", "policy"],
)
def test_what_a_run_came_to_the_same_by_is_fresh_after_it_and_once_it_is_taken_back(
    settled: Path, tmp_path: Path, change: Change
) -> None:
    """A task's words that change no answer, other gates and another list of the platform's for the same."""
    project = shutil.copytree(settled, tmp_path / "project")
    files = {name: (project / name).read_bytes() for name in (FILE, "tasks/sea_quiz.yaml", "policy.yaml")}
    age(project)
    change(project)
    assert causes(project) != []
    for _ in range(2):
        assert run_chain(Workspace(load_settings(project), KEY)).error is None
        age(project)
        assert (causes(project), moved(project)) == ([], set())
        for name, content in files.items():
            (project / name).write_bytes(content)


@pytest.mark.parametrize(
    ("part", "then", "words"),
    [
        ("own", ["another"], "evaluation took other tasks for the tenant's own choice"),
        ("probed", 8, "evaluation was judged by another least number of probed rows"),
    ],
)
def test_what_stored_answers_would_be_judged_by_alone_is_a_cause(
    settled: Path, part: str, then: Any, words: str
) -> None:
    workspace = Workspace(load_settings(settled), KEY, looking=True)
    declared, version = workspace.declared(), version_artifacts(workspace.store, workspace.prefix)
    made = version.artifacts["evaluation"]
    figures = {**made.figures, "verdict": {**made.figures["verdict"], "policy": "0" * 64}}
    spec = {**made.spec, part: then}
    other = replace(made, predicate={**made.predicate, "spec": spec, "figures": figures})
    of = version._replace(artifacts={**version.artifacts, "evaluation": other})
    found = difference(workspace, declared, of, SharedState(workspace.settings).of(declared))
    assert found == (StaleCause("stage", "evaluation", words),)


def test_gates_that_do_not_hold_for_what_is_in_production_are_a_cause_after_the_run_too(
    settled: Path, tmp_path: Path
) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    age(project)
    strict = {"undecided": "fail", "alpha": 0.4, "regression_margin": None, "loss_tail": 1.0}
    for name, value in {**strict, "metrics": {"test_split_task": "exact_match"}}.items():
        declare(f"gates.{name}", value)(project)
    error = run_chain(Workspace(load_settings(project), KEY)).error
    assert error is not None
    assert error.startswith("evaluation: gate did not pass")
    age(project)
    assert moved(project) == {"model_export"}
    assert "gates.undecided" in {cause.what for cause in causes(project)}


def test_a_corpus_that_no_file_declares_any_more_is_a_cause_and_a_run_is_refused_by_it(
    settled: Path, tmp_path: Path
) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    age(project)
    (project / "corpora/general.yaml").unlink()
    (cause,) = causes(project)
    assert (cause.kind, cause.what, moved(project)) == ("corpus", "general", {"training_mixture"})
    error = run_chain(Workspace(load_settings(project), KEY)).error
    assert error is not None
    assert str(project / FILE) in error
    assert cause.words in error


@pytest.mark.parametrize(("line", "stale"), [("of the lighthouse", True), ("of the north", False)])
def test_what_a_run_read_that_did_not_pass_is_the_cause_for_what_is_in_production(
    settled: Path, tmp_path: Path, line: str, stale: bool
) -> None:
    """The newest run took up the rows of today, and its gate did not hold: another version is served. Where
    the rows came to the same data set, nothing is out of date.
    """
    project = shutil.copytree(settled, tmp_path / "project")
    row = {"instruction": f"Where is the permit {line}?", "input": "", "output": "The permit is north."}
    with (project / "data/rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    desk = Workspace(load_settings(project), KEY)
    for stage in CHAIN[:3]:
        desk.make(stage)
    age(project)
    cause = StaleCause("source", "data/rows.jsonl", "data/rows.jsonl changed")
    assert causes(project) == ([cause] if stale else [])


def test_without_any_tick_a_few_variants_are_told_by_what_lies_there_now(
    settled: Path, tmp_path: Path
) -> None:
    project = shutil.copytree(settled, tmp_path / "project")
    age(project)
    settings, now = load_settings(project), datetime.now(UTC)

    def told() -> tuple[str, str]:
        (row,) = look_at(Declarations(project), [KEY], None, settings, now).rows
        return row.state, row.cause

    assert told() == ("fresh", "")
    add_line("data/rows.jsonl")(project)
    assert told() == ("stale", "data/rows.jsonl changed")


PLAIN = {"description": "d", "owners": ["o"], "base_model": "b"}
NOW = version_of("training_mixture")
NO_TASKS = FoundNow({"task": {}, "general": {}})


def artifact(
    stage: str, inputs: dict[str, str], spec: dict[str, Any], version: int | None = None
) -> Artifact:
    """One of which only the manifest matters."""
    predicate = {
        "stage_version": version_of(stage) if version is None else version,
        "digest": stage,
        "inputs": inputs,
        "spec": spec,
        "figures": {},
        "payload": [],
        "evidence": [],
    }
    return Artifact(Place(KEY.prefix, stage, "k" * 64), predicate)


def plan_of(spec: VariantSpec, ranks: int, kind: str = "cpu", **inputs: str) -> Artifact:
    keyed = {"spec": shown(narrowed(spec, PLANNED)), "hardware": {"kind": kind, "ranks": ranks}}
    by = ranked_by(spec)
    return artifact("training_plan", {**({} if by is None else {"ranked_by": by}), **inputs}, keyed)


def frozen(content: dict[str, Any]) -> Artifact:
    return artifact("declaration", {}, {"content": {"spec": content, "sources": [], "tasks": {}}})


def told(
    settled: Path, spec: VariantSpec, made: dict[str, Artifact], newest: Artifact | None = None
) -> list[StaleCause]:
    """The causes for a version of these artifacts."""
    version = VersionArtifacts(made, {"declaration": newest}, ())
    workspace = Workspace(load_settings(settled), KEY, looking=True)
    return [*difference(workspace, Declared(KEY, Path(FILE), spec, {}), version, NO_TASKS)]


def fields_of(causes: list[StaleCause]) -> tuple[str, ...]:
    return tuple(cause.what for cause in causes if cause.kind == "field")


@pytest.mark.parametrize(("version", "said"), [(3, ()), (NOW, RANKED)])
def test_a_default_that_changed_with_the_mixtures_version_is_said_by_that_alone(
    settled: Path, version: int, said: tuple[str, ...]
) -> None:
    spec = VariantSpec.model_validate({**PLAIN, "data": {"sources": ["s"], "general": {"corpus": "c"}}})
    then = spec.model_dump(mode="json")
    del then["data"]["general"]["texts"]  # as it was frozen before there was such a field
    keyed = {"spec": shown(narrowed(spec, training_mixture.RENDERED))}
    mixture = artifact("training_mixture", {"general_corpus": "c"}, keyed, version)
    plan = plan_of(spec, 1, training_mixture=mixture.digest, ranked_by="0" * 64)
    causes = told(settled, spec, {"training_mixture": mixture, "training_plan": plan}, frozen(then))
    assert fields_of(causes) == said


def test_what_keys_took_up_later_is_in_some_of_them_and_those_without_it_name_no_change(
    settled: Path,
) -> None:
    watched: dict[str, Any] = {"general_loss_limit": 0.1, "past_limit": "go_on"}

    def declared(**training: Any) -> VariantSpec:
        data = {"sources": ["r.jsonl"], "general": {"from": "base"}}
        plain = {**PLAIN, "data": data, "plan": {"probe": "on"}}
        return VariantSpec.model_validate({**plain, "training": {"watch": watched, **training}})

    then = declared(on_bad_rate="lower")
    by = ranked_by(then) or ""
    hardware = {"kind": "cpu", "ranks": 1}
    keys = {
        "probe": artifact(
            "probe", {"ranked_by": by}, {"spec": shown(probe.keyed(then)), "hardware": hardware}
        ),
        "training_mixture": artifact(
            "training_mixture",
            {"general_corpus": "c"},
            {"spec": shown(narrowed(then, training_mixture.RENDERED))},
        ),
        "training_plan": plan_of(then, 1, probe="probe"),
    }
    assert fields_of(told(settled, then, keys)) == ()
    assert fields_of(told(settled, declared(), keys)) == ("training.on_bad_rate",)
    watched["past_limit"] = "stop"
    assert fields_of(told(settled, declared(on_bad_rate="lower"), keys)) == ("training.watch.past_limit",)


@pytest.mark.parametrize(("kind", "field"), [("cpu", "resources.cpu_ranks"), ("cuda", "resources.gpus")])
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_training_over_nodes_is_fresh_until_their_number_or_a_nodes_ranks_change(
    settled: Path, kind: str, field: str, nodes: int
) -> None:
    name = field.split(".")[1]

    def declared(**resources: Any) -> VariantSpec:
        return VariantSpec.model_validate({**PLAIN, "data": {"sources": ["s"]}, "resources": resources})

    then = declared(nodes=nodes, **{name: 2})
    plan = plan_of(then, 2 * nodes, kind)

    def named(**resources: Any) -> tuple[str, ...]:
        newest = frozen(then.model_dump(mode="json"))
        return fields_of(told(settled, declared(**resources), {"training_plan": plan}, newest))

    assert named(nodes=nodes, **{name: 2}) == ()
    assert named(nodes=2, **{name: 2}) == ("resources.nodes",)
    assert named(nodes=nodes, **{name: 3}) == (field,)
    assert named(nodes=5, **{name: 3}) == tuple(sorted((field, "resources.nodes")))


@pytest.mark.parametrize(("tokens", "withheld"), [((), None), (("<tool>",), [7]), (("<tool>",), None)])
def test_scores_of_a_base_that_chose_among_added_tokens_are_out_of_date(
    settled: Path, tokens: tuple[str, ...], withheld: list[int] | None
) -> None:
    spec = VariantSpec.model_validate({**PLAIN, "data": {"sources": ["s"]}})
    base = artifact("base_model", {}, {"new_tokens": list(tokens)})
    asked = {"general.spec": shown(narrowed(spec, (*QUESTIONS, *GENERAL))), "general.tasks": {}}
    keyed = {**asked, "withheld": withheld, "device": "cpu", "dtype": "float32"}
    scores = artifact("general_scores", {"base_model": base.digest}, keyed)
    causes = told(settled, spec, {"base_model": base, "general_scores": scores})
    said = "general questions were asked of the base with the tokens that were added to it"
    assert (said in {cause.words for cause in causes}) == (tokens != () and withheld is None)


def test_nothing_is_opened_to_tell_whether_a_version_is_current(settled: Path, tmp_path: Path) -> None:
    """Its payloads, its evidence, its base and its rows are gone, and its manifests stand."""
    project = shutil.copytree(settled, tmp_path / "project")
    workspace = Workspace(load_settings(project), KEY, looking=True)
    version = version_artifacts(workspace.store, workspace.prefix)
    found = SharedState(workspace.settings).of(workspace.declared())
    for made in version.artifacts.values():
        for part in ("payload", "evidence"):
            shutil.rmtree(Path(workspace.store.root) / made.path / part, ignore_errors=True)
    shutil.rmtree(project / "data")
    assert difference(workspace, workspace.declared(), version, found) == ()
    declare("training.seed", 7)(project)
    causes = difference(workspace, workspace.declared(), version, found)
    assert fields_of([*causes]) == ("training.seed",)
