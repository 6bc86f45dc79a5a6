"""Projects and files for the data room's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.spec.data import SourceSpec
from ft_dagster.spec.variant import CorpusSpec, VariantSpec


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def write(project: Path) -> Callable[..., Path]:
    """Write rows as JSONL, or text as it is, to a path of the project."""

    def to_file(name: str, content: Iterable[Any] | str) -> Path:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(text, "utf-8")
        return path

    return to_file


@pytest.fixture
def variant() -> Callable[..., VariantSpec]:
    """A declaration over `faq.jsonl`; keywords are those of `data`, `rest` goes beside it."""

    def declare(rest: dict[str, Any] | None = None, **data: Any) -> VariantSpec:
        content = {"description": "x", "owners": ["me"], "base_model": "base", **(rest or {})}
        splits = {"validation": 0.2, "test": 0.2, "minimum": 1}
        return VariantSpec.model_validate(
            {**content, "data": {"sources": ["faq.jsonl"], "splits": splits, **data}}
        )

    return declare


@pytest.fixture
def questions() -> list[dict[str, str]]:
    """Forty different rows."""
    return [{"prompt": f"What is item {i}?", "completion": f"Item {i} is a thing."} for i in range(40)]


@pytest.fixture
def put(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], str]:
    """Put an object on a real S3 server, which the AWS_* variables name for the test; returns its address."""
    import fsspec

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, **s3_server.options)

    def to_server(name: str, content: bytes) -> str:
        fs.pipe_file(f"{s3_server.bucket}/{name}", content)
        return f"s3://{s3_server.bucket}/{name}"

    return to_server


@pytest.fixture
def corpus(project: Path, write: Callable[..., Path]) -> Callable[..., Path]:
    """Build a corpus `general` of so many documents; returns its payload folder."""
    from ft_dagster.data.rows.corpus import build_general_corpus

    def build(documents: int, words: int = 60, **spec: Any) -> Path:
        text = "The whale rose slowly beside the ship and the men stood silent. "
        rows = [{"text": f"Document {i}. " + text * (words // 12)} for i in range(documents)]
        write("general.jsonl", rows)
        declared = CorpusSpec.model_validate(
            {"description": "x", "sources": ["general.jsonl"], "holdout": 0.2, **spec}
        )
        out = project / "corpus-payload"
        build_general_corpus("general", declared, project, out)
        return out

    return build


@pytest.fixture
def rows(project: Path, write: Any) -> Any:
    def of(*raw: Any, **spec: Any) -> list[Row]:
        write("rows.jsonl", raw)
        return list(
            read_rows(
                SourceSpec(path="rows.jsonl", **spec),
                project,
                DeclaredAt("acme/support.yaml", "data.sources[0]"),
            )
        )

    return of


@pytest.fixture
def refused(rows: Any) -> Any:
    def of(*raw: Any, **spec: Any) -> UserError:
        with pytest.raises(UserError) as caught:
            rows(*raw, **spec)
        return caught.value

    return of
