"""What the job of a run is on Ray, by its variant's declaration and the platform's settings, and what its
launcher does without a head. `test_ray.py` has a real cluster.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import dagster as dg
import pytest
import yaml
from dagster_ray.core.run_launcher import RayLauncherConfig

from ft_dagster.automation.clusters.waiting import JOB, said, tell_waiting
from ft_dagster.automation.ray.launcher import RunJobLauncher
from ft_dagster.automation.ray.order import CONFIG, is_of_a_tenant, job_of, needs_of
from ft_dagster.automation.tags import TENANT
from ft_dagster.dagster_private import WorkerStatus
from ft_dagster.errors import UserError
from ft_dagster.host_settings import RAY_JOB
from ft_dagster.launch.choice import ask_of, refuse_lacking
from ft_dagster.launch.leases import Leases
from ft_dagster.launch.on_ray.waiting import why
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, Declared, VariantKey
from tests.automation.declarations import declare
from tests.automation.programs.waiting_job import waiting
from tests.instances import lay_databases
from tests.launch.helpers import slots
from tests.present import present
from tests.s3_server import free_port

pytestmark = pytest.mark.slow

Json = dict[str, Any]
RUN = "0f1e2d3c"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `ray`")
GPUS: Json = {"gpus": 8, "gpu": "NVIDIA A100-SXM4-80GB", "gpu_memory_gb": 85.9, "cpus": 64}
RAY: Json = {
    "tenant_resource": "tenant-{tenant}",
    "resources": {"accelerator_type:A100": 0.001},
    "runtime_env": {"working_dir": "s3://code/it.zip", "env_vars": {"HF_HOME": "/shared/hf"}},
    "grace_seconds": 90,
}


def settings_in(folder: Path, **changed: Any) -> Settings:
    content = {
        "store": "s3://models/ft_dagster",
        "store_profiles": {"default": "platform", "per_tenant": {"acme": "acme-prod", "globex": "globex-x"}},
        "cluster": {**GPUS, "work_folder": "/mnt/nvme/ft", "environment": {"NCCL_SOCKET_IFNAME": "eth0"}},
        "ray": RAY,
        "host": {"lock_folder": str(folder / "locks"), "gpus": []},
        **changed,
    }
    (folder / "tenants").mkdir(exist_ok=True, parents=True)
    (folder / "ft_dagster.yaml").write_text(yaml.safe_dump(content))
    return load_settings(folder)


def declared(settings: Settings, key: str = "acme.support", **resources: Any) -> Declared:
    declare(settings.project, key, None, resources=resources)
    return Declarations(settings.project).declared(VariantKey.parse(key))


def made(settings: Settings, key: str = "acme.support", *, computes: bool = True, **resources: Any) -> Json:
    one = declared(settings, key, **resources)
    return job_of(settings, RUN, one.key.tenant, one, computes=computes)


def variables(job: Json) -> dict[str, str]:
    found: dict[str, str] = job["runtime_env"]["env_vars"]
    return found


def test_it_asks_for_what_the_declaration_and_the_platform_say(tmp_path: Path) -> None:
    job = made(settings_in(tmp_path), gpus=2)
    assert (job["num_gpus"], job["num_cpus"]) == (2, 16)
    assert job["resources"] == {"tenant-acme": 2.0, "accelerator_type:A100": 0.001}
    assert job["runtime_env"]["working_dir"] == "s3://code/it.zip"
    wanted = {
        "HF_HOME": "/shared/hf",
        "NCCL_SOCKET_IFNAME": "eth0",
        "FT_DAGSTER_PROJECT": str(tmp_path),
        "FT_DAGSTER_WORK": "/mnt/nvme/ft",
        "FT_DAGSTER_HOST__CPU_SLOTS": "16",
        "RAY_JOB_STOP_WAIT_TIME_S": "90",
        "FT_DAGSTER_GRACE_SECONDS": "45",
        RAY_JOB: RUN,
    }
    assert wanted.items() <= variables(job).items()
    assert "CUDA_VISIBLE_DEVICES" not in variables(job)  # Ray says it
    understood = RayLauncherConfig.from_tags({CONFIG: json.dumps(job)})
    assert (understood.num_gpus, understood.resources) == (2, job["resources"])
    assert needs_of(job) == {"CPU": 16, "GPU": 2, "tenant-acme": 2, "accelerator_type:A100": 0.001}


def test_a_run_that_computes_nothing_gets_a_core(tmp_path: Path) -> None:
    job = made(settings_in(tmp_path), computes=False, gpus=2)
    assert needs_of(job) == {"CPU": 1}


def test_on_a_cluster_of_cores_it_gets_the_cores_that_its_training_leases(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cluster={"cpus": 16}, ray={})
    job = made(settings, cpu_slots=3)
    assert needs_of(job) == {"CPU": 3}
    assert variables(job)["FT_DAGSTER_HOST__CPU_SLOTS"] == "3"


def test_a_run_has_its_tenants_profile_and_nothing_of_another(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    own, others = made(settings), made(settings, "globex.faq")
    platforms = job_of(settings, RUN, None, None, computes=True)
    profiles = [variables(job)["AWS_PROFILE"] for job in (own, others, platforms)]
    assert profiles == ["acme-prod", "globex-x", "platform"]
    for job in (own, others, platforms):  # what a node's own environment has is no tenant's
        assert {variables(job)[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")} == {""}
    assert "acme" not in json.dumps([others, platforms])
    assert "globex" not in json.dumps([own, platforms])
    assert [is_of_a_tenant(job) for job in (own, others, platforms, {})] == [True, True, False, False]


@pytest.mark.parametrize(
    "resources", [{"gpus": 9}, {"gpu_kind": "H100"}, {"gpu_memory_gb": 90}, {"nodes": 5}], ids=str
)
def test_what_no_node_has_is_refused_by_the_plan_and_its_run_gets_no_gpu(
    tmp_path: Path, resources: Json
) -> None:
    settings = settings_in(tmp_path)
    assert needs_of(made(settings, **resources)) == {"CPU": 1}
    one = declared(settings, **resources)
    with pytest.raises(UserError, match=f"resources.{next(iter(resources))}"):
        refuse_lacking(settings, Leases(tmp_path / "leases", slots(1)), one.key, one.spec)


def test_a_run_that_trains_on_several_nodes_holds_a_core_and_works_where_they_all_do(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cluster={**GPUS, "nodes": 2, "shared_folder": "/mnt/shared"})
    job = made(settings, gpus=4, nodes=2)
    assert needs_of(job) == {"CPU": 1}
    assert variables(job)["FT_DAGSTER_WORK"] == "/mnt/shared"


@needs_ray
def test_what_a_job_is_told_hides_no_gpu_from_the_programs_that_ray_places_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hands the variables of a job on to its actors, and lends them no GPU that those hide."""
    from ray._private.worker import Worker

    settings = settings_in(tmp_path, cluster={**GPUS, "nodes": 2, "shared_folder": "/mnt/shared"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in variables(made(settings, gpus=2, nodes=2)).items():
        monkeypatch.setenv(name, value)
    actor, lent = Worker(), {"GPU": [(0, 1.0), (3, 1.0)]}
    monkeypatch.setattr(actor, "core_worker", SimpleNamespace(resource_ids=lambda: lent), raising=False)
    assert set(actor.get_accelerator_ids_for_accelerator_resource("GPU", "^GPU_group$")) == {0, 3}


def test_settings_that_sent_trainings_alone_say_what_to_write_now(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"take `launcher` out, keep `ray`.*RunJobLauncher"):
        settings_in(tmp_path, launcher="ray")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cluster": {"environment": {"HF_TOKEN": "hidden"}}}, "cluster.environment.HF_TOKEN"),
        ({"ray": {"runtime_env": {"env_vars": {"A_SECRET": "hidden"}}}}, "ray.runtime_env.env_vars.A_SECRET"),
        ({"ray": {"runtime_env": {"env_vars": ["HF_TOKEN=hidden"]}}}, "ray.runtime_env.env_vars"),
        ({"ray": {"runtime_env": {"working_dir": "https://bot:hidden@x/y"}}}, "ray.runtime_env.working_dir"),
        ({"ray": {"runtime_env": {"pip": ["a", "b @ https://hidden@x/b"]}}}, "ray.runtime_env.pip.1"),
    ],
)
def test_the_plan_says_what_no_job_can_be_made_of(tmp_path: Path, changed: Json, named: str) -> None:
    settings = settings_in(tmp_path, **changed)
    one = declared(settings)
    for refusing in (
        lambda: refuse_lacking(settings, Leases(tmp_path / "leases", slots(1)), one.key, one.spec),
        lambda: job_of(settings, RUN, "acme", one, computes=True),
    ):
        with pytest.raises(UserError) as error:
            refusing()
        assert error.value.field == named
        assert "hidden" not in str(error.value)


def test_a_job_is_the_same_whichever_host_submits_it(tmp_path: Path) -> None:
    """One whose settings name GPUs that this host lacks, as before the runs went to a cluster."""
    settings = settings_in(tmp_path, host={"lock_folder": str(tmp_path / "locks"), "gpus": ["0", "7"]})
    assert made(settings, gpus=2)["num_gpus"] == 2
    settings = settings_in(tmp_path, ray={"runtime_env": {"pip": ["a @ git+ssh://git@x/a"]}})
    assert made(settings)["num_gpus"] == 1


def test_settings_that_make_runs_pods_and_jobs_at_once_are_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, kubernetes={}, work="/work", store_profiles={})
    one = declared(settings)
    with pytest.raises(UserError, match="runs are pods, and no jobs of Ray"):
        refuse_lacking(settings, Leases(tmp_path / "leases", slots(1)), one.key, one.spec)


def test_inside_its_job_a_run_is_planned_for_the_cluster_and_leases_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables(made(settings_in(tmp_path, cluster={"cpus": 16}), cpu_slots=3)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as its command says
    inside = load_settings(tmp_path)
    assert inside.runs_in_cluster
    assert (inside.host.cpu_slots, inside.host.gpus) == (3, None)
    assert inside.host.lock_folder == tmp_path / "locks" / f"ray-{RUN}"
    assert inside.store_profiles.of("acme") == "acme-prod"


def test_a_program_that_needs_a_gpu_refuses_a_job_without_one(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    one = declared(settings)
    with pytest.raises(UserError, match=r"training of acme.support needs a GPU"):
        ask_of(settings, Leases(tmp_path / "l", slots(2)), one.key, one.spec, program="training", run_id=RUN)


def test_a_job_that_waits_is_told_of_by_what_the_nodes_have() -> None:
    head, node = {"memory": 1e9}, {"CPU": 8.0, "GPU": 2.0, "memory": 1e10}
    busy = why({"CPU": 4.0, "GPU": 2.0}, [head, node])
    assert "starts once a node with 4 CPU, 2 GPU is free" in busy
    never = why({"CPU": 4.0, "GPU": 4.0}, [head, node, node])
    assert "a node with 4 CPU, 4 GPU, and the cluster has not: its nodes have 0 CPU, 0 GPU; 8 CPU" in never
    assert "starts once 2 nodes with 4 CPU are free" in why({"CPU": 4.0}, [head, node, node], 2)
    assert "needs 3 nodes with 4 CPU, and the cluster has not" in why({"CPU": 4.0}, [head, node, node], 3)
    assert "`resources`" in never


class Away:
    """An instance whose runs are jobs of a head that is not there."""

    def __init__(self, home: Path, port: int | None = None) -> None:
        lay_databases(home)
        launcher = {"module": RunJobLauncher.__module__, "class": RunJobLauncher.__name__}
        config = {"ray": {"address": f"http://127.0.0.1:{port or free_port()}"}}
        content = {"run_launcher": {**launcher, "config": config}, "run_retries": {"enabled": True}}
        (home / "dagster.yaml").write_text(yaml.safe_dump(content))
        self.instance = dg.DagsterInstance.from_config(str(home))
        assert isinstance(self.instance.run_launcher, RunJobLauncher)
        self.launcher = self.instance.run_launcher

    def run(self, tags: Mapping[str, str] | None = None) -> dg.DagsterRun:
        origin = dg.reconstructable(waiting).get_python_origin()
        return self.instance.create_run_for_job(waiting, tags=tags, job_code_origin=origin)

    def launch(self, run: dg.DagsterRun) -> dg.DagsterRun:
        self.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]  # of a run that is of no workspace
        return present(self.instance.get_run_by_id(run.run_id))

    def lines(self, run: dg.DagsterRun) -> str:
        entries = self.instance.all_logs(run.run_id)
        return "\n".join(present(entry.dagster_event).message or "" for entry in entries)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    monkeypatch.setattr("ft_dagster.automation.ray.launcher.AWAY_SECONDS", 0.0)
    made = Away(tmp_path)
    with made.instance:
        yield made


def test_a_run_of_a_tenant_that_the_coordinator_did_not_place_is_not_started(away: Away) -> None:
    for tags in ({}, {CONFIG: "{}"}, {CONFIG: '{"num_gpus": 8}'}):
        run = away.launch(away.run({TENANT: "acme", **tags}))
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert "no settings with `ray`" in away.lines(run)
        assert run.tags["dagster/will_retry"] == "false"


def test_a_launch_where_ray_is_not_installed_fails_in_a_line(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    run = away.launch(away.run())
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert "ray is not installed here. pip install 'ft-dagster[ray]'" in away.lines(run)


@needs_ray
def test_a_head_that_is_away_fails_a_launch_in_a_line(away: Away) -> None:
    run = away.launch(away.run())
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert f"The Ray head at {away.launcher.address} does not answer" in away.lines(run)
    assert "Traceback" not in away.lines(run)


@needs_ray
def test_a_head_that_takes_questions_and_never_answers_is_as_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.automation.ray.launcher.AWAY_SECONDS", 0.0)
    monkeypatch.setattr("ft_dagster.automation.ray.head.PATIENCE", 0.5)
    deaf = socket.create_server(("127.0.0.1", 0))  # the kernel accepts for it
    made, launched = Away(tmp_path, deaf.getsockname()[1]), list[dg.DagsterRun]()
    with made.instance, deaf:
        thread = Thread(target=lambda: launched.append(made.launch(made.run())), daemon=True)
        thread.start()
        thread.join(60)
        assert [run.status for run in launched] == [dg.DagsterRunStatus.FAILURE]
        assert "does not answer" in made.lines(launched[0])


class Head(BaseHTTPRequestHandler):
    """A head that takes a job and whose answer is lost: asked again, it says that the job is there."""

    asked: ClassVar[list[Json]] = []

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self._answer(
                200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "s"}
            )
        elif len(self.asked) < 2:
            self._answer(404, "Job dagster-run does not exist")
        else:
            name = self.path.rpartition("/")[2]
            self._answer(
                200, {"type": "SUBMISSION", "submission_id": name, "status": "PENDING", "entrypoint": ""}
            )

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if len(self.asked) == 1:
            self._answer(503, "no answer from behind")
        else:
            self._answer(400, "ValueError: Job with submission_id it already exists")

    def _answer(self, code: int, content: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

    def log_message(self, *_: object) -> None: ...


@needs_ray
def test_a_job_that_was_made_though_its_answer_was_lost_is_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.automation.ray.launcher.time.sleep", lambda _: None)
    Head.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Head)
    Thread(target=server.serve_forever, daemon=True).start()
    made = Away(tmp_path, server.server_port)
    with made.instance:
        run = made.launch(made.run({CONFIG: '{"num_cpus": 1}'}))
        assert run.status == dg.DagsterRunStatus.STARTING
        assert "Submitted to Ray" in made.lines(run)
    # It asked for no GPU, and Ray hides none: what hides them is of its own process alone.
    assert Head.asked[0]["entrypoint"].startswith("exec env CUDA_VISIBLE_DEVICES= python -P -m dagster ")
    assert "CUDA_VISIBLE_DEVICES" not in Head.asked[0]["runtime_env"]["env_vars"]
    server.shutdown()


@needs_ray
def test_a_head_that_is_away_ends_no_run_and_its_cancel_is_to_be_asked_again(away: Away) -> None:
    run = away.run()
    away.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_STARTING", run.job_name), run.run_id)
    said(run, away.instance, "Submitted", {JOB: "1"})
    for _ in range(2):
        tell_waiting(away.instance)
    assert away.lines(run).count("Ray does not say whether its job waits") == 1
    away.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", run.job_name), run.run_id)
    run = present(away.instance.get_run_by_id(run.run_id))
    assert run.status == dg.DagsterRunStatus.STARTED
    assert away.launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not away.launcher.terminate(run.run_id)
    assert present(away.instance.get_run_by_id(run.run_id)).status == dg.DagsterRunStatus.STARTED
    assert "cancel it again" in away.lines(run)


class NotReady(BaseHTTPRequestHandler):
    """What stands in front of a head that has no ready endpoint."""

    def do_GET(self) -> None:
        version = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "s"})
        is_first = self.path.endswith("/version")
        self.send_response(200 if is_first else 404)
        self.end_headers()
        self.wfile.write((version if is_first else "404 page not found").encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@needs_ray
def test_what_stands_in_front_of_a_head_and_knows_nothing_ends_no_run(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), NotReady)
    Thread(target=server.serve_forever, daemon=True).start()
    made = Away(tmp_path, server.server_port)
    with made.instance:
        run = made.run()
        made.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", run.job_name), run.run_id)
        run = present(made.instance.get_run_by_id(run.run_id))
        assert made.launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        assert not made.launcher.terminate(run.run_id)
        assert present(made.instance.get_run_by_id(run.run_id)).status == dg.DagsterRunStatus.STARTED
        assert [*made.launcher.end_jobs([run])] == []
    server.shutdown()


def test_the_launcher_takes_no_word_of_what_a_job_gets(tmp_path: Path) -> None:
    for name, value in {"num_gpus": 1, "env_vars": ["DAGSTER_PG_PASSWORD"]}.items():
        content = {"module": RunJobLauncher.__module__, "class": RunJobLauncher.__name__}
        config = {"ray": {"address": "http://head:8265", name: value}}
        (tmp_path / "dagster.yaml").write_text(
            yaml.safe_dump({"run_launcher": {**content, "config": config}})
        )
        with (
            pytest.raises(dg.DagsterInvalidConfigError, match=name),
            dg.DagsterInstance.from_config(str(tmp_path)) as instance,
        ):
            assert instance.run_launcher
