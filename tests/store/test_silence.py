"""A storage that gives no answer is said while the request is made again, and given up after a while."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest

from ft_dagster.store import Store, unreachable
from tests.s3_server import KEY, SECRET, S3Server, free_port, start_s3
from tests.troubled_s3 import Trouble, trouble

pytestmark = pytest.mark.slow


def test_a_request_that_is_made_again_is_said_once_in_a_while(
    s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ft_dagster"), trouble(s3_server) as (server, troubles):
        store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options)
        store.write("file", b"content")
        troubles.ahead += [Trouble("GET", "file", "503", 2), Trouble("GET", "other", "503")]
        assert store.read("file") == b"content"
        with pytest.raises(FileNotFoundError):
            store.read("other")
    assert caplog.messages == ["the storage s3://artifacts answers with status 503 to try 1 of GetObject"]


def test_a_connection_that_is_cut_is_said(
    s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ft_dagster"), trouble(s3_server) as (server, troubles):
        store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options)
        troubles.ahead += [Trouble("PUT", "file", "cut", 3)]
        store.write("file", b"content")
    said = "the storage s3://artifacts gives no answer (botocore.ConnectionClosedError) to try 1 of PutObject"
    assert caplog.messages == [said]


def test_a_write_that_gets_no_answer_ends_as_a_read_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    options = {"key": KEY, "secret": SECRET, "endpoint_url": f"http://127.0.0.1:{port}"}
    store = Store("s3://artifacts/ft", {**options, "config_kwargs": {"read_timeout": 0.2}})
    process = start_s3(tmp_path / "server", port)
    try:
        store.write("file", b"content")
        process.send_signal(signal.SIGSTOP)
        with (
            caplog.at_level(logging.WARNING, "ft_dagster"),
            pytest.raises(Exception, match="Read timeout") as raised,
        ):
            store.write("other", b"content")
    finally:
        process.kill()
        process.wait()
    said = "the storage s3://artifacts gives no answer (botocore.ReadTimeoutError) to try 1 of PutObject"
    assert caplog.messages[0] == said
    assert unreachable(raised.value)
