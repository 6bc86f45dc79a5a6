"""A stand-in for Kubernetes, and no Kubernetes: an HTTP server with the calls of the API that the launcher
makes, and as much of a Job controller, a scheduler and a kubelet as it takes for them to mean something.

A pod is a process of this host. What real Kubernetes would do was read from its documentation, not tried.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

Json = dict[str, Any]
JOBS = re.compile(r"/apis/batch/v1/namespaces/(?P<namespace>[^/]+)/jobs(?:/(?P<name>[^/]+))?")
PODS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods(?:/(?P<name>[^/]+)(?P<log>/log)?)?")
EVENTS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/events")
JOB_NAME = "batch.kubernetes.io/job-name"
TICK = 0.05


class Refused(Exception):
    """An answer with a status that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StandIn:
    """The state of the cluster, and what tests do to it.

    `no_room`, `no_quota`: what the scheduler and the controller say instead of placing or making pods.
    `images`: those that can be pulled. `secrets`: the environment that each gives. `down`: answers 503, and
    `forbidden` 403. `node_silent`: the API server has no logs from the node.
    """

    def __init__(self, folder: Path, images: set[str]) -> None:
        self.folder, self.images = folder, images
        self.secrets: dict[str, dict[str, str]] = {}
        self.no_room: str | None = None
        self.no_quota: str | None = None
        self.down = False
        self.forbidden = False
        self.node_silent = False
        self.jobs: dict[str, Json] = {}
        self.pods: dict[str, Json] = {}
        self.events: list[Json] = []
        self.asked: list[Json] = []  # every Job that was ever asked for
        self.logs: dict[str, list[str]] = {}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.lock = threading.RLock()

    # What the API is asked.

    def create_job(self, namespace: str, job: Json) -> Json:
        name = job["metadata"]["name"]
        with self.lock:
            self.asked.append(job)
            if name in self.jobs:
                raise Refused(409, f'jobs.batch "{name}" already exists')
            job["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
            job["status"] = {"conditions": []}
            self.jobs[name] = job
            return job

    def job(self, name: str) -> Json:
        if name not in self.jobs:
            raise Refused(404, f'jobs.batch "{name}" not found')
        return self.jobs[name]

    def delete_job(self, name: str) -> Json:
        """In the foreground: it goes after its pods, which get SIGTERM and their grace."""
        job = self.job(name)
        if "deletionTimestamp" not in job["metadata"]:
            job["metadata"]["deletionTimestamp"] = _now()
            for pod in self.pods_of(name):
                self._terminate(pod)
        return {"kind": "Status", "status": "Success"}

    def log(self, pod: str, query: dict[str, list[str]]) -> str:
        if pod not in self.pods:
            raise Refused(404, f'pods "{pod}" not found')
        if self.node_silent:
            raise Refused(502, "error dialing backend: connect: no route to host")
        lines = list(self.logs.get(pod, []))
        if "sinceSeconds" in query:
            since = time.time() - float(query["sinceSeconds"][0])
            lines = [
                line for line in lines if datetime.fromisoformat(line[:26] + "+00:00").timestamp() >= since
            ]
        if "tailLines" in query:
            lines = lines[-int(query["tailLines"][0]) :]
        return "\n".join(lines)

    def pods_of(self, job: str) -> list[Json]:
        return [pod for pod in self.pods.values() if pod["metadata"]["labels"][JOB_NAME] == job]

    # What happens in a cluster.

    def running(self) -> list[Json]:
        return [pod for pod in self.pods.values() if pod["status"]["phase"] == "Running"]

    def evict(self, pod: str, reason: str = "EvictionByEvictionAPI") -> None:
        """As a drain does: the condition, SIGTERM, the grace."""
        with self.lock:
            _set(self.pods[pod], "DisruptionTarget", "True", reason, "Eviction API: evicting")
            self._terminate(self.pods[pod])

    def vanish(self, pod: str) -> None:
        """As with a node that is gone and removed: no signal, no condition, no pod."""
        with self.lock:
            _kill(self.processes[pod])
            del self.pods[pod]

    def kill(self, pod: str, reason: str) -> None:
        """SIGKILL with a reason of the kubelet: OOMKilled."""
        with self.lock:
            self.pods[pod]["killed"] = reason
            _kill(self.processes[pod])

    def close(self) -> None:
        for process in self.processes.values():
            _kill(process)

    # Controller, scheduler, kubelet.

    def tick(self) -> None:
        with self.lock:
            for pod in list(self.pods.values()):
                self._schedule(pod)
                self._run(pod)
            for job in list(self.jobs.values()):
                self._control(job)

    def _control(self, job: Json) -> None:
        name = job["metadata"]["name"]
        pods = self.pods_of(name)
        active = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
        if "deletionTimestamp" in job["metadata"]:
            if not active:
                del self.jobs[name]
                self.pods = {n: pod for n, pod in self.pods.items() if pod not in pods}
            return
        if job["status"]["conditions"] or job["spec"].get("suspend"):
            return
        if any(pod["status"]["phase"] == "Succeeded" for pod in pods):
            _set(job, "Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods")
            return
        counted = [p for p in pods if p["status"]["phase"] == "Failed" and not _ignored(job, p)]
        lost = job["status"].get("started", 0) - len(pods)
        if len(counted) + lost > job["spec"]["backoffLimit"]:
            message = "Job has reached the specified backoff limit"
            _set(job, "Failed", "True", "BackoffLimitExceeded", message)
        elif not active:
            self._make_pod(job)

    def _make_pod(self, job: Json) -> None:
        if self.no_quota is not None:
            self.events.append(
                {
                    "type": "Warning",
                    "reason": "FailedCreate",
                    "message": self.no_quota,
                    "lastTimestamp": _now(),
                    "metadata": {"name": uuid.uuid4().hex, "namespace": job["metadata"]["namespace"]},
                    "involvedObject": {"kind": "Job", "name": job["metadata"]["name"]},
                }
            )
            return
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        template = job["spec"]["template"]
        labels = {**template["metadata"]["labels"], JOB_NAME: job["metadata"]["name"]}
        job["status"]["started"] = job["status"].get("started", 0) + 1
        self.pods[name] = {
            "metadata": {
                "name": name,
                "namespace": job["metadata"]["namespace"],
                "labels": labels,
                "creationTimestamp": _now(),
            },
            "spec": {**template["spec"]},
            "status": {"phase": "Pending", "conditions": []},
        }

    def _schedule(self, pod: Json) -> None:
        if pod["status"]["phase"] != "Pending" or "nodeName" in pod["spec"]:
            return
        if self.no_room is not None:
            _set(pod, "PodScheduled", "False", "Unschedulable", self.no_room)
            return
        _set(pod, "PodScheduled", "True", "", "")
        pod["spec"]["nodeName"] = "stand-in"

    def _run(self, pod: Json) -> None:
        name, status = pod["metadata"]["name"], pod["status"]
        if status["phase"] == "Pending" and "nodeName" in pod["spec"]:
            why = self._cannot_start(pod["spec"]["containers"][0])
            if why is not None:
                status["containerStatuses"] = [_container({"waiting": why})]
                return
            self.processes[name] = self._start(pod)
            status["phase"] = "Running"
            status["containerStatuses"] = [_container({"running": {"startedAt": _now()}})]
        elif status["phase"] == "Running":
            code = self.processes[name].poll()
            if code is not None:
                code = 128 - code if code < 0 else code
                reason = pod.get("killed") or ("Completed" if code == 0 else "Error")
                ended = {"exitCode": code, "reason": reason, "finishedAt": _now()}
                status["containerStatuses"] = [_container({"terminated": ended})]
                status["phase"] = "Succeeded" if code == 0 else "Failed"
            elif time.monotonic() > pod.get("deadline", time.monotonic()):
                _kill(self.processes[name])

    def _cannot_start(self, container: Json) -> Json | None:
        image = container["image"]
        if image not in self.images:
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
        for each in container.get("envFrom", []):
            secret = each["secretRef"]["name"]
            if secret not in self.secrets:
                return {"reason": "CreateContainerConfigError", "message": f'secret "{secret}" not found'}
        return None

    def _start(self, pod: Json) -> subprocess.Popen[str]:
        """The first container's command, its volumes' folders in place of where they would be mounted."""
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        folders = {}
        for mount in container["volumeMounts"]:
            if mount["mountPath"] != "/dev/shm":
                folders[mount["mountPath"]] = self.folder / name / mount["name"]
                folders[mount["mountPath"]].mkdir(parents=True)
        given: dict[str, str] = {}
        for each in container.get("envFrom", []):
            given.update(self.secrets[each["secretRef"]["name"]])
        given.update({each["name"]: each["value"] for each in container["env"]})
        of_image = {k: os.environ[k] for k in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if k in os.environ}
        process = subprocess.Popen(
            [sys.executable, *[_mounted(word, folders) for word in container["command"][1:]]],
            env={**of_image, **{name: _mounted(value, folders) for name, value in given.items()}},
            cwd=next(iter(folders.values())),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.logs[name] = []
        threading.Thread(target=self._keep_log, args=(process, self.logs[name]), daemon=True).start()
        return process

    def _keep_log(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        for line in process.stdout or ():
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            lines.append(f"{stamp} {line.rstrip()}")

    def _terminate(self, pod: Json) -> None:
        if pod["status"]["phase"] == "Pending":
            pod["status"]["phase"] = "Failed"
        elif pod["status"]["phase"] == "Running" and "deadline" not in pod:
            pod["deadline"] = time.monotonic() + pod["spec"]["terminationGracePeriodSeconds"]
            with suppress(ProcessLookupError):
                self.processes[pod["metadata"]["name"]].send_signal(signal.SIGTERM)


def _kill(process: subprocess.Popen[str]) -> None:
    """All that runs in a pod, at once."""
    with suppress(psutil.NoSuchProcess):
        inside = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for each in inside:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def _ignored(job: Json, pod: Json) -> bool:
    """Whether the Job's policy does not count this failure."""
    held = {c["type"] for c in pod["status"]["conditions"] if c["status"] == "True"}
    rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
    wanted = [c["type"] for rule in rules if rule["action"] == "Ignore" for c in rule["onPodConditions"]]
    return bool(held.intersection(wanted))


def _mounted(word: str, folders: dict[str, Path]) -> str:
    for mounted, folder in folders.items():
        if word == mounted or word.startswith(f"{mounted}/"):
            return str(folder) + word.removeprefix(mounted)
    return word


def _container(state: Json) -> Json:
    return {"name": "program", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def _set(thing: Json, kind: str, status: str, reason: str, message: str) -> None:
    left = [each for each in thing["status"]["conditions"] if each["type"] != kind]
    found = {"type": kind, "status": status, "reason": reason, "message": message}
    thing["status"]["conditions"] = [*left, found]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Handler(BaseHTTPRequestHandler):
    cluster: StandIn

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            if self.cluster.down:
                raise Refused(503, "the server is currently unable to handle the request")
            if self.cluster.forbidden:
                raise Refused(403, "jobs.batch is forbidden: User cannot create resource")
            with self.cluster.lock:
                found = self._found(method, body)
            status = 201 if method == "POST" else 200
        except Refused as refused:
            found = {"kind": "Status", "status": "Failure", "message": str(refused), "code": refused.status}
            status = refused.status
        text = found if isinstance(found, str) else json.dumps(found)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def _found(self, method: str, body: Json) -> Json | str:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if at := JOBS.fullmatch(parts.path):
            if method == "POST":
                return self.cluster.create_job(at["namespace"], body)
            if method == "DELETE":
                return self.cluster.delete_job(at["name"])
            return self.cluster.job(at["name"])
        if at := PODS.fullmatch(parts.path):
            if at["log"]:
                return self.cluster.log(at["name"], query)
            key, _, value = query["labelSelector"][0].partition("=")
            pods = [p for p in self.cluster.pods.values() if p["metadata"]["labels"].get(key) == value]
            return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}
        if EVENTS.fullmatch(parts.path):
            job = query["fieldSelector"][0].rpartition("=")[2]
            events = [event for event in self.cluster.events if event["involvedObject"]["name"] == job]
            return {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": events}
        raise Refused(404, f"the stand-in has no {parts.path}")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""


@contextmanager
def serve_stand_in(folder: Path, *images: str) -> Iterator[tuple[StandIn, Path]]:
    """A stand-in that serves until the block ends, and a kubeconfig that names it."""
    cluster = StandIn(folder / "pods", set(images))
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ends = threading.Event()
    controller = threading.Thread(target=_control_until, args=(cluster, ends), daemon=True)
    controller.start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    kubeconfig.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{server.server_port}")))
    try:
        yield cluster, kubeconfig
    finally:
        ends.set()
        controller.join()
        server.shutdown()
        server.server_close()
        cluster.close()


def _control_until(cluster: StandIn, ends: threading.Event) -> None:
    while not ends.wait(TICK):
        cluster.tick()


def _kubeconfig(server: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stand-in",
        "clusters": [{"name": "stand-in", "cluster": {"server": server}}],
        "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    }
