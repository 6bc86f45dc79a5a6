"""Continual pre-training: documents become chunks, whole and in order, and only documents are taken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from ft_dagster.data.mixture.declared_warnings import declared_warnings
from ft_dagster.data.mixture.mixture import MixtureParts, build_mixture
from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rendering.general import document_chunks
from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import paths_of
from ft_dagster.data.rows.decontaminate import EvaluationItem
from ft_dagster.errors import UserError
from tests.mixtures import iter_examples

pytestmark = pytest.mark.slow

SENTENCE = "The whale rose slowly beside the ship and the men stood silent. "
LONG = [{"text": f"Report {i} of the town. " + SENTENCE * (1 + i % 12)} for i in range(40)]


@pytest.fixture
def mix(project: Path, tmp_path: Path, tiny_model_folder: Path, variant: Any) -> Callable[..., Any]:
    """Build data set and mixture of `faq.jsonl` for domain_knowledge, files in rows/ and mixture/."""

    def build(corpus: Path | None = None, max_length: int = 64, **data: Any) -> MixtureFigures:
        spec = variant({"objective": "domain_knowledge"}, **data)
        rows, out = tmp_path / "rows", tmp_path / "mixture"
        rows.mkdir()
        out.mkdir()
        build_task_dataset(spec, project, [], rows)
        parts = MixtureParts(rows, tiny_model_folder, corpus, paths=paths_of(spec))
        built = build_mixture(spec, parts, max_length, out, declared_in="acme.yaml")
        return built.figures

    return build


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_documents_chunks_are_all_of_its_tokens(
    tmp_path: Path, write: Any, mix: Any, tiny_tokenizer: Any, split: str
) -> None:
    write("faq.jsonl", LONG)
    mix()
    documents = parquet.read_table(tmp_path / "rows" / f"{split}.parquet").to_pylist()
    chunks = groupby(iter_examples(tmp_path / "mixture", split), key=lambda example: example.row)
    for number, (document, (row, parts)) in enumerate(zip(documents, chunks, strict=True)):
        ids = [part.input_ids.tolist() for part in parts]
        assert row == number
        assert list(chain(*ids)) == [
            *tiny_tokenizer(document["text"])["input_ids"],
            tiny_tokenizer.eos_token_id,
        ]
        assert all(len(part) == 64 for part in ids[:-1])


def test_every_token_of_a_chunk_but_its_first_is_trained(tmp_path: Path, write: Any, mix: Any) -> None:
    write("faq.jsonl", LONG)
    mix()
    for example in iter_examples(tmp_path / "mixture", "train"):
        assert example.trained_spans.tolist() == [[1, len(example.input_ids)]]


def test_documents_and_chunks_are_counted_and_none_is_cut(tmp_path: Path, write: Any, mix: Any) -> None:
    write("faq.jsonl", LONG)
    figures = mix(on_too_long="refuse")
    assert (figures.dropped, figures.warnings) == ({}, ())
    for split in ("train", "validation"):
        counted = figures.splits[split]
        documents = parquet.read_table(tmp_path / "rows" / f"{split}.parquet").num_rows
        assert counted.documents == counted.by_source["data.sources[0]"].documents == documents
        assert counted.examples > documents
        assert counted.by_source["data.sources[0]"].truncated == 0


def test_general_documents_are_counted_too(write: Any, mix: Any, corpus: Any) -> None:
    write("faq.jsonl", LONG)
    train = mix(corpus(40, words=240), general={"corpus": "general", "share": 0.3}).train
    general = train.by_source["general:general"]
    assert 0 < general.documents < general.examples
    assert train.documents == sum(source.documents for source in train.by_source.values())


@pytest.mark.parametrize("length", range(16, 40))
def test_the_end_of_a_document_is_never_lost(tiny_tokenizer: Any, length: int) -> None:
    text = "whale " * 40
    ids = [*tiny_tokenizer(text)["input_ids"], tiny_tokenizer.eos_token_id]
    chunks = list(document_chunks(text, 0, tiny_tokenizer, length))
    assert list(chain(*(chunk.input_ids for chunk in chunks))) == ids
    assert min(chunk.trained_tokens for chunk in chunks) >= 1
    assert "".join(chunk.text for chunk in chunks) == text


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            [{"prompt": f"What is {i}?", "completion": "A thing."} for i in range(20)],
            "prompts with completions",
        ),
        (
            [
                {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes."}]}
                for i in range(20)
            ],
            "conversations",
        ),
    ],
)
def test_rows_with_answers_are_refused(write: Any, mix: Any, rows: Any, named: str) -> None:
    write("docs.jsonl", LONG)
    write("faq.jsonl", rows)
    with pytest.raises(UserError) as caught:
        mix(sources=["docs.jsonl", "faq.jsonl"])
    assert f"the source faq.jsonl has {named}" in caught.value.problem
    assert (caught.value.file, caught.value.field) == ("acme.yaml", "objective")
    assert "objective: instruction" in caught.value.fix


def test_a_tokenizer_that_cannot_end_a_document_is_refused(
    tmp_path: Path, write: Any, mix: Any, variant: Any, tiny_model_folder: Path
) -> None:
    write("faq.jsonl", LONG)
    mix()
    base = tmp_path / "base"
    shutil.copytree(tiny_model_folder, base)
    tokenizer = load_tokenizer(base)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(base)
    spec = variant({"objective": "domain_knowledge"})
    with pytest.raises(UserError, match="no end-of-sequence token"):
        build_mixture(spec, MixtureParts(tmp_path / "rows", base), 64, tmp_path)


def test_a_mixture_without_questions_of_the_domain_is_warned_about(variant: Any) -> None:
    spec = variant({"objective": "domain_knowledge"})
    [warning] = declared_warnings(spec, 0.08)
    assert "evaluation.task" in warning
    asked = variant({"objective": "domain_knowledge", "evaluation": {"task": ["tasks/quiz.yaml"]}})
    assert declared_warnings(asked, 0.08) == []
    assert declared_warnings(variant(), 0.08) == []


def test_documents_are_split_by_their_text_and_decontaminated(
    project: Path, tmp_path: Path, write: Any, variant: Any
) -> None:
    asked = "Which of the old houses beside the harbour was built first by the men of the north?"
    spoiled = {"text": f"{SENTENCE * 3} {asked} The third one."}
    write("faq.jsonl", [*LONG, spoiled, {"text": LONG[0]["text"]}])
    splits = []
    for name, sources in (("one", ["faq.jsonl"]), ("two", ["more.jsonl", "faq.jsonl"])):
        write("more.jsonl", [{"text": f"Another text, number {i}."} for i in range(10)])
        out = tmp_path / name
        out.mkdir()
        figures = build_task_dataset(variant(sources=sources), project, [EvaluationItem((asked,))], out)
        assert figures["dropped"] == {"duplicate": 1, "overlaps an evaluation set": 1}
        splits.append(
            {
                row["text"]: split
                for split in ("train", "validation", "test")
                for row in parquet.read_table(out / f"{split}.parquet").to_pylist()
                if row["text"].startswith("Report")
            }
        )
    assert splits[0] == splits[1]
    assert len(splits[0]) == len(LONG)
    assert set(splits[0].values()) == {"train", "validation", "test"}
