"""Makes what a run's pod is on Kubernetes: the tag `dagster-k8s/config`, from the variant's declaration and
the platform's settings alone.

Of a run's tags dagster-k8s reads that one and the older `dagster-k8s/resource_requirements`, and makes any
pod that they describe: both are the coordinator's, whatever a submitter wrote into them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ft_dagster.automation.clusters.devices import ask_of_run
from ft_dagster.cluster_refusals import refuse_pod
from ft_dagster.errors import UserError
from ft_dagster.host_settings import RUN_POD
from ft_dagster.kubernetes_settings import KubernetesSettings, PodProfile
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.processes import GRACE
from ft_dagster.records.record_keys import BACKUP
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey
from ft_dagster.strict_json import dumps

CONFIG, RESOURCES = "dagster-k8s/config", "dagster-k8s/resource_requirements"
TENANT_LABEL, VARIANT_LABEL = "ft-dagster/tenant", "ft-dagster/variant"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GIVEN = "/var/run/ft-dagster"  # where Secrets are mounted
USER = 1000  # of deploy/Dockerfile
LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
Json = dict[str, Any]


def pod_of(settings: Settings, tenant: str | None, declared: Declared | None, *, computes: bool) -> Json:
    """Return the value of CONFIG for a run of a variant of `tenant`; None: for a run of no variant.

    `declared`: None where the declaration cannot be read, which its run will say. `computes`: whether the run
    is known to need devices. A run that asks for what the cluster has not gets none: its plan refuses it.
    Raises UserError for settings by which no pod can be made.
    """
    pods = settings.kubernetes
    if pods is None:
        raise UserError("runs are no pods here", field="kubernetes", fix="See docs/deploy.md")
    refuse_pod(settings, pods, tenant)
    ask = ask_of_run(settings, declared) if computes else None
    queue = pods.queue_of(tenant) if ask else None
    key = None if declared is None else declared.key
    labels = {"app.kubernetes.io/name": "ft-dagster", **_labels(tenant, key)}
    namespace = pods.namespace_of(tenant)
    deadline = pods.deadline_hours
    return {
        "container_config": _container(settings, pods, tenant, ask),
        "pod_spec_config": _pod(settings, pods, tenant, ask),
        "pod_template_spec_metadata": {"labels": labels},
        "job_metadata": {
            "labels": {**labels, **({QUEUE_LABEL: queue} if queue else {})},
            **({"namespace": namespace} if namespace else {}),
        },
        # No podFailurePolicy: with one, a pod whose node is gone counts as alive (docs/deploy.md#kubernetes).
        "job_spec_config": {
            "backoff_limit": 0,
            **({"active_deadline_seconds": round(deadline * 3600)} if deadline else {}),
        },
    }


def written(pod: Json, tags: Iterable[str]) -> dict[str, str]:
    """Return the tags of a run that has these already: dagster-k8s lets RESOURCES, where it is there, go
    before what CONFIG says.
    """
    own = {CONFIG: dumps(pod)}
    if RESOURCES in tags:
        own[RESOURCES] = dumps(pod.get("container_config", {}).get("resources", {}))
    return own


def namespace_in(pod: Json) -> str | None:
    """Return the namespace that a value of CONFIG names."""
    named = pod.get("job_metadata", {}).get("namespace")
    return str(named) if named else None


def is_of_a_tenant(pod: Json) -> bool:
    """Say whether a value of CONFIG was made for a tenant's run."""
    return TENANT_LABEL in pod.get("job_metadata", {}).get("labels", {})


def _labels(tenant: str | None, key: VariantKey | None) -> dict[str, str]:
    own = {} if tenant is None else {TENANT_LABEL: tenant}
    return own if key is None else {**own, VARIANT_LABEL: str(key)}


def _pod(settings: Settings, pods: KubernetesSettings, tenant: str | None, ask: Ask | None) -> Json:
    profile = _profile(settings, pods, tenant)
    lost = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": pods.lost_node_seconds}
        for key in LOST
    ]
    on_nodes = {
        "node_selector": dict(pods.node_selector),
        "priority_class_name": pods.priority_class,
    }
    mounted = {
        "work": {"emptyDir": {"sizeLimit": _bytes(pods.disk_gb)}},
        "record-keys": _file(pods.keys_of(tenant)),
    }
    if profile.credentials:
        mounted["credentials"] = _file(profile.credentials)
    if ask:
        memory = {"medium": "Memory", "sizeLimit": _bytes(pods.shared_memory_gb)}
        mounted["shared-memory"] = {"emptyDir": memory}
    tolerated = [each.model_dump(exclude_none=True) for each in pods.tolerations] if ask else []
    return {
        "restart_policy": "Never",
        "termination_grace_period_seconds": pods.grace_seconds,
        "service_account_name": profile.service_account or pods.service_account,
        "automount_service_account_token": False,
        "enable_service_links": False,
        "security_context": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*tolerated, *lost],
        "volumes": [{"name": name, **volume} for name, volume in mounted.items()],
        **({name: value for name, value in on_nodes.items() if value} if ask else {}),
    }


def _container(settings: Settings, pods: KubernetesSettings, tenant: str | None, ask: Ask | None) -> Json:
    profile, work = _profile(settings, pods, tenant), str(settings.work_folder)
    gpus = ask.count if ask and settings.cluster.gpus else 0
    cores = pods.cpus * max(1, gpus)
    if ask and not gpus:
        cores = float(ask.count)
    memory = pods.memory_gb * max(1, gpus)
    bound = {"memory": _bytes(memory), **({pods.gpu_resource: str(gpus)} if gpus else {})}
    places = {"work": work, "record-keys": f"{GIVEN}/record-keys"}
    places |= {"credentials": f"{GIVEN}/credentials"} if profile.credentials else {}
    places |= {"shared-memory": "/dev/shm"} if ask else {}
    environment = {
        **settings.cluster.environment,
        **_credentials(settings, profile, tenant),
        BACKUP: f"{GIVEN}/record-keys/keys.json",
        GRACE: str(pods.grace_seconds // 2),  # the other half is for sending what was saved
        "FT_DAGSTER_HOST__CPU_SLOTS": str(max(1, int(cores))),
        "FT_DAGSTER_HOST__MEMORY_GB": f"{memory:g}",
        "FT_DAGSTER_KEYS": f"{work}/keys",
        RUN_POD: tenant or "",
        "HOME": work,
        "TMPDIR": work,
    }
    return {
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "env_from": [{"secretRef": {"name": name}} for name in profile.secrets],
        "resources": {
            # Memory and GPUs are limits as well; a limit of cores would slow who has idle neighbours.
            "requests": {
                "cpu": f"{round(cores * 1000)}m",
                **bound,
                "ephemeral-storage": _bytes(pods.disk_gb),
            },
            "limits": bound,
        },
        "security_context": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "termination_message_policy": "FallbackToLogsOnError",
        "volume_mounts": [
            {"name": name, "mountPath": path, **({"readOnly": True} if path.startswith(GIVEN) else {})}
            for name, path in places.items()
        ],
    }


def _credentials(settings: Settings, profile: PodProfile, tenant: str | None) -> dict[str, str]:
    """Return the variables by which a pod finds its credentials. In one whose environment, or account, has
    them, no profile is looked for. Each field is said that the file may say: the two are merged.
    """
    named = settings.store_profiles.of(tenant)
    if named is None:
        return {}
    has = None if profile.credentials is None else named
    tenants = {} if tenant is None else {tenant: has}
    variables = {"FT_DAGSTER_STORE_PROFILES": dumps({"default": has, "per_tenant": tenants})}
    if has is not None:
        file = f"{GIVEN}/credentials/credentials"
        variables |= {"AWS_PROFILE": has, "AWS_SHARED_CREDENTIALS_FILE": file}
    return variables


def _profile(settings: Settings, pods: KubernetesSettings, tenant: str | None) -> PodProfile:
    named = settings.store_profiles.of(tenant)
    return PodProfile.model_construct() if named is None else pods.profiles[named]


def _file(secret: str) -> Json:
    """Return a Secret as a volume that fsGroup alone may read."""
    return {"secret": {"secretName": secret, "defaultMode": 0o440}}


def _bytes(gigabytes: float) -> str:
    """Return a quantity of Kubernetes, from GB of 1e9 bytes."""
    return str(round(gigabytes * 1e9))
