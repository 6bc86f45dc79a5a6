"""A general corpus: documents once each, up to the size asked for, a part of them never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from ft_dagster.data.rows.corpus import build_general_corpus, corpus_digest
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import hash_folder
from ft_dagster.spec.variant import CorpusSpec


def declared(**spec: Any) -> CorpusSpec:
    return CorpusSpec.model_validate({"description": "x", "sources": ["a.jsonl"], "holdout": 0.3, **spec})


def texts(out: Path, part: str) -> list[str]:
    return parquet.read_table(out / "web" / f"{part}.parquet").column("text").to_pylist()


@pytest.fixture
def documents(write: Any) -> list[str]:
    documents = [f"Document {i} says something." for i in range(30)]
    write("a.jsonl", [{"text": text} for text in documents])
    return documents


def test_each_document_is_in_one_part(project: Path, tmp_path: Path, documents: list[str]) -> None:
    figures = build_general_corpus("web", declared(licence="CC0-1.0"), project, tmp_path)
    train, holdout = texts(tmp_path, "train"), texts(tmp_path, "holdout")
    assert sorted(train + holdout) == sorted(documents)
    assert figures["documents"] == {"train": len(train), "holdout": len(holdout)}
    row = parquet.read_table(tmp_path / "web" / "train.parquet").to_pylist()[0]
    assert list(row) == ["text", "source", "licence"]
    assert (row["source"], row["licence"]) == ("sources[0]", "CC0-1.0")


def test_a_document_never_moves_into_the_training_part(
    project: Path, tmp_path: Path, documents: list[str], write: Any
) -> None:
    build_general_corpus("web", declared(), project, tmp_path / "before")
    write("a.jsonl", [{"text": t} for t in [f"New {i}" for i in range(50)] + documents])
    build_general_corpus("web", declared(), project, tmp_path / "after")
    assert set(texts(tmp_path / "before", "holdout")) <= set(texts(tmp_path / "after", "holdout"))


def test_duplicates_and_empty_documents_are_counted(
    project: Path, tmp_path: Path, documents: list[str], write: Any
) -> None:
    write("a.jsonl", [{"text": text} for text in [*documents, documents[0], "", "  "]])
    figures = build_general_corpus("web", declared(), project, tmp_path)
    assert figures["dropped"] == {"duplicate": 1, "empty": 2}


def test_the_size_is_capped_and_every_source_gets_its_turn(
    project: Path, tmp_path: Path, documents: list[str], write: Any
) -> None:
    write("b.jsonl", [{"text": f"Other {i} says something too."} for i in range(30)])
    spec = declared(sources=["a.jsonl", "b.jsonl"], max_megabytes=0.0005)
    figures = build_general_corpus("web", spec, project, tmp_path)
    assert figures["capped"]
    assert figures["bytes"] <= 500
    assert abs(figures["sources"]["a.jsonl"] - figures["sources"]["b.jsonl"]) <= 1


def test_the_digest_is_that_of_the_two_files(project: Path, tmp_path: Path, documents: list[str]) -> None:
    figures = build_general_corpus("web", declared(), project, tmp_path)
    assert figures["digest"] == corpus_digest(tmp_path / "web")
    assert json.loads((tmp_path / "web" / "corpus.json").read_text()) | {"columns": {}} == figures


def test_the_same_documents_give_the_same_bytes(project: Path, tmp_path: Path, documents: list[str]) -> None:
    for name in ("one", "two"):
        build_general_corpus("web", declared(), project, tmp_path / name)
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")


def test_a_corpus_whose_part_would_be_empty_is_refused(project: Path, tmp_path: Path, write: Any) -> None:
    write("a.jsonl", [{"text": "one document only"}])
    with pytest.raises(UserError, match="no document fell into the"):
        build_general_corpus("web", declared(), project, tmp_path)


def test_rows_without_a_text_column_are_refused(project: Path, tmp_path: Path, write: Any) -> None:
    write("a.jsonl", [{"passage": "x"}])
    with pytest.raises(UserError) as caught:
        build_general_corpus("web", declared(), project, tmp_path)
    assert (caught.value.file, caught.value.line) == ("a.jsonl", 1)
    assert "passage" in caught.value.fix


def test_a_corpus_of_conversations_is_refused(project: Path, tmp_path: Path, documents: list[str]) -> None:
    spec = declared(sources=[{"path": "a.jsonl", "format": "chat"}])
    with pytest.raises(UserError, match="plain text only"):
        build_general_corpus("web", spec, project, tmp_path)


def test_few_held_out_documents_are_warned_about(project: Path, tmp_path: Path, documents: list[str]) -> None:
    assert "held out" in build_general_corpus("web", declared(), project, tmp_path)["warnings"][0]
