"""Refuses settings by which runs can be no pods of Kubernetes, or no jobs of Ray. What a cluster is told has
nothing secret in it, for all who see the cluster can read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.kubernetes_settings import KubernetesSettings
from ft_dagster.roots import is_address
from ft_dagster.settings import FILE, Settings

# In the names of options of file systems that are credentials.
SECRETS = ("key", "secret", "token", "passw", "username", "authorization", "credential", "cookie")
NO_SECRETS = ("ssekmskeyid",)  # names a key that S3 has
VARIABLE = re.compile(
    r"(^|_)(key|key_id|tokens?|secrets?|pass|pat)$|apikey$|password$|passphrase$|passwd$|.pwd$", re.IGNORECASE
)
IN_ADDRESS = re.compile(r"(?<!ssh)://[^/\s@]*@")  # a user of SSH is no secret


def refuse_pod(settings: Settings, pods: KubernetesSettings, tenant: str | None) -> None:
    """Raises UserError where the settings make no pod that could run something of a tenant."""
    file, profile = settings.project / FILE, settings.store_profiles.of(tenant)

    def refuse(problem: str, field: str, value: object, fix: str) -> None:
        raise UserError(problem, file=file, field=field, value=value, fix=fix)

    fix = "Take one of them out"
    if settings.ray is not None:
        refuse("runs are pods, and no jobs of Ray", "ray", "beside kubernetes", fix)
    if not is_address(settings.store):
        refuse("a folder of a pod goes with it", "store", settings.store, "Name s3://bucket/prefix")
    if settings.work_folder.is_relative_to(settings.project):
        fix = "Name a folder outside the project, whose volume is only read: /work"
        refuse("scratch space of a pod in the project", "work", str(settings.work), fix)
    if settings.cluster.nodes > 1:
        refuse("a run is one pod, on one node", "cluster.nodes", settings.cluster.nodes, "Say 1")
    if profile is not None and profile not in pods.profiles:
        fix = "Name under it the Secret, or the service account, that gives them to a pod"
        refuse("no pod can have the credentials of this profile", "kubernetes.profiles", profile, fix)
    if "profile" in settings.store_options:
        fix = "Name it in store_profiles, and under kubernetes.profiles what gives its credentials to a pod"
        refuse("no pod has it", "store_options.profile", settings.store_options["profile"], fix)
    refuse_credentials(settings.store_options, file)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)


def refuse_job(settings: Settings) -> None:
    """Raises UserError where the settings make no job of Ray that could run something: what a job is told can
    be read by all who see the cluster.
    """
    file, field = settings.project / FILE, "ray.runtime_env.env_vars"
    variables = {} if settings.ray is None else settings.ray.runtime_env.get("env_vars", {})
    if not isinstance(variables, dict):
        fix = "Write {NAME: value}"
        raise UserError("not variables by their names", file=file, field=field, fix=fix)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)
    refuse_secret_variables(variables, field, file)
    refuse_users_in_addresses(
        {} if settings.ray is None else settings.ray.runtime_env, "ray.runtime_env", file
    )


def refuse_credentials(options: Mapping[str, Any], settings_file: Path) -> None:
    """Raises UserError where one of the store's options is a credential, or an address has some in it."""
    for field in _secrets(options, "store_options"):
        raise UserError(
            "is a credential, which is not passed to a cluster",
            file=settings_file,
            field=field,
            fix="Name a profile, and have it on each node, or let the nodes have the right by their role",
        )


def refuse_secret_variables(
    environment: Mapping[str, Any], field: str, settings_file: Path | None = None
) -> None:
    """Raises UserError where a variable is a secret by its name, or an address in one has a user in it."""
    for name, value in environment.items():
        if VARIABLE.search(name) or IN_ADDRESS.search(str(value)):
            raise UserError(
                "is a secret, and all who see the cluster could read it",
                file=settings_file,
                field=f"{field}.{name}",
                fix="Have it in the environment of the nodes; on Kubernetes in the Secret of a profile",
            )


def refuse_users_in_addresses(content: Mapping[str, Any], field: str, settings_file: Path) -> None:
    """Raises UserError where an address in what a cluster is told, however deep, has a user in it."""
    for place in _secrets(content, field, by_name=False):
        raise UserError(
            "has a user in its address, and all who see the cluster could read it",
            file=settings_file,
            field=place,
            fix="Name an address that needs none, or let the nodes have the right",
        )


def _secrets(content: Any, field: str, *, by_name: bool = True) -> Iterator[str]:
    """Yield the fields that are secret, however deep: by their name, or as an address with a user in it."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            inner, plain = f"{field}.{name}", str(name).casefold()
            if by_name and plain not in NO_SECRETS and any(part in plain for part in SECRETS):
                yield inner
            else:
                yield from _secrets(value, inner, by_name=by_name)
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _secrets(value, f"{field}.{number}", by_name=by_name)
    elif isinstance(content, str) and IN_ADDRESS.search(content):
        yield field
