"""An environment beside this one that has MLflow's client and Weights & Biases too, and a server of MLflow.

Each is made once a session, from a package index; the server in an environment of its own, since it needs
older libraries. FT_DAGSTER_TEST_CLIENT and FT_DAGSTER_TEST_SERVER name those that are there already.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.present import present

ROOT = Path(__file__).resolve().parents[1]
CLIENT, SERVER = "FT_DAGSTER_TEST_CLIENT", "FT_DAGSTER_TEST_SERVER"
MLFLOW = ">=3.5,<4"
STARTS = 90.0  # seconds that a server may take


class Trackers(NamedTuple):
    """Interpreters: of this environment with MLflow's client and wandb, and of an MLflow server."""

    client: Path
    server: Path


def make_trackers(folder: Path) -> Trackers:
    """Those that the environment names, else made below `folder`."""
    client, server = os.environ.get(CLIENT), os.environ.get(SERVER)
    if client is None:
        client = str(folder / "client")
        venv.create(client, with_pip=True)
        packages = next(Path(client).glob("lib/python*/site-packages"))
        (packages / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        _install(client, "-c", str(ROOT / "constraints.txt"), f"mlflow-skinny{MLFLOW}", "wandb")
    if server is None:
        server = str(folder / "server")
        venv.create(server, with_pip=True)
        _install(server, f"mlflow{MLFLOW}")
    return Trackers(*(Path(one) / "bin" / "python" for one in (client, server)))


def _install(home: str, *wanted: str) -> None:
    pip = [f"{home}/bin/python", "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *wanted], check=True, capture_output=True)


@contextmanager
def mlflow_server(python: Path, folder: Path, port: int) -> Iterator[str]:
    """A server with its own database and files below `folder`; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "files")),
    ]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # no workers beside it
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=given, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", server, folder / "server.log")
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text("utf-8", "replace")
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                present(answer.read())
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text("utf-8", "replace"))
