"""Text that a base writes by itself: what is kept of it, and what is refused as garbage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import load_base
from ft_dagster.evaluation.sampled import (
    SOURCE,
    SampledFigures,
    draw,
    keep,
    main,
    refuse_garbage,
    write_parts,
)
from ft_dagster.exit_codes import BAD_INPUT
from tests.evaluation.questions import files_of
from tests.taught import teach

FINE = SampledFigures(100, 90, 0.9, 0.1, 3.0, 10.8)


def run_of(folder: Path, base: Path, **more: Any) -> Path:
    folder.mkdir(parents=True)
    asked = {"documents": 80, "tokens": 48, "dtype": "float32", "output": str(folder / "output"), **more}
    content = {"base": {"folder": str(base), "files": files_of(base)}, **asked}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return teach(tiny_model_folder, tmp_path_factory.mktemp("taught") / "base")


@pytest.mark.long
def test_a_base_writes_texts_of_its_own_and_a_part_is_held_out(taught: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", taught)
    assert main(run) == 0
    payload = run / "output" / "payload"
    parts = {part: pq.read_table(payload / f"{part}.parquet").to_pylist() for part in ("train", "holdout")}
    figures = json.loads((payload / "sampled.json").read_text())
    texts = [row["text"] for rows in parts.values() for row in rows]
    assert len(texts) == len(set(texts)) == figures["texts"]
    assert figures["documents"] == 80
    assert json.loads((run / "output" / "result.json").read_text())["figures"]["seconds"] > 0
    assert figures["surprisal"] < 0.75 * figures["uniform"]
    assert {row["source"] for rows in parts.values() for row in rows} == {SOURCE}
    assert all(parts.values())
    assert any("town" in text for text in texts)  # which is what it was taught


@pytest.mark.long
def test_the_same_seed_draws_the_same_texts(taught: Path, tiny_tokenizer: Any) -> None:
    model = load_base(taught, dtype="float32")
    one, same, other = (
        draw(model, tiny_tokenizer, documents=4, tokens=16, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert one == same != other
    assert all(len(text) <= 16 for text in one)


@pytest.mark.slow
def test_a_base_that_was_taught_nothing_is_refused_with_a_figure(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", tiny_model_folder)
    assert main(run) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the base samples garbage: it chooses its tokens almost at random" in said
    assert "nats a token, where a choice at random has" in said
    assert "data.general.from" in said


@pytest.mark.long
def test_other_bytes_of_the_base_than_were_recorded_are_not_sampled(taught: Path, tmp_path: Path) -> None:
    other = shutil.copytree(taught, tmp_path / "base")
    run = run_of(tmp_path / "run", other)
    config = other / "config.json"
    config.write_text(config.read_text() + " ")
    assert main(run) == BAD_INPUT


def test_texts_without_words_and_repetitions_are_left_out(tiny_tokenizer: Any) -> None:
    said = [
        tiny_tokenizer(text)["input_ids"] for text in ("The old town.", "...", "The old town.", "A ship.")
    ]
    texts, figures = keep(said, tiny_tokenizer, 2.0, 512)
    assert texts == ["The old town.", "A ship."]
    assert (figures.documents, figures.texts, figures.distinct) == (4, 2, 0.5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"distinct": 0.2}, "20% of its texts are distinct and have words"),
        ({"repeated": 0.7}, "70% of its 4-grams stood in the same text before"),
        ({"surprisal": 10.0}, "10.00 nats a token, where a choice at random has 10.80"),
        ({"surprisal": float("nan")}, "almost at random"),
    ],
)
def test_garbage_is_refused_with_the_figure_that_shows_it(change: dict[str, float], why: str) -> None:
    refuse_garbage(FINE, Path("base"))
    with pytest.raises(UserError, match=why) as caught:
        refuse_garbage(fine_with(change), Path("base"))
    assert "Name a corpus" in caught.value.fix


def fine_with(change: dict[str, float]) -> SampledFigures:
    return SampledFigures(**{**vars(FINE), **change})


def test_which_part_takes_a_text_depends_on_no_other_text(tmp_path: Path) -> None:
    texts = [f"Text {n} of the town." for n in range(200)]
    write_parts(texts, tmp_path / "one", 200)
    write_parts(texts[::-1], tmp_path / "other", 200)
    one, other = (
        {part: set(pq.read_table(tmp_path / name / f"{part}.parquet").column("text").to_pylist())
         for part in ("train", "holdout")}
        for name in ("one", "other")
    )  # fmt: skip
    assert one == other
    assert 25 < len(one["holdout"]) < 80


def test_of_many_texts_no_more_are_held_out_than_a_gate_needs(tmp_path: Path) -> None:
    write_parts([f"Text {n} of the town." for n in range(4000)], tmp_path, 4000)
    assert 90 < pq.read_metadata(tmp_path / "holdout.parquet").num_rows < 170
