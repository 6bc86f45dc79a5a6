"""A webserver and a daemon over HTTP, as a person starts them."""

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
from typing import Any, TypeVar

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


REPOSITORY = {"repositoryLocationName": "ft_dagster", "repositoryName": "__repository__"}


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
