"""A fingerprint says what a source was: by bytes, by ETag, by commit."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ft_dagster.data.sources.fingerprint import check_unchanged, fingerprint, fingerprint_sources
from ft_dagster.data.sources.locations import DeclaredAt, s3
from ft_dagster.errors import UserError
from ft_dagster.provenance.hash_cache import cached_sha256
from ft_dagster.spec.data import SourceSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_local_files_are_named_by_relative_path_size_and_sha256(project: Path, write: Any) -> None:
    text = write("data/a.jsonl", [{"text": "a"}]).read_bytes()
    write("data/b.jsonl", [{"text": "b"}])
    found = fingerprint(SourceSpec(path="data"), project)
    assert found[0] == {"path": "data/a.jsonl", "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    assert [entry["path"] for entry in found] == ["data/a.jsonl", "data/b.jsonl"]


def test_a_file_outside_the_project_keeps_its_absolute_path(project: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_text('{"text": "a"}\n')
    assert fingerprint(SourceSpec(path=str(outside)), project)[0]["path"] == str(outside)


@pytest.mark.slow
def test_s3_objects_are_named_by_address_size_and_etag(project: Path, put: Any) -> None:
    source = SourceSpec(path=put("fp/rows.jsonl", b'{"text": "a"}\n'))
    [before] = fingerprint(source, project)
    assert (before["path"], before["size"]) == (source.path, 14)
    put("fp/rows.jsonl", b'{"text": "b"}\n')
    [after] = fingerprint(source, project)
    assert after["etag"] != before["etag"]


@pytest.mark.slow
def test_an_answer_of_s3_that_is_cut_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bodies = [b"all", b"all of it"]

        def answer() -> None:
            while bodies:
                asking, _ = server.accept()
                with asking:
                    body = b"" if asking.recv(65536).startswith(b"HEAD") else bodies.pop(0)
                    head = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\nETag: "1"\r\n\r\n'
                    asking.sendall(head + body)

        Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "a-key")
        assert s3().cat_file("bucket/rows.jsonl") == b"all of it"


def test_a_hub_data_set_at_a_commit_needs_no_hub(project: Path) -> None:
    source = SourceSpec(path="some-org/data", revision=COMMIT)
    assert fingerprint(source, project) == [{"repo": "some-org/data", "revision": COMMIT}]


def test_a_missing_source_names_its_place_in_the_declaration(project: Path, write: Any) -> None:
    write("faq.jsonl", [{"text": "a"}])
    sources = [SourceSpec(path="faq.jsonl"), SourceSpec(path="fak.jsonl")]
    with pytest.raises(UserError) as caught:
        fingerprint_sources(sources, project, declared_in="acme/support.yaml")
    assert (caught.value.file, caught.value.field) == ("acme/support.yaml", "data.sources[1].path")
    assert "faq.jsonl" in caught.value.fix


def test_a_missing_source_says_what_is_there(project: Path, write: Any) -> None:
    write("faq.jsonl", [{"text": "a"}])
    (project / "empty").mkdir()
    fixes = []
    for path in ("0", "empty/rows.jsonl"):
        with pytest.raises(UserError) as caught:
            fingerprint_sources([SourceSpec(path=path)], project, declared_in="acme/support.yaml")
        fixes.append(caught.value.fix)
    there, empty = fixes
    assert there.startswith(f"Name what is there: {project} holds ")
    assert empty == f"Put it there: {project / 'empty'} is empty"


def test_a_source_that_changed_since_is_refused(project: Path, write: Any) -> None:
    write("faq.jsonl", [{"text": "a"}])
    source = SourceSpec(path="faq.jsonl")
    frozen = fingerprint(source, project)
    check_unchanged(source, project, frozen, DeclaredAt(), None)
    write("faq.jsonl", [{"text": "b"}])
    with pytest.raises(UserError, match="changed after it was declared"):
        check_unchanged(source, project, frozen, DeclaredAt(), None)


def test_the_hash_of_an_unchanged_file_is_remembered_and_of_a_changed_one_is_not(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", tmp_path / "cache"
    file.write_bytes(b"one")
    assert cached_sha256(file, cache) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"three")
    assert cached_sha256(file, cache) == hashlib.sha256(b"three").hexdigest()
