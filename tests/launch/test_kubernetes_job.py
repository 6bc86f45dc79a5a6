"""The Job that a declaration and the platform's settings come to; `test_kubernetes_schema.py` holds it to the
API's schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from ft_dagster.errors import UserError
from ft_dagster.kubernetes_settings import Toleration
from ft_dagster.launch import processes
from ft_dagster.launch.on_kubernetes.job import job_of
from ft_dagster.launch.on_kubernetes.launcher import check
from ft_dagster.settings import load_settings
from tests.launch.orders import SETTINGS, order, pod_of, settings


def test_it_asks_for_what_the_declaration_and_the_platform_say() -> None:
    job = job_of(order(), settings())
    pod = pod_of(job)
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {
            "cpu": "12000m",
            "memory": "200000000000",
            "nvidia.com/gpu": "2",
            "ephemeral-storage": "300000000000",
        },
        "limits": {"memory": "200000000000", "nvidia.com/gpu": "2"},
    }
    assert pod["nodeSelector"] == SETTINGS["node_selector"]
    assert pod["tolerations"] == SETTINGS["tolerations"]
    assert pod["priorityClassName"] == "training"
    assert pod["serviceAccountName"] == "trainer"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert {"name": processes.GRACE, "value": "45"} in container["env"]
    assert job["metadata"]["namespace"] == "training-acme"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus-acme"
    assert job["spec"]["suspend"] is True
    memory = {"medium": "Memory", "sizeLimit": "16000000000"}
    assert {"name": "shared-memory", "emptyDir": memory} in pod["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_without_gpus_it_asks_for_cores_alone_and_threads_are_as_many() -> None:
    job = job_of(order(gpus=0, cpus=3, profile=None), settings(queue=None, queues={}))
    (container,) = pod_of(job)["containers"]
    assert container["resources"]["requests"]["cpu"] == "3000m"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert {"name": "OMP_NUM_THREADS", "value": "3"} in container["env"]
    assert job["spec"]["suspend"] is False


def test_a_pod_that_kubernetes_takes_away_is_started_again_and_no_other() -> None:
    spec = job_of(order(), settings())["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["podReplacementPolicy"] == "Failed"  # not beside the one that still ends
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert pod_of({"spec": spec})["restartPolicy"] == "Never"


def test_credentials_are_named_and_never_written() -> None:
    by_secret = pod_of(job_of(order(), settings()))
    assert by_secret["containers"][0]["envFrom"] == [{"secretRef": {"name": "acme-store"}}]
    assert by_secret["automountServiceAccountToken"] is False
    by_role = pod_of(job_of(order(profile="role"), settings()))
    assert (by_role["serviceAccountName"], by_role["containers"][0]["envFrom"]) == ("acme-trainer", [])
    with pytest.raises(UserError, match=r"kubernetes\.profiles.*other"):
        job_of(order(profile="other"), settings())


def test_the_pod_has_no_rights_that_a_training_does_not_need() -> None:
    pod = pod_of(job_of(order(), settings()))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["containers"][0]["securityContext"] == rights


def test_one_work_has_one_name_whoever_asks_for_it() -> None:
    assert order().name == order(run_id="another", gpus=1).name
    others = {order().name, order(work="other").name, order("acme.sales").name, order("globex.support").name}
    assert len(others) == 4
    longest = order(f"{'a' * 30}.{'b' * 30}").name
    assert len(longest) <= 57  # a pod's name has six more
    assert longest == longest.strip("-").lower()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"memory_gb": 8}, "shared_memory_gb"),
        ({"namespace": "Training"}, "namespace"),
        ({"node_selector": {"gpu": "not a label value"}}, "node_selector"),
        ({"grace_seconds": 5}, "grace_seconds"),
        ({"tolerations": [{"operator": "Equal"}]}, "tolerations"),
        ({"profiles": {"acme": {"secret": "x"}}}, "profiles.acme.secret"),
    ],
)
def test_a_wrong_setting_names_its_field(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as error:
        settings(**changed)
    places = [".".join(map(str, each["loc"])) + each["msg"] for each in error.value.errors()]
    assert any(named in place for place in places), places


def test_a_toleration_says_what_kubernetes_would_refuse() -> None:
    with pytest.raises(ValidationError, match="takes none"):
        Toleration(key="a", operator="Exists", value="b")


def test_without_an_image_it_says_how_to_get_one() -> None:
    with pytest.raises(UserError, match=r"kubernetes\.image.*Dockerfile"):
        job_of(order(), settings(image=None))


def test_a_job_is_plain_json() -> None:
    job = job_of(order(), settings())
    assert json.loads(json.dumps(job)) == job


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"kubernetes": {}}, r"kubernetes\.image.*Dockerfile"),
        ({"cluster": {"nodes": 2, "shared_folder": "/mnt"}}, r"cluster\.nodes.*one pod"),
        ({"store_profiles": {"per_tenant": {"acme": "acme"}}}, r"kubernetes\.profiles.*acme"),
        ({"store_options": {"secret": "hidden"}}, r"store_options\.secret"),
    ],
)
def test_the_plan_says_what_no_job_can_be_made_of(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    (tmp_path / "tenants").mkdir()
    given = {"launcher": "k8s", "store": "s3://bucket/x", "kubernetes": {"image": "trainer:1"}, **changed}
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(UserError, match=named) as error:
        check(load_settings(tmp_path))
    assert "hidden" not in str(error.value)
