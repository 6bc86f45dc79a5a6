"""Globs: what each names, and that none takes longer than its length and the names' allow."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.sources.locations import DeclaredAt, data_files
from ft_dagster.errors import UserError
from ft_dagster.spec.data import SourceSpec
from tests.s3_server import S3Server

NAMES = [
    "a.jsonl", "ab.jsonl", "ac.jsonl", "b.csv", "[x].jsonl", "x-1.jsonl", "-.jsonl", "two words.jsonl",
    "one/a.jsonl", "one/b.jsonl", "one/two/a.jsonl", "one/two/three/a.jsonl", "other/a.jsonl",
    "other/readme.md",
]  # fmt: skip
ALL = sorted(name for name in NAMES if not name.endswith(".md"))
TABLE = {
    "*.jsonl": ["-.jsonl", "[x].jsonl", "a.jsonl", "ab.jsonl", "ac.jsonl", "two words.jsonl", "x-1.jsonl"],
    "a*.jsonl": ["a.jsonl", "ab.jsonl", "ac.jsonl"],
    "a?.jsonl": ["ab.jsonl", "ac.jsonl"],
    "a[b-z].jsonl": ["ab.jsonl", "ac.jsonl"],
    "a[!b].jsonl": ["ac.jsonl"],
    "a[z-b].jsonl": [],
    "[[]x].jsonl": ["[x].jsonl"],
    "[-x]*": ["-.jsonl", "x-1.jsonl"],
    "*": ALL,  # a folder that a glob names stands for all below it
    "o*": [name for name in ALL if name.startswith("o")],
    "*/a.jsonl": ["one/a.jsonl", "other/a.jsonl"],
    "*/*/a.jsonl": ["one/two/a.jsonl"],
    "o*/*": [name for name in ALL if name.startswith("o")],
    "**": ALL,
    "**/a.jsonl": [name for name in ALL if name.split("/")[-1] == "a.jsonl"],
    "**/two/**/a.jsonl": ["one/two/a.jsonl", "one/two/three/a.jsonl"],
    "**/**/b.jsonl": ["one/b.jsonl"],
    "one/**": [name for name in ALL if name.startswith("one/")],
    "one/**/two/*": ["one/two/a.jsonl", "one/two/three/a.jsonl"],
    "*/**/three/*.jsonl": ["one/two/three/a.jsonl"],
    "[!a]*/a.jsonl": ["one/a.jsonl", "other/a.jsonl"],
    "one[!x]two/a.jsonl": [],  # a sign of a part is none between parts
    "a.jsonl/**": [],
}  # fmt: skip
HOSTILE = [("*a" * 6 + "*b.jsonl", 60), ("*a" * 100 + "*b.jsonl", 240), ("*[ab]?" * 60 + "*b", 240)]


def named(pattern: str, project: Path, root: str) -> list[str]:
    try:
        found = data_files(SourceSpec(path=f"{root}/{pattern}"), project, DeclaredAt())
    except UserError as error:
        if error.problem != "the glob matches nothing":
            raise
        return []
    return sorted(file.name.removeprefix(f"{root}/") for file in found)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in NAMES:
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return tmp_path


@pytest.mark.parametrize("pattern", TABLE)
def test_a_glob_names_these_files(files: Path, pattern: str) -> None:
    assert named(pattern, files, "data") == sorted(TABLE[pattern])


@pytest.mark.slow
def test_a_glob_names_the_same_on_s3(files: Path, s3_server: S3Server, put: Any) -> None:
    for name in NAMES:
        put(f"globs/{name}", b"x")
    root = f"s3://{s3_server.bucket}/globs"
    for pattern in ("a[b-z].jsonl", "o*/*", "**/a.jsonl", "one/**", "**/two/**/a.jsonl", "a.jsonl/**"):
        assert named(pattern, files, root) == sorted(TABLE[pattern])


def test_no_glob_takes_longer_than_its_length_allows(files: Path) -> None:
    """Of the first an expression that tries all takes seconds, of the others longer than anybody waits."""
    for pattern, letters in HOSTILE:
        (files / "data" / f"{'a' * letters}.jsonl").write_text("x")
        assert_quick(pattern, files, "data")


@pytest.mark.slow
def test_nor_does_one_on_s3(files: Path, put: Any) -> None:
    for pattern, letters in HOSTILE:
        put(f"hostile/{'a' * letters}.jsonl", b"x")
        assert_quick(pattern, files, put("hostile/x.jsonl", b"x").removesuffix("/x.jsonl"))


def test_parts_of_any_depth_are_shared_out_in_time(files: Path) -> None:
    (files / "data" / ("d/" * 60)).mkdir(parents=True)
    assert_quick("**/d/" * 5 + "x.jsonl", files, "data")
    assert_quick("**/d/" * 50 + "x.jsonl", files, "data")


def assert_quick(pattern: str, files: Path, root: str) -> None:
    before = time.process_time()
    assert named(pattern, files, root) == []
    assert time.process_time() - before < 1


@pytest.mark.parametrize("pattern", ["a**.jsonl", "***", "**a/b.jsonl", "*" + "/a" * 3000])
def test_what_is_no_glob_is_refused_by_field(files: Path, pattern: str) -> None:
    asked = DeclaredAt("acme.yaml", "data.sources[0]")
    with pytest.raises(UserError, match=r"acme.yaml: data.sources\[0\].path: (in a glob|a glob of more)"):
        data_files(SourceSpec(path=f"data/{pattern}"), files, asked)


@pytest.fixture
def deep(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with 1,000 folders in one another, which are gone again before pytest would remove them."""
    monkeypatch.chdir(files / "data")
    for _ in range(1000):
        os.mkdir("d")
        os.chdir("d")
    yield files
    for _ in range(1000):
        os.chdir("..")
        os.rmdir("d")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["", "/**/x.jsonl"])
def test_folders_too_deep_to_be_gone_through_are_refused(deep: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="nested too deep"):
        data_files(SourceSpec(path=f"data{pattern}"), deep, DeclaredAt())
