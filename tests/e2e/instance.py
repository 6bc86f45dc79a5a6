"""A webserver and a daemon over HTTP, as a person starts them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

BIN = Path(sys.executable).parent
Answer = TypeVar("Answer")

LAUNCH = """
mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
PARTITION = """
mutation($selector: RepositorySelector!, $name: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $selector, partitionsDefName: $name, partitionKey: $key) {
    __typename } }
"""
RUN = """
query($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value }
  assetMaterializations { assetKey { path } partition metadataEntries { label } }
  eventConnection { events { __typename
    ... on AssetCheckEvaluationEvent { evaluation { checkName success description } }
    ... on ExecutionStepFailureEvent { stepKey failureMetadata { description } error { message } } } } } } }
"""
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
REPOSITORY = {"repositoryLocationName": "ft_dagster", "repositoryName": "__repository__"}


class EndedRun(NamedTuple):
    """A run that has ended, as Dagster's API tells of it. `checks`: name -> whether it passed, and its
    sentence; `failures`: step -> what it said.
    """

    run_id: str
    run: dict[str, Any]
    checks: dict[str, tuple[bool, str]]
    failures: dict[str, str]

    @property
    def status(self) -> str:
        return str(self.run["status"])


@contextmanager
def running(command: Sequence[str | Path], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, query: str, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["data"]


def launch(port: int, key: str, *assets: str) -> str:
    """The id of a run of these assets of a variant, launched as Dagster's UI does."""
    ask(port, PARTITION, selector=REPOSITORY, name="ft_dagster_variant", key=key)  # if no sensor has yet
    params = {
        "selector": {
            **REPOSITORY,
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]} for asset in assets],
        },
        "mode": "default",
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
    }
    launched = ask(port, LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def ended(port: int, run_id: str, patience: float = 400) -> EndedRun:
    """Wait for the end of a run."""

    def finished() -> dict[str, Any] | None:
        run: dict[str, Any] = ask(port, RUN, id=run_id)["runOrError"]
        return run if run["status"] in ENDED else None

    run = wait_until(finished, patience)
    events = run.pop("eventConnection")["events"]
    found = [each["evaluation"] for each in events if each["__typename"] == "AssetCheckEvaluationEvent"]
    failed = [each for each in events if each["__typename"] == "ExecutionStepFailureEvent"]
    return EndedRun(
        run_id,
        run,
        {each["checkName"]: (each["success"], each["description"] or "") for each in found},
        {
            each["stepKey"]: (each["failureMetadata"] or {}).get("description") or each["error"]["message"]
            for each in failed
        },
    )


def wait_until(question: Callable[[], Answer | None], patience: float = 180) -> Answer:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(OSError):
            if answer := question():
                return answer
        time.sleep(0.5)
    raise TimeoutError(f"no answer in {patience} s")


def wait_for_ui(port: int) -> str:
    """The address of a webserver, once it answers."""
    root = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with urllib.request.urlopen(f"{root}/server_info", timeout=2):
            return True

    wait_until(answers)
    return root
