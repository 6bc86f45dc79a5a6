"""The few calls of the API server that a launcher makes, through the `kubernetes` client; JSON in and out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ft_dagster.errors import UserError

PATIENCE = (5.0, 30.0)  # seconds to connect, and to be answered
PASSING = (408, 429, 500, 502, 503, 504)
LOG_BYTES = 10_000_000  # of one look at a log
TAIL = 2000  # lines of a log that is looked at for the first time
Json = dict[str, Any]
T = TypeVar("T")


class ApiServerSilent(Exception):
    """The API server does not answer just now, or says so itself."""


class KubernetesApi:
    """A cluster as one kubeconfig context, or the service account of this pod, sees it.

    Every call raises ApiServerSilent, and UserError where it is not allowed or not understood.
    """

    def __init__(self, context: str | None = None) -> None:
        """Raises UserError where the client is not installed, or no cluster is configured."""
        self._client = _client()
        self._api = self._connected(context)
        self._jobs, self._core = self._client.BatchV1Api(self._api), self._client.CoreV1Api(self._api)

    def _connected(self, context: str | None) -> Any:
        from kubernetes import config

        try:
            if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                settings = self._client.Configuration()
                config.load_incluster_config(client_configuration=settings)
                return self._client.ApiClient(settings)
            return config.new_client_from_config(os.environ.get("KUBECONFIG"), context)
        except config.ConfigException as error:
            raise UserError(
                f"no cluster is configured: {' '.join(str(error).split())}",
                field="kubernetes.context",
                value=context,
                fix="Name a context of the kubeconfig (KUBECONFIG), or run in a pod with a service account",
            ) from None

    def create(self, job: Json) -> bool:
        """Make a Job; False where one of its name is there already."""
        namespace = job["metadata"]["namespace"]
        return (
            self._asked(lambda: self._jobs.create_namespaced_job(namespace, job, **_SOON), none=409)
            is not None
        )

    def job(self, namespace: str, name: str) -> Json | None:
        """A Job, or None."""
        return self._asked(lambda: self._jobs.read_namespaced_job(name, namespace, **_SOON))

    def pods(self, namespace: str, job: str) -> list[Json]:
        """The pods of a Job, also those that ended."""
        selector = f"batch.kubernetes.io/job-name={job}"
        return self._listed(
            lambda: self._core.list_namespaced_pod(namespace, label_selector=selector, **_SOON)
        )

    def events(self, namespace: str, job: str) -> list[Json]:
        """What was told of a Job itself."""
        selector = f"involvedObject.kind=Job,involvedObject.name={job}"
        return self._listed(
            lambda: self._core.list_namespaced_event(namespace, field_selector=selector, **_SOON)
        )

    def log(self, namespace: str, pod: str, seconds: float | None) -> list[str] | None:
        """Lines of a pod's log of the last so many seconds (None: its end), each with its time in front; none
        where it has no log yet, or any more. None where its node does not give it just now.
        """
        since = {"tail_lines": TAIL} if seconds is None else {"since_seconds": max(1, int(seconds))}
        with _told():
            try:  # as bytes: some versions of the client make a text of them that is Python's word for bytes
                answer = self._core.read_namespaced_pod_log(
                    pod,
                    namespace,
                    timestamps=True,
                    limit_bytes=LOG_BYTES,
                    _preload_content=False,
                    **since,
                    **_SOON,
                )
                content: bytes = answer.data
            except self._client.ApiException as error:
                if error.status in (400, 404):  # not started yet; gone
                    return []
                if error.status in PASSING:
                    return None
                raise
        return content.decode("utf-8", "replace").splitlines()

    def delete(self, namespace: str, name: str) -> None:
        """Have a Job and its pods removed; it goes once they are gone. None is no error."""
        self._asked(
            lambda: self._jobs.delete_namespaced_job(
                name, namespace, propagation_policy="Foreground", **_SOON
            )
        )

    def _listed(self, call: Callable[[], Any]) -> list[Json]:
        found = self._asked(call) or {}
        items: list[Json] = found.get("items") or []
        return items

    def _asked(self, call: Callable[[], Any], none: int = 404) -> Json | None:
        """The answer as JSON; None for an error of that status."""
        with _told():
            try:
                answer: Json = self._api.sanitize_for_serialization(call())
            except self._client.ApiException as error:
                if error.status == none:
                    return None
                raise
        return answer


_SOON: dict[str, Any] = {"_request_timeout": PATIENCE}


def _client() -> Any:
    try:
        from kubernetes import client
    except ModuleNotFoundError:
        problem = "`launcher: k8s` needs the kubernetes client, which is not installed here"
        raise UserError(problem, fix="pip install 'ft-dagster[k8s]'") from None
    return client


@contextmanager
def _told() -> Iterator[None]:
    """Let errors of the client be those of `KubernetesApi`."""
    import urllib3
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        if error.status in PASSING or not error.status:
            raise ApiServerSilent(f"the API server answers {error.status} {error.reason}") from error
        fix = "See what the role of this service account or user allows (deploy/kubernetes/rbac.yaml)"
        raise UserError(f"the API server refuses: {_message(error)}", fix=fix) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ApiServerSilent(f"the API server does not answer ({type(error).__name__})") from error


def _message(error: Any) -> str:
    """Of the Status that the API server sent."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
