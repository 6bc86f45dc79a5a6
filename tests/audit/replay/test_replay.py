"""What a replay stands on: the kept code, the recorded libraries, and what differs from them."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from ft_dagster.audit.replay import kept_code, rebuild_stage, recipe
from ft_dagster.audit.replay.kept_code import build_environment, environment_differences, unpack_code
from ft_dagster.audit.replay.recipe import CleanProject, lay_out, recorded_of
from ft_dagster.audit.replay.replay import otherwise_before, replay, whole_steps
from ft_dagster.audit.replay.replay_folder import PREFIX, replay_folder
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import CANCELLED
from ft_dagster.launch import processes
from ft_dagster.launch.launcher import OUTPUT, RESULT_FILE
from ft_dagster.provenance.code import source_archive, source_digest
from ft_dagster.provenance.digest import FileDigest, payload_digest
from ft_dagster.provenance.manifest import local_environment
from ft_dagster.settings import EvaluationSettings, Settings, load_settings
from ft_dagster.spec import VariantKey, load_corpus
from ft_dagster.store import Attempt, Store, verify_artifact
from ft_dagster.training.journal import Ledger
from ft_dagster.training.oom_retry import wants_halving
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.audit.histories import History, question
from tests.s3_server import S3Server
from tests.stored_figures import stored_training

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def archived(store: Store, digest: str, files: dict[str, bytes]) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    store.write(f"shared/code/{digest}.tar.gz", raw.getvalue())


def test_the_kept_code_is_what_python_finds_first(store: Store, tmp_path: Path) -> None:
    store.write(f"shared/code/{source_digest()}.tar.gz", source_archive())
    code = unpack_code(store, source_digest(), tmp_path / "code")
    asked = (
        "import ft_dagster, ft_dagster.provenance.code as c; print(ft_dagster.__file__, c.source_digest())"
    )
    said = subprocess.check_output(
        [sys.executable, "-P", "-c", asked], text=True, env={"PYTHONPATH": str(code)}
    )
    assert said.split() == [str(code / "ft_dagster" / "__init__.py"), source_digest()]


def test_code_that_is_gone_is_one_clear_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the code that made this is gone.*Restore it from a backup"):
        unpack_code(store, "a" * 64, tmp_path / "code")


@pytest.mark.parametrize(
    "files",
    [
        {"ft_dagster/__init__.py": b"print('another')"},
        {"sitecustomize.py": b"", "ft_dagster/__init__.py": b""},
        {"../outside.py": b""},
        {},
    ],
    ids=["other bytes", "more than the package", "outside of the folder", "none"],
)
def test_code_of_another_digest_is_not_run(store: Store, tmp_path: Path, files: dict[str, bytes]) -> None:
    archived(store, "b" * 64, files)
    with pytest.raises(UserError, match="not the one of its digest"):
        unpack_code(store, "b" * 64, tmp_path / "code")
    assert not (tmp_path / "outside.py").exists()


def test_code_that_would_lie_outside_of_its_package_is_not_unpacked(store: Store, tmp_path: Path) -> None:
    """Though its digest is that of its files: who forges the archive can forge what names it."""
    digest = payload_digest([FileDigest("../outside.py", 0, hashlib.sha256().hexdigest())])
    archived(store, digest, {"ft_dagster/../outside.py": b""})
    with pytest.raises(UserError, match="not the one of its digest"):
        unpack_code(store, digest, tmp_path / "code")
    assert not list(tmp_path.rglob("outside.py"))


def test_code_that_is_larger_than_any_package_is_not_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"ft_dagster/a.py": b"0" * 60, "ft_dagster/b.py": b"0" * 60}
    hashed = [FileDigest(path.partition("/")[2], 60, hashlib.sha256(b"0" * 60).hexdigest()) for path in files]
    digest = payload_digest(hashed)
    archived(store, digest, files)
    assert unpack_code(store, digest, tmp_path / "code").is_dir()
    monkeypatch.setattr(kept_code, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="not the one of its digest"):
        unpack_code(store, digest, tmp_path / "large")


def test_an_archive_that_is_none_is_not_run(store: Store, tmp_path: Path) -> None:
    store.write(f"shared/code/{'c' * 64}.tar.gz", b"no archive")
    with pytest.raises(UserError, match="not the one of its digest"):
        unpack_code(store, "c" * 64, tmp_path / "code")


def test_code_from_before_stages_ran_by_themselves_says_so(tmp_path: Path) -> None:
    (tmp_path / "code" / "ft_dagster").mkdir(parents=True)
    (tmp_path / "code" / "ft_dagster" / "__init__.py").write_text("")
    answer = tmp_path / "answer.json"
    words = [str(tmp_path), "acme.one", "task_dataset", str(answer)]
    command = [sys.executable, "-P", rebuild_stage.__file__, *words]
    assert subprocess.run(command, env={"PYTHONPATH": str(tmp_path / "code")}, check=False).returncode == 2
    assert "older than stages that run by themselves" in json.loads(answer.read_text("utf-8"))["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal")
def test_a_stage_that_is_made_again_ends_with_who_asked(tmp_path: Path) -> None:
    package, started = tmp_path / "code" / "ft_dagster", tmp_path / "started"
    (package / "launch").mkdir(parents=True)
    for file in (package / "__init__.py", package / "launch" / "__init__.py"):
        file.write_text("")
    shutil.copy(processes.__file__, package / "launch" / "processes.py")
    waits = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid()))"
    (package / "errors.py").write_text(f"{waits}; time.sleep(60)")
    words = [str(tmp_path), "acme.one", "task_dataset", str(tmp_path / "answer.json")]
    starts = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    command = [sys.executable, "-c", starts, sys.executable, "-P", rebuild_stage.__file__, *words]
    with subprocess.Popen(command, env={"PYTHONPATH": str(tmp_path / "code")}) as asked_by:
        assert holds(lambda: started.is_file() and started.read_text() != "")
        asked_by.kill()
    assert holds(lambda: not lives(int(started.read_text())))


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def holds(fact: Callable[[], bool]) -> bool:
    """Within ten seconds."""
    end = time.monotonic() + 10
    while not fact() and time.monotonic() < end:
        time.sleep(0.02)
    return fact()


def recorded_with(**libraries: str | None) -> dict[str, Any]:
    here = local_environment()
    found = {**here["libraries"], **libraries}
    return {**here, "libraries": {name: version for name, version in found.items() if version is not None}}


def test_libraries_that_differ_are_named_and_those_that_no_stage_uses_are_not() -> None:
    recorded = recorded_with(torch="1.0", peft=None, dagster="0.1", **{"ft-dagster": "0.1"})
    differs = environment_differences(recorded)
    here = local_environment()["libraries"]
    assert differs == {"torch": ("1.0", here["torch"]), "peft": (None, here["peft"])}
    assert environment_differences(local_environment()) == {}


def test_no_environment_is_made_for_another_python(tmp_path: Path) -> None:
    recorded = {**recorded_with(), "python": "3.9.1"}
    with pytest.raises(UserError, match=r"made with Python 3\.9\.1"):
        build_environment(tmp_path, recorded, lambda line: None)


def test_where_all_libraries_are_here_this_interpreter_is_taken(tmp_path: Path) -> None:
    assert build_environment(tmp_path, local_environment(), lambda line: None) == Path(sys.executable)


def wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir()
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}/__init__.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.long
def test_the_recorded_libraries_are_installed_over_those_of_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "wheels", "safetensors", "0.0.7")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    recorded = recorded_with(safetensors="0.0.7")
    python = build_environment(tmp_path / "python", recorded, lambda line: None)
    asked = "from importlib.metadata import version; print(version('safetensors'), version('torch'))"
    said = subprocess.check_output([python, "-P", "-c", asked], text=True).split()
    assert said == ["0.0.7", local_environment()["libraries"]["torch"]]
    with pytest.raises(UserError, match="pip cannot install the recorded libraries"):
        build_environment(tmp_path / "other", recorded_with(safetensors="0.0.8"), lambda line: None)


def test_a_model_of_whose_making_something_is_gone_is_not_made_again(
    history: History, tmp_path: Path
) -> None:
    audit = history.audit()
    with pytest.raises(UserError, match="the training_plan that fine_tuned_model was made of is gone"):
        recorded_of(audit, audit.model("acme.one"))


def test_a_folder_with_something_in_it_is_refused(history: History, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    audit = history.audit()
    with pytest.raises(UserError, match="not an empty folder"):
        replay(audit, audit.model("acme.one"), tmp_path / "there")
    with pytest.raises(UserError, match="cannot be made"):
        replay(audit, audit.model("acme.one"), tmp_path / "there" / "file")


@pytest.fixture
def declared(tmp_path: Path) -> History:
    made = History(tmp_path / "project")
    made.declared("acme.one", [question(number) for number in range(40)], kept=40)
    return made


def test_a_task_may_call_in_the_clean_project_what_it_may_in_this_one(
    declared: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    (declared.folder / "scoring.py").write_text("def score(): ...", "utf-8")
    said = {"sources": {"bases": ["/models"]}, "evaluation": {"functions": ["scoring.py", "json"]}}
    (declared.folder / "ft_dagster.yaml").write_text(json.dumps(said), "utf-8")
    audit = declared.audit()
    clean = lay_out(audit, recorded_of(audit, audit.model("acme.one")), tmp_path / "clean").folder
    assert (clean / "scoring.py").read_text("utf-8") == "def score(): ..."
    roots = load_settings(clean).roots("acme")
    assert roots.functions == (str(clean / "scoring.py"), "json")
    assert roots.bases == (Path("/models"),)


def test_a_corpus_is_declared_in_the_clean_project_as_it_was_made(tmp_path: Path) -> None:
    then = History(tmp_path / "project")
    made = then.corpus([f"Text {n}." for n in range(40)], "news")
    clean = CleanProject(tmp_path / "clean", Store(str(tmp_path / "clean" / "store")), "tenants/acme/one", "")
    clean.point_at(made)
    assert load_corpus(clean.folder, "news").model_dump(mode="json") == made.spec["corpus"]


@pytest.mark.parametrize("ran_out", [True, False])
def test_a_training_that_ran_out_of_memory_is_made_again_with_half_the_micro_batch(
    declared: History, tmp_path: Path, ran_out: bool
) -> None:
    audit = declared.audit()
    recorded = recorded_of(audit, audit.model("acme.one"))
    said = audit.artifact(recorded.model)
    said.figures["micro_batch_halved"] = ran_out
    clean = load_settings(lay_out(audit, recorded, tmp_path / "clean").folder)
    workspace = Workspace(clean, VariantKey.parse("acme.one"), RunOf("replay", "replay"))
    run_folder = workspace.run_dir(Attempt(said.place, "one", tmp_path / "attempt", in_store=False))
    assert wants_halving(run_folder, run_folder / OUTPUT / RESULT_FILE) == ran_out


LEDGER = {"records": ["a", "b"], "times": [2, 2], "batches": ["1", "2", "3", "4"]}


@pytest.mark.parametrize(
    ("change", "resumed", "whole"),
    [
        ({"batches": ["x", "y", "3", "4"]}, (2,), 2),
        ({"batches": ["x", "2", "3", "4"]}, (2,), 2),  # of a step with one row there is no half
        ({"batches": ["x", "y", "3", "4"]}, (2, 3), 2),
        ({"batches": ["x", "y", "z", "4"]}, (2,), 0),
        ({"batches": ["1", "2", "3", "x"]}, (2,), 0),
        ({"batches": ["x", "y", "3", "4"], "times": [1, 3]}, (2,), 0),
        ({"batches": ["x", "y", "3", "4"]}, (), 0),
    ],
)
def test_steps_before_memory_ran_out_are_told_from_another_batch(
    change: dict[str, Any], resumed: tuple[int, ...], whole: int
) -> None:
    figures = stored_training(micro_batch_halved=True, resumed_from=list(resumed))
    changed, ledger = cast("Ledger", {**LEDGER, **change}), cast("Ledger", LEDGER)
    assert whole_steps(changed, ledger, TrainingFigures.from_json(figures)) == whole
    figures.pop("micro_batch_halved")
    assert not whole_steps(changed, ledger, TrainingFigures.from_json(figures))


def test_what_was_laid_out_otherwise_is_said_as_that() -> None:
    assert otherwise_before(2) == (
        "its first 2 steps were laid out otherwise, before memory ran out, and had the recorded examples "
        "together; each step after had the recorded batch"
    )


def put(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")


def test_questions_that_a_task_names_elsewhere_are_in_the_clean_project(
    declared: History, tmp_path: Path
) -> None:
    files = {"tasks/quiz.yaml": "../asked/quiz.jsonl", "quiz.yaml": "others/quiz.jsonl", "gone.yaml": "none"}
    for name, data in files.items():
        kwargs = {"data_files": {"test": data}}
        task = {"task": "quiz", "dataset_path": "json", "dataset_kwargs": kwargs}
        put(declared.folder / name, json.dumps(task))
    for name in ("asked/quiz.jsonl", "asked/more.jsonl", "others/quiz.jsonl"):
        put(declared.folder / name, name)
    audit = declared.audit()
    recorded = recorded_of(audit, audit.model("acme.one"))
    spec = {**recorded.content["spec"], "evaluation": {"task": ["gone.yaml"], "general": [*files]}}
    recorded = replace(recorded, content={**recorded.content, "spec": spec})
    clean = lay_out(audit, recorded, tmp_path / "clean").folder
    assert (clean / "asked" / "quiz.jsonl").read_text("utf-8") == "asked/quiz.jsonl"
    assert (clean / "others" / "quiz.jsonl").read_text("utf-8") == "others/quiz.jsonl"
    assert not (clean / "asked" / "more.jsonl").exists()


def test_a_disk_without_room_is_said_in_one_line(declared: History, tmp_path: Path) -> None:
    audit = declared.audit()
    model = audit.model("acme.one")
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, allowed[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be copied: .*File too large.*--keep FOLDER"):
            replay(audit, model, tmp_path / "clean")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)


def test_a_stage_that_ends_in_the_middle_of_its_answer_is_said_in_one_line(
    declared: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = tmp_path / "python"
    ends.write_text('#!/bin/sh\necho memory ran out\nprintf \'{"di\' > "$6"\nexit 3\n', "utf-8")
    ends.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ends))
    audit = declared.audit()
    with pytest.raises(UserError, match="cannot be made again: it ended with 3: memory ran out"):
        replay(audit, audit.model("acme.one"), tmp_path / "clean")


def test_a_replay_that_is_terminated_leaves_no_folder_and_no_process(
    declared: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    words = ["--project", str(declared.folder), "audit", "replay", "acme.one"]
    command = [sys.executable, "-c", "from ft_dagster.cli import main; main()", *words]
    with subprocess.Popen(command) as asked_by:
        process = psutil.Process(asked_by.pid)
        assert holds(lambda: process.children() != [])
        [stage] = process.children()
        asked_by.send_signal(signal.SIGTERM)
        assert asked_by.wait(20) == CANCELLED
    assert not lives(stage.pid)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_a_killed_replay_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{PREFIX}of-before-there-were-locks").mkdir()
    code = (
        "import sys, tempfile, time\n"
        "from ft_dagster.audit.replay.replay_folder import replay_folder\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with replay_folder() as folder:\n"
        "    folder.mkdir()\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        left = Path(one.stdout.readline().strip())
        with replay_folder() as folder:
            assert not folder.exists()
            assert left.is_dir()  # somebody works there
        one.kill()
    assert left.is_dir()
    with replay_folder() as folder:
        assert not left.parent.exists()
        assert folder.parent.is_dir()
    assert [each.name for each in tmp_path.iterdir()] == [f"{PREFIX}of-before-there-were-locks"]


def test_a_model_of_a_gpu_is_not_made_again_without_one(declared: History, tmp_path: Path) -> None:
    (declared.folder / "ft_dagster.yaml").write_text(json.dumps({"host": {"gpus": []}}), "utf-8")
    audit = declared.audit()
    [plan] = audit.index.of_stage("training_plan")
    audit.artifact(plan).spec["hardware"] = {"kind": "cuda"}
    with pytest.raises(UserError, match="was trained on a GPU, and this host has none"):
        replay(audit, audit.model("acme.one"), tmp_path / "clean")


def test_a_model_of_a_remote_store_is_laid_out_from_copies(tmp_path: Path, s3_server: S3Server) -> None:
    (tmp_path / "project").mkdir()
    said = {"store": f"s3://{s3_server.bucket}/replayed", "store_options": s3_server.options}
    (tmp_path / "project" / "ft_dagster.yaml").write_text(json.dumps(said), "utf-8")
    made = History(tmp_path / "project")
    made.declared("acme.one", [question(number) for number in range(40)], kept=40)
    audit = made.audit()
    recorded = recorded_of(audit, audit.model("acme.one"))
    clean = lay_out(audit, recorded, tmp_path / "clean")
    assert not clean.store.remote
    for part in (recorded.declaration, *recorded.taken):
        verify_artifact(clean.store, audit.artifact(part), tmp_path / "cache")


def test_a_replay_is_judged_by_the_engine_that_judged_whatever_is_declared_today(tmp_path: Path) -> None:
    today = Settings(project=tmp_path, evaluation=EvaluationSettings(engine="vllm", functions=("own.py",)))
    asked = recipe._settings(today, {"engine": "transformers"})["evaluation"]
    assert asked == {"engine": "transformers", "functions": ["own.py"]}
    assert "evaluation" not in recipe._settings(Settings(project=tmp_path), {})  # older code knows none
    by_vllm = {"engine": "vllm", "vllm": "python"}
    assert recipe._settings(Settings(project=tmp_path), by_vllm)["evaluation"] == by_vllm
