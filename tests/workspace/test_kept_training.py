"""A whole run that begins anew on another host: its training goes on from the store, to the same model.

Hosts are processes with a work folder of their own; the store is a real S3 server.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store
from ft_dagster.training.contract import read_run
from ft_dagster.workspace.kept_training import fetch_checkpoints, kept_training
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import command_environment, edit, write_project
from tests.s3_server import S3Server, serve_s3
from tests.training.runs import Runs

PROGRAM = Path(__file__).with_name("programs") / "make.py"
TRAINING, EXPIRY = "fine_tuned_model", 8.0
LONG = {"num_train_epochs": 20, "evaluations": 8, "keep_best": 2, "keep_last": 2}


class Host:
    """A process that makes a variant, with a work folder of its own."""

    def __init__(self, project: Path, server: S3Server, name: str, *arguments: str) -> None:
        folder = server.folder.parent
        self.work, self._file = folder / f"work-{name}", folder / f"{name}.txt"
        environment = {
            **command_environment(project),
            **server.environment,
            "FT_DAGSTER_STORE": f"s3://{server.bucket}/store",
            "FT_DAGSTER_WORK": str(self.work),
            "OMP_NUM_THREADS": "1",
        }
        with self._file.open("w") as output:
            self.process = psutil.Popen(
                [sys.executable, str(PROGRAM), str(project), name, *arguments],
                env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._file.read_text()

    @property
    def trainers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = process.cmdline()
                if "ft_dagster.training" in line and any(str(self.work) in word for word in line):
                    found.append(process)
        return found

    def end(self, seconds: float = 1800) -> int:
        code: int = self.process.wait(seconds)
        return code

    def is_lost(self) -> None:
        """Nothing is left of it: no process, no file."""
        for process in (*self.trainers, self.process):
            with suppress(psutil.Error):
                process.kill()
        self.end()
        wait_for(lambda: not self.trainers)
        shutil.rmtree(self.work)


@dataclass
class Site:
    """A project whose variant is planned, and a store with the plan."""

    project: Path
    planned: Path
    servers: ExitStack

    def copied(self, name: str) -> S3Server:
        """Another store of the same content, and its server: one would not see what others write."""
        folder = self.planned.with_name(name)
        shutil.copytree(self.planned, folder)
        return self.servers.enter_context(serve_s3(folder))

    def trains(self, name: str, server: S3Server) -> Host:
        return Host(self.project, server, name, TRAINING, str(EXPIRY))


def wait_for(condition: Callable[[], object], seconds: float = 1800) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kept(server: S3Server) -> list[Path]:
    """What makes each checkpoint whole that is in a store."""
    return list(
        server.folder.glob(
            f"store/tenants/acme/places/{TRAINING}/*/nodes/evidence/output/checkpoints/*/checkpoint.json"
        )
    )


def manifests(server: S3Server) -> list[Path]:
    return list(server.folder.glob(f"store/tenants/acme/places/{TRAINING}/*/manifest*.json"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hosts")
    project = write_project(folder / "project", tiny_model_folder)
    edit(project / "tenants/acme/places.yaml", lambda content: content["training"].update(LONG))
    with serve_s3(folder / "planned") as server:
        plans = Host(project, server, "plans", "training_plan")
        assert plans.end() == 0, plans.said
    with ExitStack() as servers:
        yield Site(project, folder / "planned", servers)


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> str:
    """What a host says that nobody disturbs: the digest of its model."""
    stored = site.copied("undisturbed")
    host = site.trains("undisturbed", stored)
    assert host.end() == 0, host.said
    assert kept(stored) == []  # forgotten, once what they were for is committed
    return host.said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.long
def test_a_run_whose_host_was_lost_goes_on_on_another_to_the_same_model(site: Site, undisturbed: str) -> None:
    stored = site.copied("lost")
    first = site.trains("first", stored)
    wait_for(lambda: len(kept(stored)) > 1 or first.process.poll() is not None)
    assert manifests(stored) == [], first.said
    first.is_lost()

    second = site.trains("second", stored)
    assert second.end() == 0, second.said
    assert "is brought here from s3://" in second.said
    assert "resuming at step" in second.said
    assert second.said.splitlines()[-1] == undisturbed
    assert kept(stored) == []
    assert len(manifests(stored)) == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_was_stopped_while_another_took_over_ends_its_program_and_commits_nothing(
    site: Site, undisturbed: str
) -> None:
    stored = site.copied("stopped")
    first = site.trains("first", stored)
    wait_for(lambda: kept(stored) or first.process.poll() is not None)
    stopped = [first.process, *first.trainers]
    for process in stopped:
        process.suspend()
    assert len(stopped) > 1, first.said

    second = site.trains("second", stored)
    assert second.end() == 0, second.said
    assert second.said.splitlines()[-1] == undisturbed
    (manifest,) = manifests(stored)
    committed = manifest.read_bytes()

    for process in stopped:
        process.send_signal(signal.SIGCONT)
    assert first.end() == 3, first.said
    assert "run second on" in first.said
    assert "took this training over" in first.said
    wait_for(lambda: not first.trainers)
    assert [file.read_bytes() for file in manifests(stored)] == [committed]
    assert list(manifest.parent.glob("divergences/*")) == []
    assert kept(stored) == []


@pytest.mark.parametrize(("stage", "looked_at"), [(0, True), (2, False)])
def test_shards_of_zero_which_are_pickles_are_neither_fetched_nor_sent(
    s3_server: S3Server, tmp_path: Path, stage: int, looked_at: bool
) -> None:
    runs = Runs(tmp_path, tmp_path / "base", tmp_path / "mixture")
    run_dir = runs.prepare("run", training={"deepspeed": {"stage": stage}})
    asked, said = read_run(run_dir), list[str]()
    store = Store(f"s3://{s3_server.bucket}/{tmp_path.name}", s3_server.options, tmp_path)
    run = RunOf("a-run", say=said.append)
    workspace = Workspace(Settings(project=tmp_path), VariantKey("acme", "places"), run, opened=store)
    store.write("place/output/checkpoints/checkpoint-5/checkpoint.json", b"{}")  # planted

    fetch_checkpoints(workspace, run_dir, "place", asked)
    assert [line.endswith("it is not used") for line in said] == [True] * looked_at
    with kept_training(workspace, run_dir, "place", None, asked) as attend:
        attend()
    assert any("those of ZeRO are pickles" in line for line in said) is not looked_at
    assert list(store.files_below("place")) == ["output/checkpoints/checkpoint-5/checkpoint.json"]
