"""What dagster-k8s makes of the files that docs/deploy.md applies: a run's pod, as the API server gets it.

Nothing is asked of a cluster. What Dagster's chart hands on from values.yaml to the runs of a code location
is as its template says (`dagsterUserDeployments.k8sContainerContext` of chart 1.13).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dagster import DagsterRun
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher

pytestmark = pytest.mark.long  # needs dagster-k8s and the client, of 126 MB
DEPLOY = Path(__file__).parents[1] / "deploy" / "kubernetes"
NAMESPACE = "dagster"  # of docs/deploy.md's `helm upgrade --namespace`
USER = 1000  # of deploy/Dockerfile
KUBECONFIG = {
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
    "current-context": "none",
}
Json = dict[str, Any]


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def documents(name: str) -> list[Json]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def handed_on(values: Json, **changed: Any) -> Json:
    """A code location's container context, as the chart has it of these values."""
    charts = values["dagster-user-deployments"]
    (deployment,) = charts["deployments"]
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    parts = {"volume_mounts": "volumeMounts", "volumes": "volumes", "resources": "resources"}
    return {
        "k8s": {
            "image_pull_policy": deployment["image"]["pullPolicy"],
            "env_config_maps": [f"dagster-{deployment['name']}-user-env"],
            **{name: deployment[said] for name, said in parts.items() if deployment.get(said)},
            "namespace": NAMESPACE,
            "service_account_name": charts.get("serviceAccount", {}).get("name")
            or "dagster-dagster-user-deployments-user-deployments",
            "run_k8s_config": {"pod_spec_config": {"automount_service_account_token": True}},
            **changed,
        }
    }


def launcher(folder: Path, **changed: Any) -> K8sRunLauncher:
    """Of the instance, as dagster-k8s opens it."""
    from dagster_k8s import K8sRunLauncher

    (folder / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
    own = {"load_incluster_config": False, "kubeconfig_file": str(folder / "kubeconfig")}
    return K8sRunLauncher(**{**read("dagster.yaml")["run_launcher"]["config"], **own, **changed})


def run_pod(folder: Path, context: Json | None = None, **changed: Any) -> Json:
    """The pod's spec of a run of the code location."""
    import kubernetes
    import kubernetes_validate
    from dagster_k8s.job import construct_dagster_k8s_job

    given = handed_on(read("values.yaml")) if context is None else context
    repository = RepositoryPythonOrigin(
        sys.executable,
        ModuleCodePointer("ft_dagster.definitions", "defs"),
        "trainer:0.1.0",
        container_context=given,
    )
    run = DagsterRun("job", job_code_origin=JobPythonOrigin("job", repository))
    own = launcher(folder, **changed)
    found = own.get_container_context_for_run(run)
    job = construct_dagster_k8s_job(
        found.get_k8s_job_config(repository.container_image, own),
        ["dagster", "api", "execute_run"],
        "dagster-run-1",
        user_defined_k8s_config=found.run_k8s_config,
    )
    assert found.namespace == NAMESPACE
    made: Json = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(made, "1.34", strict=True)
    spec: Json = made["spec"]["template"]["spec"]
    return spec


def test_a_run_gets_the_service_account_that_may_make_trainings(tmp_path: Path) -> None:
    account = run_pod(tmp_path)["serviceAccountName"]
    assert run_pod(tmp_path, {})["serviceAccountName"] == account  # without the chart
    bindings = [each for each in documents("rbac.yaml") if each["kind"] == "RoleBinding"]
    (binding,) = bindings
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    (role,) = [each for each in documents("rbac.yaml") if each["kind"] == "Role"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"]
    created = read("values.yaml")["dagster-user-deployments"]["serviceAccount"]
    assert created == {"create": True, "name": account}
    assert run_pod(tmp_path)["automountServiceAccountToken"]


def test_the_charts_own_account_would_not_be_the_one_that_may(tmp_path: Path) -> None:
    """The code location's wins over the launcher's."""
    values = read("values.yaml")
    del values["dagster-user-deployments"]["serviceAccount"]
    pod = run_pod(tmp_path, handed_on(values))
    assert pod["serviceAccountName"] == "dagster-dagster-user-deployments-user-deployments"


def readable_by_user(pod: Json, mode: int) -> bool:
    """Whether a file of root's with this mode, in a volume that fsGroup owns, is the user's to read."""
    said = pod.get("securityContext", {})
    group = said.get("fsGroup")
    runs_as = said.get("runAsUser", USER)  # the image's
    return bool(runs_as == 0 or mode & 0o004 or (group is not None and mode & 0o040))


def test_a_run_reads_its_secret_and_writes_its_volumes_as_the_images_user(tmp_path: Path) -> None:
    pod = run_pod(tmp_path)
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["runAsNonRoot"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert secret["secretName"] == "ft-dagster-credentials"
    assert readable_by_user(pod, secret["defaultMode"])
    assert not secret["defaultMode"] & 0o007
    (container,) = pod["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    settings = read("ft_dagster.yaml")
    for written in (settings["work"], settings["keys"]):
        assert mounted[written] in {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["fsGroup"] == USER


def test_without_a_context_of_its_own_a_run_could_not_read_it(tmp_path: Path) -> None:
    """That of the code location's pod does not reach its runs."""
    without = {"run_k8s_config": {"pod_spec_config": {"termination_grace_period_seconds": 180}}}
    pod = run_pod(tmp_path, **without)
    assert "securityContext" not in pod
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert not readable_by_user(pod, secret["defaultMode"])


def test_a_runs_pod_has_resources_and_time_to_end_its_training(tmp_path: Path) -> None:
    pod = run_pod(tmp_path)
    (container,) = pod["containers"]
    asked = container["resources"]
    assert set(asked["requests"]) == {"cpu", "memory"}
    assert asked["limits"]["memory"] == asked["requests"]["memory"]
    grace = read("ft_dagster.yaml")["kubernetes"].get("grace_seconds", 120)
    assert pod["terminationGracePeriodSeconds"] > grace
    assert "resources" not in read("values.yaml")["dagster-user-deployments"]["deployments"][0]
    values = read("values.yaml")
    values["dagster-user-deployments"]["deployments"][0]["resources"] = {"limits": {"memory": "1Gi"}}
    (other,) = run_pod(tmp_path, handed_on(values))["containers"]
    assert other["resources"]["limits"]["memory"] == "1Gi"  # those would be the runs' too


def test_a_run_has_the_image_of_its_code_location_and_its_environment(tmp_path: Path) -> None:
    (container,) = run_pod(tmp_path)["containers"]
    assert container["image"] == "trainer:0.1.0"
    assert {"configMapRef": {"name": "dagster-ft-dagster-user-env"}} in container["envFrom"]
