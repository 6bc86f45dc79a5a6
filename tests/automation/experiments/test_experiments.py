"""Bake-offs and sweeps as a person runs them: the command line, the real graph, real trainings."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import dagster as dg
import psutil
import pytest
from typer.testing import CliRunner

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.experiments import experiments
from ft_dagster.automation.experiments.experiments import Experiment, ExperimentRun, Limits, carried
from ft_dagster.automation.experiments.parallel_runs import carry_out_all
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.build import default_resources as resources
from ft_dagster.cli import app
from ft_dagster.gate.samples import read_samples
from ft_dagster.lineage.release import history
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, load_variant
from ft_dagster.store import Store, read_head
from tests.e2e.project import command_environment, edit, write_project
from tests.e2e.workshop import Workshop, said_of
from tests.long import mostly_long
from tests.present import present

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
Answer = TypeVar("Answer")
KEY, PREFIX = VariantKey("acme", "places"), "tenants/acme/places"
DECLARATION = "tenants/acme/places.yaml"
SWEEP = [
    "sweep",
    "acme.places",
    "--set",
    "method.rank=4,2",
    "--set",
    "training.learning_rate=5e-3,1e-4",
    "--json",
]
BAKEOFF = ["bakeoff", "acme.places", "--methods", "full,lora", "--budget", "flops=3e9"]


def project(folder: Path, model: Path) -> Path:
    """The small project, without what costs time here and is tested elsewhere."""
    write_project(folder, model)

    def smaller(content: dict[str, Any]) -> None:
        content["evaluation"].update(general=[], limit=4, max_new_tokens=4)
        content["training"].update(num_train_epochs=8, evaluations=4)
        content["data"]["decontaminate"] = {"enabled": False}

    edit(folder / DECLARATION, smaller)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "ft-dagster", *arguments], env=command_environment(folder), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(folder, *arguments)
    stdout, stderr = process.communicate(timeout=400)
    return process.returncode, stdout, stderr


def said_by(folder: Path, *arguments: str) -> str:
    """What a command says that nothing disturbs: in this process, which has imported what it takes. Dagster's
    own lines stand before it: a program's go to a file.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(app, ["--project", str(folder), *arguments], catch_exceptions=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 0, done.output
    return done.stdout


def document_in(said: str) -> dict[str, Any]:
    """What a command printed as JSON, at its end."""
    (start,) = re.finditer(r"^\{", said, re.MULTILINE)
    found: dict[str, Any] = json.loads(said[start.start() :])
    return found


def until(question: Callable[[], Answer], patience: float = 120) -> Answer:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise TimeoutError(f"not in {patience} s")


def programs_of(folder: Path) -> list[psutil.Process]:
    """Programs of ours that work below a folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder / ".ft_dagster") in part for part in process.info["cmdline"] or [])
    ]


def trainings(store: Store) -> list[str]:
    """Keys of the models that were made; a training that was given up leaves only an empty folder."""
    stage = f"{PREFIX}/fine_tuned_model"
    return [key for key in store.names(stage) if store.exists(f"{stage}/{key}/manifest.json")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Path, dict[str, Any]]:
    """A sweep that was killed in its first training, then run again to its end."""
    folder = project(tmp_path_factory.mktemp("sweep") / "project", tiny_model_folder)
    runs = load_settings(folder).work_folder / "runs" / str(KEY)
    killed = start(folder, *SWEEP)
    until(lambda: list(runs.glob("fine_tuned_model-*/output/checkpoints/checkpoint-*/checkpoint.json")))
    killed.kill()
    killed.communicate()
    until(lambda: not programs_of(folder))
    return folder, document_in(said_by(folder, *SWEEP))


@pytest.mark.long
def test_a_sweep_killed_in_a_training_goes_on_from_its_checkpoint(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, document = swept
    store = load_settings(folder).open_store()
    first = document["runs"][0]
    assert first["status"] == "done"
    manifests = [
        store.read_json(f"{PREFIX}/fine_tuned_model/{key}/manifest.json") for key in trainings(store)
    ]
    resumed = {m["predicate"]["digest"]: m["predicate"]["figures"]["resumed_from"] for m in manifests}
    assert resumed[first["digests"]["fine_tuned_model"]] != []


@pytest.mark.long
def test_a_sweep_ranks_what_it_finished_and_stops_what_loses(swept: tuple[Path, dict[str, Any]]) -> None:
    _, document = swept
    runs = {
        (r["overrides"]["method.rank"], r["overrides"]["training.learning_rate"]): r for r in document["runs"]
    }
    assert set(runs) == {(4, 5e-3), (4, 1e-4), (2, 5e-3), (2, 1e-4)}
    assert [r["status"] for r in document["runs"]] == ["done", "done", "done", "stopped early"]
    loser = runs[2, 1e-4]
    assert 0 < len(loser["curve"]) < 4
    assert document["ranked_by"] == "task"
    assert len(document["ranking"]) == 3
    assert document["winner"]["training.learning_rate"] == 5e-3


@pytest.mark.long
def test_each_run_has_manifests_of_its_own_and_the_variant_has_no_head(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = swept
    store = load_settings(folder).open_store()
    for run in document["runs"][:3]:
        heads = f"{PREFIX}/experiments/{document['id']}/{run['number']}"
        judged = present(read_head(store, heads, "evaluation"))
        assert judged.digest == run["digests"]["evaluation"]
        assert judged.inputs["fine_tuned_model"] == run["digests"]["fine_tuned_model"]
    assert len(trainings(store)) == 3
    assert store.names(f"{PREFIX}/heads") == []
    assert history(store, PREFIX) == []
    assert not (folder / ".ft_dagster" / "dagster_home").exists()
    assert not list((load_settings(folder).work_folder / "runs" / str(KEY)).iterdir())


@pytest.mark.long
def test_the_same_command_again_runs_nothing_and_writes_the_winner_whose_model_run_reuses(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(swept[0], folder)
    store = load_settings(folder).open_store()
    before = trainings(store)
    code, stdout, stderr = command(folder, *SWEEP, "--write")
    assert code == 0, stderr + stdout
    document = json.loads(stdout)
    assert stderr.count("before, kept") == 4
    assert document["written"] == str(folder / DECLARATION)
    spec = load_variant(folder, KEY).spec
    assert spec.method.given["rank"] == document["winner"]["method.rank"]
    with dg.DagsterInstance.ephemeral() as instance:
        assert Workshop(folder, instance).materialize(str(KEY)).success
    assert trainings(store) == before
    won = next(r for r in document["runs"] if r["number"] == document["ranking"][0])
    made = present(read_head(store, PREFIX, "fine_tuned_model"))
    assert made.digest == won["digests"]["fine_tuned_model"]
    assert len(history(store, PREFIX)) == 1
    judged, place = present(read_head(store, PREFIX, "evaluation")), document["id"]
    assert judged.spec["tries"] == 1  # no run of the sweep was a try
    judging = {sample.question for sample in read_samples(judged.folder(store, tmp_path) / "payload")}
    for number in document["ranking"]:
        head = present(read_head(store, f"{PREFIX}/experiments/{place}/{number}", "evaluation"))
        chosen_by = {sample.question for sample in read_samples(head.folder(store, tmp_path) / "payload")}
        assert chosen_by
        assert not chosen_by & judging


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Path, dict[str, Any]]:
    """A bake-off of two methods at equal FLOPs."""
    folder = project(tmp_path_factory.mktemp("bakeoff") / "project", tiny_model_folder)
    return folder, document_in(said_by(folder, *BAKEOFF, "--json"))


@pytest.mark.long
def test_an_experiment_is_not_released_whatever_the_tags_say(baked: tuple[Path, dict[str, Any]]) -> None:
    folder, document = baked
    tags = {"ft/experiment": f"{document['id']}/1", "ft/overrides": json.dumps({"gates.task_margin": 1.0})}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
        result = dg.materialize(
            CHAIN[-3:], partition_key=str(KEY), instance=instance, resources=resources(str(folder)),
            tags=tags, raise_on_error=False,
        )  # fmt: skip
    (event,) = [
        e for e in result.all_events if e.event_type_value == "STEP_FAILURE" and e.step_key == "model_export"
    ]
    assert "acme.places has no declaration yet" in said_of(event)
    assert history(load_settings(folder).open_store(), PREFIX) == []


@pytest.mark.long
def test_methods_at_equal_flops_realize_the_budget(baked: tuple[Path, dict[str, Any]]) -> None:
    folder, document = baked
    full, lora = document["runs"]
    assert full["dropped"] == ["method.rank 4", "training.learning_rate 0.005"]
    for run in (full, lora):
        figures = run["figures"]
        assert figures["flops"] == pytest.approx(3e9, rel=0.05)
        assert figures["steps"] == run["overrides"]["training.max_steps"]
        assert {rule["rule"] for rule in figures["rules"]} == {"task"}  # what judges is not asked
        assert 1e6 < figures["peak_memory_bytes"] < 1e9  # above what imports take, as a plan foretells it
    assert lora["figures"]["steps"] > full["figures"]["steps"]
    assert full["figures"]["trainable_parameters"] > lora["figures"]["trainable_parameters"]
    assert full["figures"]["size_bytes"] > lora["figures"]["size_bytes"]
    table = said_by(folder, *BAKEOFF)
    for words in ("full", "lora", "FLOPs", "peak memory", "validation loss"):
        assert words in table


@pytest.mark.long
def test_an_interrupt_ends_the_programs_and_leaves_a_run_that_goes_on(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = project(tmp_path / "project", tiny_model_folder)
    process = start(folder, *SWEEP)
    work = load_settings(folder).work_folder
    until(lambda: list((work / "runs" / str(KEY)).glob("fine_tuned_model-*/output")) and programs_of(folder))
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert programs_of(folder) == []
    assert [run["status"] for run in registry(folder)] == ["running", "waiting", "waiting", "waiting"]


def beside(folder: Path, model: Path) -> Path:
    """A project whose runs take one slot each, so that two have room on two cores."""
    project(folder, model)
    edit(folder / DECLARATION, lambda content: content.update(resources={"cpu_slots": 1}))
    return folder


def registry(folder: Path) -> list[dict[str, Any]]:
    store = load_settings(folder).open_store()
    (name,) = [n for n in store.names(f"{PREFIX}/experiments") if n.endswith(".json")]
    runs: list[dict[str, Any]] = store.read_json(f"{PREFIX}/experiments/{name}")["runs"]
    return runs


def members_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the runs that a command has side by side."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.long
def test_runs_side_by_side_make_what_they_make_alone(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, tiny_model_folder: Path
) -> None:
    alone = {run["name"]: run for run in swept[1]["runs"]}
    folder = beside(tmp_path / "project", tiny_model_folder)
    process = start(folder, *SWEEP, "--at-once", "2")
    until(lambda: len(members_of(process)) == 2)
    assert [run["status"] for run in registry(folder)] == ["running", "running", "waiting", "waiting"]
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    runs = document_in(stdout)["runs"]
    assert [run["status"] for run in runs] == ["done"] * 4
    assert programs_of(folder) == []
    for run in runs[:3]:  # the fourth was held against the others there
        for stage in ("training_plan", "fine_tuned_model", "evaluation"):
            assert run["digests"][stage] == alone[run["name"]]["digests"][stage], stage
        assert run["curve"] == alone[run["name"]]["curve"]


@pytest.mark.long
def test_a_run_beside_another_that_is_ended_fails_alone_and_is_tried_again(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = beside(tmp_path / "project", tiny_model_folder)
    sweep = ["sweep", "acme.places", "--set", "method.rank=4,2", "--at-once", "2", "--json"]
    process = start(folder, *sweep)
    until(lambda: len(members_of(process)) == 2)
    members_of(process)[0].kill()
    stdout, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    statuses = {run["status"]: run["error"] for run in document_in(stdout)["runs"]}
    assert statuses.keys() == {"done", "failed"}
    assert "ended from outside (exit code -9)" in statuses["failed"]
    again = document_in(said_by(folder, *sweep))["runs"]
    assert [run["status"] for run in again] == ["done", "done"]


def training_beside(project: Path, model: Path) -> tuple[Path, subprocess.Popen[str]]:
    """A sweep of which two runs train side by side."""
    folder = beside(project, model)
    process = start(folder, *SWEEP, "--at-once", "2")
    work = load_settings(folder).work_folder / "runs" / str(KEY)
    until(lambda: list(work.glob("fine_tuned_model-*/output")) and len(members_of(process)) == 2)
    return folder, process


@pytest.mark.long
def test_an_interrupt_ends_the_programs_of_all_runs_side_by_side(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder, process = training_beside(tmp_path / "project", tiny_model_folder)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert programs_of(folder) == []
    assert [run["status"] for run in registry(folder)] == ["running", "running", "waiting", "waiting"]


@pytest.mark.long
def test_a_killed_command_takes_the_runs_that_it_has_side_by_side_along_and_goes_on(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder, process = training_beside(tmp_path / "project", tiny_model_folder)
    members = members_of(process)
    process.kill()
    process.communicate()
    until(lambda: not programs_of(folder))
    assert psutil.wait_procs(members, timeout=30)[1] == []
    runs = document_in(said_by(folder, *SWEEP, "--at-once", "2"))["runs"]
    assert [run["status"] for run in runs] == ["done"] * 4


class Unreadable:
    """What another process cannot take."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@pytest.mark.long
def test_a_run_whose_process_breaks_fails_alone_and_says_where_to_look(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = project(tmp_path / "project", tiny_model_folder)
    settings, declared = load_settings(folder), load_variant(folder, KEY)
    runs = [ExperimentRun(n, f"run {n}", {"method.rank": Unreadable()}) for n in (1, 2)]
    experiment = Experiment(settings, declared, "sweep-0", {}, [])
    said: list[str] = []
    carry_out_all(experiment, runs, said.append)
    assert [run.status for run in runs] == ["failed", "failed"]
    assert len(said) == 2
    for run in runs:
        assert run.error == f"its process ended with exit code 1. See {experiment.log}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    mostly_long(
        [
            (["bakeoff", "acme.places", "--methods", "full", "--budget", "flops=1e9"], "two methods"),
            (["bakeoff", "acme.places", "--methods", "full,lara", "--budget", "flops=1e9"], "no such method"),
            (["bakeoff", "acme.places", "--methods", "full,lora", "--budget", "minutes=-3"], "not a budget"),
            (["sweep", "acme.places", "--set", "method.rnk=4"], "Did you mean method.rank"),
        ],
        every=4,
    ),
)
def test_a_mistake_is_one_message_and_starts_nothing(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    folder = project(tmp_path, tmp_path / "base")
    code, stdout, stderr = command(folder, *arguments, "--json")
    assert code == 2
    assert words in stderr
    assert "Traceback" not in stderr
    assert words in json.loads(stdout)["message"]
    assert not load_settings(folder).open_store().exists(PREFIX)


def of_one_room(folder: Path, model: Path) -> Path:
    """A project on a host that has room for one training."""
    project(folder, model)
    edit(folder / "ft_dagster.yaml", lambda content: content["host"].update(cpu_slots=1))
    return folder


def test_a_defect_fails_its_run_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def chain(workspace: Any, _: Any) -> Any:
        raise OSError("the store is gone")

    monkeypatch.setattr(experiments, "run_chain", chain)
    monkeypatch.setattr(experiments, "workspace_of", lambda *_: None)
    run = ExperimentRun(1, "1", {})
    carried(cast(Any, SimpleNamespace(log=tmp_path / "log")), run, Limits())
    assert (run.status, run.error) == (
        "failed",
        f"OSError: the store is gone. See {tmp_path / 'log'}",
    )


@pytest.mark.long
def test_runs_that_have_room_for_one_training_make_what_they_make_side_by_side(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, tiny_model_folder: Path
) -> None:
    alone = {run["name"]: run for run in swept[1]["runs"]}
    folder = of_one_room(tmp_path / "project", tiny_model_folder)
    code, stdout, stderr = command(folder, *SWEEP, "--at-once", "3")
    assert code == 0, stderr
    runs = document_in(stdout)["runs"]
    assert [run["status"] for run in runs] == [run["status"] for run in alone.values()]
    for run in runs[:3]:
        for stage in ("training_plan", "fine_tuned_model", "evaluation"):
            assert run["digests"][stage] == alone[run["name"]]["digests"][stage], stage
    for run in runs:
        assert run["curve"] == alone[run["name"]]["curve"]
    assert programs_of(folder) == []


@pytest.mark.long
def test_of_runs_that_wait_for_one_another_one_fails_alone(tmp_path: Path, tiny_model_folder: Path) -> None:
    """At a rate of 1 such a decay takes each weight to -9 times what it was."""
    folder = of_one_room(tmp_path / "project", tiny_model_folder)
    fields = ("learning_rate=5e-3,1,1e-4", "weight_decay=10", "max_steps=40")
    sets = [word for field in fields for word in ("--set", f"training.{field}")]
    code, stdout, stderr = command(folder, "sweep", "acme.places", *sets, "--json", "--at-once", "3")
    assert code == 0, stderr
    runs = document_in(stdout)["runs"]
    assert [run["status"] for run in runs] == ["done", "failed", "done"]
    assert "training.learning_rate" in runs[1]["error"]
