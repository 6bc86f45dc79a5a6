"""What the pod of a run is, by its variant's declaration and the platform's settings.

`test_deploy_kubernetes.py` has what dagster-k8s makes of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from ft_dagster.automation.run_pods import CONFIG, RESOURCES, pod_of, written
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.fleet.device_hours import may_compute
from ft_dagster.kubernetes_settings import KubernetesSettings, PodProfile, Toleration
from ft_dagster.launch.choice import ask_of, refuse_lacking
from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Leases
from ft_dagster.records.record_keys import BACKUP, back_up, keys_of
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, Declared, VariantKey
from tests.automation.declarations import declare
from tests.automation.pods import KUBERNETES, settings_in
from tests.launch.helpers import slots

Json = dict[str, Any]
KEY = VariantKey("acme", "support")
DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"


def declared(settings: Settings, key: str = "acme.support", **resources: Any) -> Declared:
    declare(settings.project, key, None, resources=resources)
    return Declarations(settings.project).declared(VariantKey.parse(key))


def made(settings: Settings, key: str = "acme.support", *, computes: bool = True, **resources: Any) -> Json:
    one = declared(settings, key, **resources)
    return pod_of(settings, one.key.tenant, one, computes=computes)


def variables(pod: Json) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["container_config"]["env"]}


def secrets_of(pod: Json) -> set[str]:
    files = {each["secret"]["secretName"] for each in pod["pod_spec_config"]["volumes"] if "secret" in each}
    return files | {each["secretRef"]["name"] for each in pod["container_config"]["env_from"]}


def test_it_asks_for_what_the_declaration_and_the_platform_say(tmp_path: Path) -> None:
    pod = made(settings_in(tmp_path), gpus=2)
    container, spec, job = pod["container_config"], pod["pod_spec_config"], pod["job_metadata"]
    assert container["resources"] == {
        "requests": {
            "cpu": "12000m",
            "memory": "200000000000",
            "nvidia.com/gpu": "2",
            "ephemeral-storage": "300000000000",
        },
        "limits": {"memory": "200000000000", "nvidia.com/gpu": "2"},
    }
    assert spec["node_selector"] == KUBERNETES["node_selector"]
    assert spec["tolerations"][0] == KUBERNETES["tolerations"][0]
    assert {each["tolerationSeconds"] for each in spec["tolerations"][1:]} == {60}  # a node that is gone
    assert (spec["priority_class_name"], spec["service_account_name"]) == ("training", "runs")
    assert spec["termination_grace_period_seconds"] == 90
    assert variables(pod)["FT_DAGSTER_GRACE_SECONDS"] == "45"
    assert (job["namespace"], job["labels"]["kueue.x-k8s.io/queue-name"]) == ("training-acme", "gpus-acme")
    memory = {"medium": "Memory", "sizeLimit": "16000000000"}
    assert {"name": "shared-memory", "emptyDir": memory} in spec["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volume_mounts"]
    assert {"name": "work", "mountPath": "/work"} in container["volume_mounts"]
    assert pod["job_spec_config"] == {"backoff_limit": 0, "active_deadline_seconds": 172_800}


def test_a_run_of_another_tenant_is_in_its_own_namespace_and_queue(tmp_path: Path) -> None:
    job = made(settings_in(tmp_path), "globex.faq")["job_metadata"]
    assert (job["namespace"], job["labels"]["kueue.x-k8s.io/queue-name"]) == ("training", "gpus")
    assert job["labels"]["ft-dagster/variant"] == "globex.faq"


def test_a_run_that_computes_nothing_gets_no_gpu_and_no_node_that_has_one(tmp_path: Path) -> None:
    pod = made(settings_in(tmp_path), computes=False, gpus=2)
    assert pod["container_config"]["resources"]["limits"] == {"memory": "100000000000"}
    spec = pod["pod_spec_config"]
    assert {"node_selector", "priority_class_name"} & spec.keys() == set()
    assert [each["effect"] for each in spec["tolerations"]] == ["NoExecute", "NoExecute"]
    assert "kueue.x-k8s.io/queue-name" not in pod["job_metadata"]["labels"]
    assert "shared-memory" not in {each["name"] for each in spec["volumes"]}
    assert pod["job_metadata"]["namespace"] == "training-acme"
    assert secrets_of(pod) == {"acme-store", "ft-dagster-keys-acme"}


def test_data_alone_needs_no_device_and_whatever_judges_does() -> None:
    assert not may_compute({"declaration", "task_dataset", "base_model", "general_corpus", "release"})
    for asset in (
        "training_mixture",
        "training_plan",
        "fine_tuned_model",
        "evaluation",
        "model_export",
        "release_evaluation",
    ):
        assert may_compute({"declaration", asset})


def test_on_a_cluster_of_cores_it_gets_the_cores_that_its_training_leases(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cluster={"cpus": 16})
    pod = made(settings, cpu_slots=3)
    assert pod["container_config"]["resources"]["requests"]["cpu"] == "3000m"
    assert variables(pod)["FT_DAGSTER_HOST__CPU_SLOTS"] == "3"


@pytest.mark.parametrize(
    "resources", [{"gpus": 9}, {"gpu_kind": "H100"}, {"gpu_memory_gb": 90}, {"nodes": 2}], ids=str
)
def test_what_no_node_has_is_refused_by_the_plan_and_its_run_gets_no_gpu(
    tmp_path: Path, resources: dict[str, Any]
) -> None:
    settings = settings_in(tmp_path)
    pod = made(settings, **resources)
    assert "nvidia.com/gpu" not in pod["container_config"]["resources"]["limits"]
    one = declared(settings, **resources)
    with pytest.raises(UserError, match=f"resources.{next(iter(resources))}") as error:
        refuse_lacking(settings, Leases(tmp_path / "leases", slots(1)), one.key, one.spec)
    assert ("KubeRay" in str(error.value)) == ("nodes" in resources)


def test_a_run_has_its_tenants_credentials_and_record_keys_and_no_others(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    by_environment, by_file = made(settings), made(settings, "globex.faq")
    of_platform = pod_of(settings, None, None, computes=True)
    assert secrets_of(by_environment) == {"acme-store", "ft-dagster-keys-acme"}
    assert secrets_of(by_file) == {"globex-store", "ft-dagster-keys-globex"}
    assert secrets_of(of_platform) == {"ft-dagster-keys"}
    assert of_platform["pod_spec_config"]["service_account_name"] == "platform-store"
    assert by_file["pod_spec_config"]["service_account_name"] == "runs"
    assert "acme" not in json.dumps([by_file, of_platform])
    assert "globex" not in json.dumps([by_environment, of_platform])


def inside(settings: Settings, pod: Json, patch: pytest.MonkeyPatch) -> Settings:
    """The settings of the same project, as a program in a pod loads them."""
    with patch.context() as environment:
        for name, value in variables(pod).items():
            environment.setenv(name, value)
        return load_settings(settings.project)


def test_settings_in_a_pod_find_the_credentials_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the project, which each pod mounts, names all profiles."""
    settings = settings_in(tmp_path, host={"cpu_slots": 2})
    for tenant, profile in (("acme", None), ("globex", "globex-file"), ("other", None), (None, None)):
        pod = made(settings, f"{tenant}.x") if tenant else pod_of(settings, None, None, computes=False)
        found = inside(settings, pod, monkeypatch)
        assert (found.store_profiles.of(tenant), found.store_profiles.of(None)) == (profile, profile)
        assert (found.host.cpu_slots, found.host.memory_gb) == (6, 100)
        assert found.keys_folder == Path("/work/keys")


@pytest.mark.slow
def test_a_pod_whose_environment_has_its_credentials_opens_the_store_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no such AWS profile"):
        settings.open_store("acme")
    store = inside(settings, made(settings), monkeypatch).open_store("acme")
    assert "profile" not in store.fs.storage_options


def test_pods_of_the_settings_that_are_deployed_find_the_credentials_that_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tenants").mkdir()
    shutil.copy(DEPLOY / "ft_dagster.yaml", tmp_path / "ft_dagster.yaml")
    settings = load_settings(tmp_path)
    for tenant, profile in (("acme", "acme"), ("globex", None), (None, None)):
        found = inside(settings, pod_of(settings, tenant, None, computes=False), monkeypatch)
        assert (found.store_profiles.of(tenant), found.store_profiles.of(None)) == (profile, profile)


def test_a_pod_has_no_rights_that_a_run_does_not_need(tmp_path: Path) -> None:
    pod = made(settings_in(tmp_path))
    spec, container = pod["pod_spec_config"], pod["container_config"]
    assert spec["automount_service_account_token"] is False
    assert spec["security_context"]["runAsNonRoot"] is True
    assert spec["security_context"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["security_context"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {*pod} == {
        *("container_config", "pod_spec_config", "pod_template_spec_metadata"),
        *("job_metadata", "job_spec_config"),
    }
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"emptyDir", "secret"}


def test_the_older_tag_of_resources_says_the_same_where_it_is_there(tmp_path: Path) -> None:
    pod = made(settings_in(tmp_path), gpus=1)
    assert {*written(pod, {})} == {CONFIG}
    assert json.loads(written(pod, {RESOURCES})[RESOURCES]) == pod["container_config"]["resources"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"store": "/srv/store"}, "store"),
        ({"work": ".ft_dagster/work"}, "work"),
        ({"ray": {}}, "ray"),
        ({"cluster": {"nodes": 2, "shared_folder": "/mnt"}}, "cluster.nodes"),
        ({"store_profiles": {"per_tenant": {"acme": "other"}}}, "kubernetes.profiles"),
        ({"store_profiles": {}, "store_options": {"secret": "hidden"}}, "store_options.secret"),
        ({"store_profiles": {}, "store_options": {"profile": "acme"}}, "store_options.profile"),
        ({"cluster": {"environment": {"HF_TOKEN": "hidden"}}}, "cluster.environment.HF_TOKEN"),
    ],
)
def test_the_plan_says_what_no_pod_can_be_made_of(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    settings = settings_in(tmp_path, **changed)
    one = declared(settings)
    for refusing in (
        lambda: refuse_lacking(settings, Leases(tmp_path / "leases", slots(1)), one.key, one.spec),
        lambda: pod_of(settings, "acme", one, computes=True),
    ):
        with pytest.raises(UserError) as error:
            refusing()
        assert error.value.field == named
        assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"memory_gb": 8}, "shared_memory_gb"),
        ({"namespace": "Training"}, "namespace"),
        ({"node_selector": {"gpu": "not a label value"}}, "node_selector"),
        ({"grace_seconds": 5}, "grace_seconds"),
        ({"tolerations": [{"operator": "Equal"}]}, "tolerations"),
        ({"profiles": {"acme": {"secret": "x"}}}, "profiles.acme.secret"),
        ({"profiles": {"acme": {"secrets": ["x"], "credentials": "y"}}}, "profiles.acme"),
        ({"record_keys": "one-for-all"}, "record_keys"),
    ],
)
def test_a_wrong_setting_names_its_field(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as error:
        KubernetesSettings.model_validate({**KUBERNETES, **changed})
    places = [".".join(map(str, each["loc"])) + each["msg"] for each in error.value.errors()]
    assert any(named in place for place in places), places
    with pytest.raises(ValidationError, match="takes none"):
        Toleration(key="a", operator="Exists", value="b")
    with pytest.raises(ValidationError, match="say one of"):
        PodProfile()


@pytest.mark.parametrize(
    ("before", "way_out"),
    [
        ({"launcher": "k8s"}, "take `launcher` out, keep `kubernetes`"),
        ({"kubernetes": {"image": "trainer:1"}}, "image: take it out; runs have the image of their code"),
        ({"kubernetes": {"context": "prod"}}, "context: take it out; it is the run launcher's"),
        ({"kubernetes": {"pending_minutes": 5}}, "pending_minutes: take it out; it is start_timeout_seconds"),
    ],
)
def test_settings_of_the_former_launcher_say_what_to_write_now(
    tmp_path: Path, before: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(UserError) as error:
        settings_in(tmp_path, **before)
    assert way_out in str(error.value)
    assert "docs/deploy.md#kubernetes" in str(error.value)


def test_a_program_that_needs_a_gpu_refuses_a_pod_without_one(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    one = declared(settings)
    without = Leases(tmp_path / "leases", slots(2))
    for program in ("training", "evaluation"):
        with pytest.raises(UserError, match=f"{program} of acme.support needs a GPU"):
            ask_of(settings, without, one.key, one.spec, program=program, run_id="run")
    gpu = Inventory("gpu", (Device("GPU-1", int(85.9e9), "NVIDIA A100-SXM4-80GB"),), 8)
    ask = ask_of(settings, Leases(tmp_path / "l", gpu), one.key, one.spec, program="training", run_id="run")
    assert (ask.count, ask.nodes) == (1, 1)


def test_a_pods_record_keys_are_those_that_were_backed_up_for_its_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tenants").mkdir()
    backup = tmp_path / "keys.json"
    command = ["--project", str(tmp_path), "audit", "key", "backup", str(backup), "--tenant", "acme"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (tmp_path / "keys").mkdir()
    own = load_settings(tmp_path).keys_folder
    monkeypatch.setenv(BACKUP, str(backup))
    inside = tmp_path / "work" / "keys"
    assert keys_of(inside, "acme").current == keys_of(own, "acme").current
    assert keys_of(inside, "").current == keys_of(own, "").current
    with pytest.raises(UserError, match=r"no record key of globex.*--tenant globex"):
        keys_of(inside, "globex")
    assert not (inside / "tenants" / "globex.json").exists()
    monkeypatch.delenv(BACKUP)
    assert back_up(own, tmp_path / "shared.json", [""]) == 1
