"""What is asked of a Ray cluster, told without one; `tests/e2e/test_ray.py` has a real one."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.cluster import Cluster, RaySettings
from ft_dagster.errors import UserError
from ft_dagster.launch.choice import launcher_of, refuse_lacking
from ft_dagster.launch.launcher import Belongings, Job
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.on_ray import launcher as on_ray
from ft_dagster.launch.on_ray.head import Unknown, answered
from ft_dagster.launch.on_ray.job_log import JobLog
from ft_dagster.launch.on_ray.launcher import RayJob, RayLauncher
from ft_dagster.launch.remote.order import read_order
from ft_dagster.launch.remote.relay import relay_of
from ft_dagster.launch.remote.staging import Staging
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.store.blobs import Store
from tests.launch.helpers import slots

SPEC = {
    "description": "answers",
    "owners": ["ml@acme.example"],
    "base_model": "models/base",
    "data": {"sources": ["rows.jsonl"]},
}
ASKED = VariantSpec.model_validate(SPEC)
ASK = Ask("acme.support", "acme", 4, 0, "a test", "run", nodes=2)


def launcher(folder: Path, cluster: Cluster, **ray: Any) -> RayLauncher:
    return RayLauncher(RaySettings(**ray), Staging(Store(str(folder)), cluster), "{}")


def test_devices_and_the_tenants_resource_are_asked_of_each_node(tmp_path: Path) -> None:
    gpus = Cluster(gpus=8, gpu="A100", gpu_memory_gb=80, nodes=2, shared_folder=Path("/mnt"))
    assert launcher(tmp_path, gpus).resources(ASK) == {"GPU": 4}
    assert launcher(tmp_path, Cluster(cpus=8)).resources(ASK) == {"CPU": 4}
    more = {"tenant_resource": "tenant-{tenant}", "resources": {"accelerator_type:A100": 0.001}}
    assert launcher(tmp_path, gpus, **more).resources(ASK) == {
        "GPU": 4, "tenant-acme": 4, "accelerator_type:A100": 0.001,
    }  # fmt: skip


def test_without_its_library_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text("launcher: ray\n")
    settings, leases = load_settings(tmp_path), Leases(tmp_path / "leases", slots(1))
    launcher_of(settings, leases)  # judging needs none
    with pytest.raises(UserError, match="ray is not installed here") as error:
        refuse_lacking(settings, leases, VariantKey("acme", "support"), VariantSpec.model_validate(SPEC))
    assert (error.value.field, error.value.value) == ("launcher", "ray")
    assert "pip install 'ft-dagster[ray]'" in str(error.value)


class Recorded:
    """In place of Ray's client of jobs: what it was asked, and the states of its jobs."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.states: dict[str, str] = {}

    def submit_job(self, **asked: Any) -> None:
        self.asked, self.states[asked["submission_id"]] = asked, "RUNNING"

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if job_id not in self.states:
            raise RuntimeError("Request failed with status code 404: Job it does not exist")
        state = self.states[job_id]
        return SimpleNamespace(status=SimpleNamespace(value=state, is_terminal=lambda: state == "STOPPED"))

    def stop_job(self, job_id: str) -> None:
        self.get_job_info(job_id)
        self.states[job_id] = "STOPPED"

    def delete_job(self, job_id: str) -> None:
        assert self.states.pop(job_id) == "STOPPED"


class Hiccups(Recorded):
    """Whose head is restarted once for each call in `silent`; `always`: does not answer at all."""

    def __init__(self, *silent: str, always: bool = False) -> None:
        super().__init__()
        self.silent, self.always, self.calls = list(silent), always, 0

    def _answers(self, call: str) -> None:
        self.calls += 1
        if self.always:
            raise ConnectionError("connection refused")
        if call in self.silent:
            self.silent.remove(call)
            raise RuntimeError("Request failed with status code 503: no healthy upstream")

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        self._answers("info")
        return super().get_job_info(job_id)

    def stop_job(self, job_id: str) -> None:
        self._answers("stop")
        super().stop_job(job_id)

    def delete_job(self, job_id: str) -> None:
        self._answers("delete")
        super().delete_job(job_id)


class Interrupted(VariantSpec):
    """A request that is long to send, so that a cancel comes meanwhile."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt


def recorded(folder: Path, profile: str | None = None, **ray: Any) -> tuple[RayLauncher, Job, Recorded]:
    """A launcher, and a job of a tenant with that profile of credentials."""
    to, client = launcher(folder, Cluster(), **ray), Recorded()
    vars(to)["client"] = client
    things = Belongings("place", {}, folder / "cache", "checkpoints", "manifest.json")
    return to, Job("training", folder / "run", ASKED, ASK, {}, "acme.support", things, profile), client


def submitted(folder: Path, profile: str | None, **ray: Any) -> dict[str, Any]:
    """The environment of its Ray job."""
    to, job, client = recorded(folder, profile, **ray)
    to._submit(job, to.staging.prepare(job), {"GPU": 1})
    variables: dict[str, Any] = client.asked["runtime_env"]["env_vars"]
    return variables


def test_a_cancel_between_two_steps_of_the_start_leaves_no_job(tmp_path: Path) -> None:
    to, job, client = recorded(tmp_path)
    to.stage_in(job)

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to.start(job, interrupted)
    assert client.asked
    assert client.states == {}


def followed(folder: Path, client: Hiccups) -> tuple[RayLauncher, RayJob]:
    """A launcher whose job runs, and is about to be cancelled."""
    to, job, _ = recorded(folder)
    vars(to)["client"] = client
    client.states["ft_dagster-x"] = "RUNNING"
    return to, RayJob("ft_dagster-x", "x", JobLog(client, "ft_dagster-x"), relay_of(job.environment))


def test_a_cancel_outlives_a_head_that_does_not_answer_for_a_moment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Hiccups("stop", "stop", "info", "delete")
    to, running = followed(tmp_path, client)
    to.cancel(running)
    assert (client.states, client.silent) == ({}, [])
    assert "is lost to us" not in capsys.readouterr().err


@pytest.mark.parametrize("given_up", [False, True])
def test_a_head_that_stays_silent_is_asked_for_an_end_so_long_and_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given_up: bool
) -> None:
    monkeypatch.setattr(on_ray, "END_SECONDS", 1.2)
    client = Hiccups(always=True)
    to, running = followed(tmp_path, client)
    running.silent_since = time.monotonic() - 3600 if given_up else None
    to.cancel(running)
    assert client.calls == 1 if given_up else client.calls > 2
    assert "ft_dagster-x is lost to us: connection refused" in capsys.readouterr().err


def test_a_job_has_the_tenants_profile_and_no_other_keys(tmp_path: Path) -> None:
    given = {"runtime_env": {"env_vars": {"AWS_PROFILE": "platform", "AWS_REGION": "eu-central-1"}}}
    variables = submitted(tmp_path, "acme-prod", **given)
    assert (variables["AWS_PROFILE"], variables["AWS_REGION"]) == ("acme-prod", "eu-central-1")
    assert variables["AWS_SECRET_ACCESS_KEY"] == ""
    without = submitted(tmp_path, None, **given)
    assert without["AWS_PROFILE"] == "platform"
    assert "AWS_SECRET_ACCESS_KEY" not in without


def test_a_cancel_before_a_step_follows_the_job_of_its_former_self_ends_that(tmp_path: Path) -> None:
    to, job, client = recorded(tmp_path)
    to.stage_in(job)
    client.states = {f"ft_dagster-{read_order(to.staging.store, 'place').attempt}": "RUNNING"}
    with pytest.raises(KeyboardInterrupt):
        to.stage_in(replace(job, request=Interrupted.model_validate(SPEC)))
    assert client.states == {}


def test_what_ray_does_not_take_of_the_settings_is_said_with_the_field(tmp_path: Path) -> None:
    to, job, client = recorded(tmp_path)

    def submit_job(**asked: Any) -> None:
        raise TypeError("runtime_env['pip'] must be of type str or List[str]")  # as Ray's client does

    vars(client)["submit_job"] = submit_job
    to.stage_in(job)
    with pytest.raises(UserError, match=r"runtime_env\['pip'\] must be") as error:
        to.start(job, print)
    assert error.value.field == "ray.runtime_env"


def test_the_store_is_opened_with_the_tenants_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text(
        "launcher: ray\nstore: s3://bucket/x\n"
        "store_profiles: {default: platform, per_tenant: {acme: acme-prod}}\n"
    )
    (tmp_path / "credentials").write_text("[platform]\n[acme-prod]\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr("ft_dagster.launch.on_ray.head.find_spec", lambda name: name)
    opened = {
        tenant: on_ray.open_launcher(load_settings(tmp_path), tenant).staging.store.fs.storage_options
        for tenant in ("acme", "globex")
    }
    assert {tenant: options["profile"] for tenant, options in opened.items()} == {
        "acme": "acme-prod", "globex": "platform",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("404: Job it does not exist", Unknown),
        ("404: page not found", ConnectionError),  # of a proxy in front of the head
        ("500: for a reason", ConnectionError),
        ("503: for a reason", ConnectionError),
        ("400: for a reason", UserError),
    ],
)
def test_answers_of_a_head_are_told_apart(said: str, kind: type[Exception]) -> None:
    def refuse() -> None:
        raise RuntimeError(f"Request failed with status code {said}")

    with pytest.raises(kind):
        answered(refuse)
    assert answered(lambda: "an answer") == "an answer"
