"""The Job of each example against the API's own schema."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ft_dagster.cluster import Cluster
from ft_dagster.kubernetes_settings import KubernetesSettings
from ft_dagster.launch.on_kubernetes.job import PodOrder, job_of
from ft_dagster.launch.remote.offer import ask_of_cluster
from ft_dagster.spec import Declarations, Declared, load_variant
from tests.launch.orders import order, pod_of, settings

pytestmark = pytest.mark.long  # needs the schema, of 108 MB
ROOT = Path(__file__).parents[2]
VERSIONS = ("1.31", "1.34")


def declared() -> list[Declared]:
    """Every variant of the examples."""
    projects = [each for each in sorted((ROOT / "examples").iterdir()) if (each / "tenants").is_dir()]
    found = [load_variant(project, key) for project in projects for key in Declarations(project)]
    assert len(found) > 3
    return found


def ordered(each: Declared, cluster: Cluster) -> PodOrder:
    ask = ask_of_cluster(cluster, each.key, each.spec.resources)
    count = {"gpus": ask.count, "cpus": None} if cluster.gpus else {"gpus": 0, "cpus": ask.count}
    return order(str(each.key), environment={"FT_DAGSTER_NODE_STORE_OPTIONS": "{}"}, **count)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_of_each_example_is_one_by_the_apis_schema(version: str) -> None:
    import kubernetes_validate

    gpus = Cluster(gpus=8, gpu="NVIDIA A100-SXM4-80GB", gpu_memory_gb=85.9, cpus=64)
    for cluster in (gpus, Cluster(cpus=16)):
        for each in declared():
            made = ordered(each, cluster)
            kubernetes_validate.validate(job_of(made, settings()), version, strict=True)
            least = job_of(replace(made, profile=None), KubernetesSettings(image="trainer:1"))
            kubernetes_validate.validate(least, version, strict=True)


def test_the_schema_would_notice_a_field_that_is_none() -> None:
    import kubernetes_validate

    job = job_of(order(), settings())
    pod_of(job)["nodeSelektor"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)
