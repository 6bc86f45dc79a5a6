"""An API server as far as a run launcher sees it: it asks the rules of RBAC before each call, takes a Job
that is one by the API's schema and for the namespace that it is sent to, and has the pods and events that it
is given.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

SCHEMA = "1.34"
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[\w.]+))/v1/namespaces/(?P<namespace>[\w-]+)/(?P<kind>\w+)"
    r"(?:/(?P<name>[\w.-]+))?(?:/(?P<part>\w+))?"
)
Json = dict[str, Any]


class Call(NamedTuple):
    """What RBAC knows of a call."""

    verb: str
    group: str
    resource: str
    namespace: str


def may(rules: Sequence[Json], account: str, call: Call) -> bool:
    """Whether the roles bound to `NAMESPACE:ACCOUNT` allow a call: Kubernetes adds them up, none denies."""
    namespace, name = account.split(":")
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    bound = {
        (each["roleRef"]["kind"], each["roleRef"]["name"], each["metadata"]["namespace"])
        for each in rules
        if each["kind"] == "RoleBinding" and subject in each["subjects"]
    }
    assert not [each for each in rules if each["kind"].startswith("Cluster")], "these would count everywhere"
    return any(
        each["kind"] == "Role"
        and each["metadata"]["namespace"] == call.namespace
        and ("Role", each["metadata"]["name"], call.namespace) in bound
        and call.group in rule["apiGroups"]
        and call.resource in rule["resources"]
        and call.verb in rule["verbs"]
        and not rule.get("resourceNames")
        for each in rules
        for rule in each.get("rules", ())
    )


class ApiServer:
    """Jobs by namespace and name, and what tests put beside them: the pods of each, and events by object."""

    def __init__(self, rules: Sequence[Json], account: str) -> None:
        self.rules, self.account = rules, account
        self.jobs: dict[tuple[str, str], Json] = {}
        self.pods: dict[str, list[Json]] = {}
        self.events: dict[str, list[Json]] = {}
        self.calls: list[Call] = []
        self.silent = False

    def answer(self, method: str, url: str, body: Json | None) -> tuple[int, Json | str]:
        where, asked = urlsplit(url), parse_qs(urlsplit(url).query)
        found = PATH.fullmatch(where.path)
        assert found is not None, url
        part = found.groupdict()
        named = part["name"] is not None
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if named else "list"}[method]
        resource = part["kind"] + (f"/{part['part']}" if part["part"] else "")
        call = Call(verb, part["group"] or "", resource, part["namespace"])
        self.calls.append(call)
        if self.silent:
            return 503, {"kind": "Status", "message": "no leader"}
        if not may(self.rules, self.account, call):
            return 403, {"kind": "Status", "message": f"{self.account} cannot {' '.join(call)}"}
        return self._carry_out(
            call, part["name"] or "", {name: value[0] for name, value in asked.items()}, body
        )

    def _carry_out(
        self, call: Call, name: str, asked: dict[str, str], body: Json | None
    ) -> tuple[int, Json | str]:
        if call.resource == "pods" and call.verb == "list":
            of_job = asked.get("labelSelector", "").removeprefix("job-name=")
            wanted = asked.get("fieldSelector", "").removeprefix("metadata.name=")
            pods = [pod for pods in self.pods.values() for pod in pods if pod["metadata"]["name"] == wanted]
            return 200, {"items": self.pods.get(of_job, []) if of_job else pods}
        if call.resource == "events":
            return 200, {"items": self.events.get(asked["fieldSelector"].rpartition("=")[2], [])}
        if call.resource == "pods/log":
            return 200, "the last line"
        if call.verb == "create":
            return self._make(call.namespace, body or {})
        if call.resource == "pods":
            return 200, {"kind": "Pod"}
        job = self.jobs.get((call.namespace, name))
        if call.verb == "list":
            return 200, {"items": [job for (place, _), job in self.jobs.items() if place == call.namespace]}
        if job is None:
            return 404, {"kind": "Status", "message": f"jobs {name} not found"}
        if call.verb == "delete":
            del self.jobs[call.namespace, name]
        return 200, job

    def _make(self, namespace: str, job: Json) -> tuple[int, Json]:
        import kubernetes_validate

        kubernetes_validate.validate(job, SCHEMA, strict=True)
        said = job["metadata"].get("namespace", namespace)
        if said != namespace:
            return 400, {"kind": "Status", "message": f"the namespace {said} does not match {namespace}"}
        self.jobs[namespace, job["metadata"]["name"]] = {**job, "status": {"active": 1}}
        return 201, job


@contextmanager
def serve(server: ApiServer, folder: Path) -> Iterator[Path]:
    """Serve it while the block lasts; the kubeconfig by which it is reached."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, content = server.answer(self.command, self.path, body)
            sent = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        config = folder / "kubeconfig"
        config.write_text(yaml.safe_dump(_kubeconfig(f"http://127.0.0.1:{http.server_address[1]}")))
        try:
            yield config
        finally:
            http.shutdown()


def _kubeconfig(address: str) -> Json:
    return {
        "clusters": [{"name": "own", "cluster": {"server": address}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        "users": [{"name": "own", "user": {}}],
        "current-context": "own",
    }
