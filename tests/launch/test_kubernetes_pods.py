"""What is read from the states of a Job and its pods, as the API's JSON has them."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_kubernetes.follow import LogLines
from ft_dagster.launch.on_kubernetes.pods import BROKEN, NEVER, QUEUED, UNPLACED, disrupted, ended, waits

NOTHING: dict[str, Any] = {"spec": {}, "status": {}}


def pod(phase: str, at: str = "2026-11-26T20:00:00Z", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "pod", "creationTimestamp": at}, "status": {"phase": phase, **status}}


def waiting(reason: str, message: str) -> dict[str, Any]:
    return pod("Pending", containerStatuses=[{"state": {"waiting": {"reason": reason, "message": message}}}])


def terminated(**how: Any) -> dict[str, Any]:
    return pod("Failed", containerStatuses=[{"state": {"terminated": how}}])


def condition(kind: str, status: str = "True", **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, **more}]}


UNSCHEDULABLE = pod(
    "Pending",
    **condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes\nare available."),
)
FAILED = {"spec": {}, "status": condition("Failed", reason="BackoffLimitExceeded", message="too often")}


def test_a_pod_that_no_node_takes_waits_with_kubernetes_words_in_one_line() -> None:
    assert waits(NOTHING, [UNSCHEDULABLE], []) == ("Unschedulable: 0/3 nodes are available.", UNPLACED)


@pytest.mark.parametrize(
    ("reason", "patience"),
    [
        ("ImagePullBackOff", BROKEN),
        ("ErrImagePull", BROKEN),
        ("InvalidImageName", NEVER),
        ("CreateContainerConfigError", BROKEN),
    ],
)
def test_what_a_container_lacks_is_named(reason: str, patience: str) -> None:
    assert waits(NOTHING, [waiting(reason, "no such thing")], []) == (f"{reason}: no such thing", patience)


def test_a_container_on_its_way_waits_for_nothing() -> None:
    assert waits(NOTHING, [waiting("ContainerCreating", "")], []) is None
    assert waits(NOTHING, [pod("Running")], []) is None
    assert waits(NOTHING, [], []) is None


def test_a_suspended_job_is_in_its_queue() -> None:
    found = waits({"spec": {"suspend": True}}, [], [])
    assert found is not None
    assert found.patience == QUEUED


def test_the_newest_warning_says_why_there_is_no_pod() -> None:
    def event(kind: str, message: str, minute: int) -> dict[str, str]:
        at = f"2026-11-26T20:0{minute}:00Z"
        return {"type": kind, "reason": "FailedCreate", "message": message, "lastTimestamp": at}

    events = [event("Warning", "old", 0), event("Warning", "quota", 1), event("Normal", "made", 2)]
    assert waits(NOTHING, [], events) == ("FailedCreate: quota", UNPLACED)


def test_a_job_has_ended_once_it_says_so_and_the_code_is_its_newest_pods() -> None:
    assert ended({"status": condition("Complete")}, []) == 0
    assert ended(NOTHING, [terminated(exitCode=75)]) is None
    before = {**terminated(exitCode=2), "metadata": {"creationTimestamp": "2026-11-26T19:00:00Z"}}
    assert ended(FAILED, [before, terminated(exitCode=75)]) == 75


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "its pod is gone: BackoffLimitExceeded: too often"),
        ([terminated(exitCode=137, reason="OOMKilled")], "OOMKilled"),
        (
            [pod("Failed", reason="Evicted", message="The node was low on memory")],
            "Evicted: The node was low",
        ),
    ],
)
def test_an_end_without_a_code_of_the_programs_is_a_failure_that_a_retry_can_mend(
    pods: list[dict[str, Any]], said: str
) -> None:
    end = ended(FAILED, pods)
    assert isinstance(end, ProgramFailed)
    assert said in str(end)
    assert end.mendable


def test_a_disruption_is_told_from_a_failure() -> None:
    assert disrupted(pod("Failed", **condition("DisruptionTarget", reason="PreemptionByScheduler"))) == (
        "PreemptionByScheduler"
    )
    assert disrupted(pod("Failed", **condition("DisruptionTarget", "False"))) is None
    assert disrupted(terminated(exitCode=1)) is None


def test_lines_of_a_log_that_are_read_again_are_passed_on_once() -> None:
    log, stamp = LogLines(), "2026-11-26T20:00:0"
    assert log.new([f"{stamp}1Z a", f"{stamp}2Z b", f"{stamp}2Z b"]) == ["a", "b", "b"]
    assert log.new([f"{stamp}2Z b", f"{stamp}2Z b", f"{stamp}2Z c", f"{stamp}3Z"]) == ["c", ""]
    assert log.new([f"{stamp}3Z"]) == []


def test_lines_are_passed_on_when_a_nodes_clock_goes_back() -> None:
    log = LogLines()
    before = "2026-10-25T02:59:59.900000000+02:00 a"
    after = [
        f"2026-10-25T{time}.100000000+01:00 {text}" for time, text in (("02:00:00", "b"), ("02:30:00", "c"))
    ]
    assert log.new([before, *after]) == ["a", "b", "c"]
    assert log.new([before, *after, "2026-10-25T02:30:00.100000001+01:00 d"]) == ["d"]  # a nanosecond later


def test_a_line_without_a_time_hides_none_after_it() -> None:
    log, stamp, refusal = LogLines(), "2026-11-26T20:00:0", "unable to retrieve container logs"
    parts = [f"{stamp}1Z step 1", "step 2", "step 3"]  # of one line, with carriage returns in it
    assert log.new(parts) == ["step 1", "step 2", "step 3"]
    assert log.new([*parts, f"{stamp}2Z b"]) == ["b"]
    assert log.new([refusal]) == [refusal]
    assert log.new([refusal]) == []
    assert log.new([f"{stamp}2Z b", f"{stamp}3Z c"]) == ["c"]
