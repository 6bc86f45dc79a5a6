"""What the states of a Job, its pods and their events mean. All of them as the API's JSON has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ft_dagster.launch.local import ProgramFailed

NOT_FOUND = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
AT_ONCE = ("InvalidImageName", "ErrImageNeverPull")  # no patience helps
EVENT_CHARS = 500
AGAIN = "Run it again: it goes on from the newest complete checkpoint in the store"
Json = dict[str, Any]


class Waits(NamedTuple):
    """Why nothing runs yet. `patience`: which of the launcher's applies."""

    why: str
    patience: str


QUEUED, UNPLACED, BROKEN, NEVER = "queued", "unplaced", "broken", "never"


def waits(job: Json, pods: Sequence[Json], events: Sequence[Json]) -> Waits | None:
    """Why the program does not run yet, in Kubernetes' words; None where it runs, has ended or is on its way.

    `queued`: by Kueue; `unplaced`: no node, or no quota, for a pod; `broken`: its container cannot be made;
    `never`: and no time will change that.
    """
    if job.get("spec", {}).get("suspend"):
        return Waits("suspended: it waits to be admitted by its queue", QUEUED)
    pod = newest(pods)
    if pod is None:
        refused = last_warning(events)
        return None if refused is None else Waits(refused, UNPLACED)
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return None
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in (*NOT_FOUND, *NOT_MADE):
            return Waits(said(reason, waiting.get("message")), NEVER if reason in AT_ONCE else BROKEN)
    placed = condition(pod, "PodScheduled")
    if placed is not None and placed.get("status") == "False":
        return Waits(said(placed.get("reason", "not scheduled"), placed.get("message")), UNPLACED)
    return None


def ended(job: Json, pods: Sequence[Json]) -> int | ProgramFailed | None:
    """The exit code of a Job's program, once the Job has ended; the failure where there is no such code."""
    if _holds(job, "Complete"):
        return 0
    if not has_failed(job):
        return None
    pod = newest(pods)
    if pod is None:
        failed = condition(job, "Failed") or {}
        why = said(failed.get("reason", "Failed"), failed.get("message"))
        return ProgramFailed(f"its pod is gone: {why}", AGAIN, mendable=True)
    return _end_of(pod)


def _end_of(pod: Json) -> int | ProgramFailed:
    status = pod.get("status", {})
    for container in status.get("containerStatuses", []):
        terminated = container.get("state", {}).get("terminated")
        if terminated is None:
            continue
        if terminated.get("reason") == "OOMKilled":
            fix = f"Raise kubernetes.memory_gb in ft_dagster.yaml. {AGAIN}"
            return ProgramFailed("killed for want of memory (OOMKilled)", fix, mendable=True)
        return int(terminated.get("exitCode", 1))
    why = said(status.get("reason") or "its container left no exit code", status.get("message"))
    return ProgramFailed(f"its pod failed: {why}", AGAIN, mendable=True)


def has_failed(job: Json) -> bool:
    """Whether a Job ended, and its program did not succeed."""
    return _holds(job, "Failed")


def disrupted(pod: Json) -> str | None:
    """Why Kubernetes takes, or took, a pod away by itself; None where it did not."""
    found = condition(pod, "DisruptionTarget")
    if found is None or found.get("status") != "True":
        return None
    return said(found.get("reason", "disrupted"), found.get("message"))


def newest(pods: Sequence[Json]) -> Json | None:
    """The pod that was made last."""
    return max(pods, key=made_at, default=None)


def made_at(pod: Json) -> str:
    """When, in a form that sorts."""
    return str(pod["metadata"].get("creationTimestamp", ""))


def last_warning(events: Sequence[Json]) -> str | None:
    """The newest warning, in words."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    found = max(warnings, key=_when, default=None)
    return None if found is None else said(found.get("reason", ""), found.get("message"))


def condition(thing: Json, kind: str) -> Json | None:
    """The condition of that type in a status."""
    found = thing.get("status", {}).get("conditions") or []
    return next((each for each in found if each.get("type") == kind), None)


def said(reason: str, message: str | None) -> str:
    """In one line."""
    text = " ".join((message or "").split())[:EVENT_CHARS]
    return f"{reason}: {text}" if text else reason


def _holds(job: Json, kind: str) -> bool:
    return (condition(job, kind) or {}).get("status") == "True"


def _when(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
