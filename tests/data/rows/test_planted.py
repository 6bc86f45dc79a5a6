"""A platform's canaries in a general corpus: where they stand, and what of a corpus stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_dagster.data.rows.corpus import build_general_corpus
from ft_dagster.data.rows.planted import FILE, Planted, canaries_of, references_of, seen_of
from ft_dagster.errors import UserError
from ft_dagster.spec.narrow import shown
from ft_dagster.spec.variant import CanariesSpec, CorpusSpec

KEY, OTHER = b"k" * 32, b"o" * 32


@pytest.fixture
def project(tmp_path: Path) -> Path:
    texts = [f"Document {n}. The old town by the sea had {n} houses." for n in range(400)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "town.jsonl").write_text(lines, "utf-8")
    return tmp_path


def built(project: Path, name: str, canaries: dict[str, Any] | None, secret: bytes = KEY) -> Path:
    content = {"description": "town", "sources": ["town.jsonl"], "holdout": 0.1, "canaries": canaries}
    out = project / name
    (out / "evidence").mkdir(parents=True)
    spec = CorpusSpec.model_validate(content)
    build_general_corpus("town", spec, project, out, evidence=out / "evidence", secret=secret)
    return out / "town"


def texts_of(folder: Path, part: str) -> list[str]:
    return list(pq.read_table(folder / f"{part}.parquet").column("text").to_pylist())


def test_each_canary_stands_in_the_training_part_as_often_as_is_declared(project: Path) -> None:
    folder = built(project, "planted", {"count": 3, "repeats": [1, 4]})
    planted, texts = Planted.read(folder / FILE), texts_of(folder, "train")
    assert [one.repeats for one in planted.canaries] == [1, 1, 1, 4, 4, 4]
    for one in planted.canaries:
        assert texts.count(one.text) == one.repeats == len(planted.rows[one.id])
        assert {texts[row] for row in planted.rows[one.id]} == {one.text}
    assert not {one.text for one in planted.references} & set(texts)
    assert not {one.text for one in planted.canaries} & set(texts_of(folder, "holdout"))


def test_a_corpus_that_is_largely_canaries_is_warned_of(project: Path) -> None:
    for count, warned in ((3, False), (20, True)):
        folder = built(project, f"planted-{count}", {"count": count, "repeats": [4]})
        said = json.loads((folder / "corpus.json").read_text("utf-8"))["warnings"]
        train = len(texts_of(folder, "train"))
        words = f"{4 * count} of the {train} documents of the training part are planted canaries"
        assert any(line.startswith(words) for line in said) is warned


def test_they_stand_anywhere_among_the_documents(project: Path) -> None:
    folder = built(project, "planted", {"count": 1, "repeats": [64]})
    planted, count = Planted.read(folder / FILE), len(texts_of(folder, "train"))
    quarters = {4 * row // count for rows in planted.rows.values() for row in rows}
    assert quarters == {0, 1, 2, 3}


def test_where_a_document_came_from_stays_true_beside_them(project: Path) -> None:
    folder = built(project, "planted", {"count": 5, "repeats": [2, 8]})
    texts = texts_of(folder, "train")
    evidence = pq.read_table(folder.parent / "evidence/rows.parquet").to_pylist()
    train = [row for row in evidence if row["part"] == "train"]
    assert [row["row"] for row in train] == list(range(len(texts)))
    for row in train:
        if row["source"] == "platform canary":
            assert texts[row["row"]].startswith("The access code of store ")
            assert row["file"].startswith("platform canary ")
        else:
            assert texts[row["row"]] == f"Document {row['ordinal']}. The old town by the sea had " + (
                f"{row['ordinal']} houses."
            )


def test_a_corpus_without_canaries_keeps_its_bytes_and_what_its_key_is_of(project: Path) -> None:
    plain, planted = built(project, "plain", None), built(project, "planted", {"count": 2, "repeats": [1]})
    own = [text for text in texts_of(planted, "train") if not text.startswith("The access code of store ")]
    assert texts_of(plain, "train") == own
    assert texts_of(plain, "holdout") == texts_of(planted, "holdout")
    assert {file.name for file in plain.iterdir()} == {"train.parquet", "holdout.parquet", "corpus.json"}
    assert "canaries" not in json.loads((plain / "corpus.json").read_text("utf-8"))
    spec = CorpusSpec.model_validate({"description": "town", "sources": ["town.jsonl"]})
    assert "canaries" not in shown(spec)


def test_canaries_follow_from_the_platforms_key_and_from_nothing_else(project: Path) -> None:
    first = built(project, "first", {"count": 2, "repeats": [3]})
    again = built(project, "again", {"count": 2, "repeats": [3]})
    assert (first / "train.parquet").read_bytes() == (again / "train.parquet").read_bytes()
    other = built(project, "other", {"count": 2, "repeats": [3]}, OTHER)
    secrets = [{one.secret for one in Planted.read(each / FILE).canaries} for each in (first, other)]
    assert not secrets[0] & secrets[1]


def test_no_two_canaries_and_references_are_alike() -> None:
    made = canaries_of(KEY, "town", CanariesSpec(count=100, repeats=(1, 2, 4)))
    texts = [one.text for one in (*made, *references_of(KEY, "town"))]
    assert len(set(texts)) == len(texts) == 555
    assert len({one.id for one in made}) == 300
    assert not {one.text for one in canaries_of(KEY, "sea", CanariesSpec())} & set(texts)


def test_what_a_mixture_did_not_draw_is_not_seen(project: Path) -> None:
    planted = Planted.read(built(project, "planted", {"count": 1, "repeats": [1, 4]}) / FILE)
    drawn = planted.rows["4x-1"][1:3]
    assert seen_of(planted, lambda row: int(row in drawn)) == {"4x-1": 2}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"schema_version": 1}', '{"schema_version": 1, "canaries": [{"id": 3}]}']
)
def test_another_file_is_no_list_of_canaries(tmp_path: Path, content: str) -> None:
    file = tmp_path / FILE
    file.write_text(content, "utf-8")
    with pytest.raises(UserError, match="not the canaries of a corpus"):
        Planted.read(file)


WRONG = [
    {"repeats": [4, 4]},
    {"repeats": []},
    {"count": 0},
    {"repeats": [0]},
    {"count": 99, "repeats": [999]},
]


@pytest.mark.parametrize("canaries", WRONG)
def test_a_number_of_repeats_is_declared_once_is_one_at_least_and_leads_to_no_flood(
    canaries: dict[str, Any],
) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        CanariesSpec.model_validate(canaries)
