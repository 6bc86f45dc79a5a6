"""A storage that does not answer is said while the request is made again, and not only once it is given up."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ft_dagster.store import Store
from tests.s3_server import S3Server
from tests.troubled_s3 import Trouble, trouble

SAID = "the storage s3://{} does not answer: {}; it is asked again"


@pytest.mark.slow
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
    assert caplog.messages == [SAID.format(server.bucket, "GetObject, status 503, try 1")]


@pytest.mark.slow
def test_a_connection_that_is_cut_is_said(
    s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ft_dagster"), trouble(s3_server) as (server, troubles):
        store = Store(f"s3://{server.bucket}/{tmp_path.name}", server.options)
        troubles.ahead += [Trouble("PUT", "file", "cut", 3)]
        store.write("file", b"content")
    assert caplog.messages == [SAID.format(server.bucket, "PutObject, ConnectionClosedError, try 1")]
