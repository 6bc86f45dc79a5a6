"""The mixture: masked, mixed at the stated share, counted, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.mixture.declared_warnings import declared_warnings
from ft_dagster.data.mixture.mixture import BuiltMixture, MixtureParts, build_mixture
from ft_dagster.data.mixture.mixture_figures import GeneralShare, MixtureFigures
from ft_dagster.data.mixture.mixture_io import lengths, read_mixture, shard_files
from ft_dagster.data.mixture.shards import SplitWriter
from ft_dagster.data.rows.corpus import build_general_corpus
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import paths_of
from ft_dagster.data.rows.decontaminate import ITEMS_SCHEMA
from ft_dagster.errors import UserError
from ft_dagster.objectives.rendered import Rendered
from ft_dagster.provenance.digest import hash_folder, sha256_file
from ft_dagster.spec.variant import CorpusSpec
from tests.mixtures import iter_examples

pytestmark = pytest.mark.slow

GENERAL = {"corpus": "general", "share": 0.08}


@pytest.fixture
def built(project: Path, tmp_path: Path, tiny_model_folder: Path, variant: Any) -> Callable[..., Any]:
    """Build data set and mixture of `faq.jsonl`; the files are in `tmp_path / name`."""

    def build(
        corpus: Path | None = None,
        max_length: int = 256,
        name: str = "mixture",
        rest: dict[str, Any] | None = None,
        evaluation_texts: Path | None = None,
        **data: Any,
    ) -> BuiltMixture:
        """`exchange`: see `MixtureParts`."""
        exchange = data.pop("exchange", False)
        spec = variant(rest, **data)
        (tmp_path / f"{name}-rows").mkdir()
        build_task_dataset(spec, project, [], tmp_path / f"{name}-rows")
        out = tmp_path / name
        out.mkdir()
        rows, paths = tmp_path / f"{name}-rows", paths_of(spec)
        parts = MixtureParts(rows, tiny_model_folder, corpus, evaluation_texts, paths, exchange)
        return build_mixture(spec, parts, max_length, out)

    return build


@pytest.fixture
def mix(built: Callable[..., BuiltMixture]) -> Callable[..., MixtureFigures]:
    """As `built`; returns the figures."""
    return lambda *args, **kwargs: built(*args, **kwargs).figures


@pytest.fixture
def faq(write: Any, questions: Any) -> None:
    """Forty short rows in faq.jsonl."""
    write("faq.jsonl", questions)


def test_mixture_json_counts_what_the_shards_hold(tmp_path: Path, faq: None, mix: Any, corpus: Any) -> None:
    figures = mix(corpus(60), general=GENERAL)
    content = read_mixture(tmp_path / "mixture")
    assert json.loads((tmp_path / "mixture" / "mixture.json").read_text())["schema_version"] == 1
    assert content == replace(figures, warnings=())
    assert (content.max_length, content.seed) == (256, 0)
    for split, counted in content.splits.items():
        examples = list(iter_examples(tmp_path / "mixture", split))
        trained = [int((e.trained_spans[:, 1] - e.trained_spans[:, 0]).sum()) for e in examples]
        assert counted.examples == len(examples) == sum(s.examples for s in counted.shards)
        assert counted.tokens == sum(len(e.input_ids) for e in examples)
        assert counted.trained_tokens == sum(trained)
        for shard in counted.shards:
            assert sha256_file(tmp_path / "mixture" / shard.file) == shard.sha256
        for source, part in counted.by_source.items():
            assert part.trained_tokens == sum(
                n for n, e in zip(trained, examples, strict=True) if e.source == source
            )
    assert content.longest == max(
        len(e.input_ids) for s in ("train", "validation") for e in iter_examples(tmp_path / "mixture", s)
    )


def test_the_shards_have_the_agreed_columns(tmp_path: Path, faq: None, mix: Any) -> None:
    mix()
    schema = parquet.read_schema(tmp_path / "mixture" / "train" / "shard-00000.parquet")
    assert schema.names == ["input_ids", "trained_spans", "source", "row"]
    assert [str(schema.field(i).type) for i in range(2)] == ["list<element: int32>"] * 2


def test_every_row_is_there_with_its_number(tmp_path: Path, faq: None, mix: Any, tiny_tokenizer: Any) -> None:
    mix()
    for split in ("train", "validation"):
        rows = parquet.read_table(tmp_path / "mixture-rows" / f"{split}.parquet").to_pylist()
        examples = list(iter_examples(tmp_path / "mixture", split))
        assert [example.row for example in examples] == list(range(len(rows)))
        for example in examples:
            assert rows[example.row]["completion"] in tiny_tokenizer.decode(example.input_ids)


@pytest.mark.parametrize("share", [0.03, 0.08, 0.25, 0.5])
def test_the_share_of_trained_tokens_is_right_to_one_token(
    faq: None, mix: Any, corpus: Any, share: float
) -> None:
    declared = {"corpus": "general", "share": share, "share_of": "trained"}
    figures = mix(corpus(200, words=120), general=declared)
    train = figures.splits["train"]
    general = train.by_source["general:general"].trained_tokens
    assert abs(general - share * train.trained_tokens) <= 1
    assert figures.general_share == GeneralShare(share, general / train.trained_tokens)


@pytest.mark.parametrize("share", [0.03, 0.08, 0.25, 0.5])
def test_the_share_of_processed_tokens_is_right_to_one_token(
    tmp_path: Path, faq: None, mix: Any, corpus: Any, share: float
) -> None:
    payload = corpus(200, words=120)
    figures = mix(payload, general={"corpus": "general", "share": share})
    train = figures.splits["train"]
    general = train.by_source["general:general"].tokens
    assert abs(general - share * train.tokens) <= 1
    assert figures.general_share == GeneralShare(share, general / train.tokens)
    _, trained = lengths(tmp_path / "mixture", "train")
    assert trained.min() >= 1


def test_short_answers_get_more_general_text_by_the_tokens_that_are_processed(
    faq: None, mix: Any, corpus: Any
) -> None:
    """Of rows whose prompts have most of the tokens."""
    payload = corpus(200, words=120)
    counted = {
        share_of: mix(payload, name=share_of, general={**GENERAL, "share_of": share_of})
        .train.by_source["general:general"]
        .trained_tokens
        for share_of in ("trained", "processed")
    }
    assert counted["processed"] > 1.5 * counted["trained"]


def test_general_text_is_spread_over_the_train_split_alone(
    tmp_path: Path, write: Any, questions: Any, mix: Any, corpus: Any
) -> None:
    write("faq.jsonl", [q | {"completion": q["completion"] * 4} for q in questions])
    mix(corpus(200, words=24), general={"corpus": "general", "share": 0.5})
    places = [e.source.startswith("general:") for e in iter_examples(tmp_path / "mixture", "train")]
    halves = np.array_split(np.array(places), 2)
    assert all(0.2 < half.mean() < 0.9 for half in halves)
    assert not any(e.source.startswith("general:") for e in iter_examples(tmp_path / "mixture", "validation"))


def test_no_general_text_is_repeated_or_from_the_holdout(
    tmp_path: Path, faq: None, mix: Any, corpus: Any
) -> None:
    payload = corpus(100)
    mix(payload, general={"corpus": "general", "share": 0.5})
    used = [e for e in iter_examples(tmp_path / "mixture", "train") if e.source.startswith("general:")]
    texts = [tuple(e.input_ids) for e in used]
    files = {p: parquet.read_table(payload / "general" / f"{p}.parquet") for p in ("train", "holdout")}
    train, held_out = (files[part].column("text").to_pylist() for part in ("train", "holdout"))
    assert len(texts) == len(set(texts)) > 1
    assert not set(held_out) & {train[e.row] for e in used}


def test_long_documents_are_cut_into_chunks(tmp_path: Path, faq: None, mix: Any, corpus: Any) -> None:
    figures = mix(corpus(20, words=1200), max_length=64, general={"corpus": "general", "share": 0.5})
    tokens, trained = lengths(tmp_path / "mixture", "train")
    assert tokens.max() == 64
    assert figures.longest == 64
    assert len(tokens) == len(trained) == figures.splits["train"].examples


def test_a_corpus_too_small_says_how_much_there_is_and_how_much_is_needed(
    write: Any, questions: Any, mix: Any, corpus: Any
) -> None:
    payload = corpus(12, words=12)
    write("faq.jsonl", [q | {"completion": q["completion"] * 9} for q in questions])
    with pytest.raises(UserError) as caught:
        mix(payload, general={"corpus": "general", "share": 0.5})
    assert caught.value.field == "data.general.share"
    there, needed = (int(word) for word in caught.value.problem.split() if word.isdigit())
    assert 0 < there < needed
    assert "Lower the share to 0." in caught.value.fix


def test_the_share_that_the_error_proposes_fits(write: Any, questions: Any, mix: Any, corpus: Any) -> None:
    payload = corpus(12, words=12)
    write("faq.jsonl", [q | {"completion": q["completion"] * 9} for q in questions])
    with pytest.raises(UserError) as caught:
        mix(payload, general={"corpus": "general", "share": 0.5})
    share = float(caught.value.fix.split()[4].rstrip(","))
    mix(payload, name="again", general={"corpus": "general", "share": share})


def test_the_holdout_is_small_and_its_texts_are_its_tokens(
    tmp_path: Path, faq: None, mix: Any, corpus: Any, tiny_tokenizer: Any
) -> None:
    mix(corpus(1200, words=12), general=GENERAL)
    examples = list(iter_examples(tmp_path / "mixture", "general_holdout"))
    texts = (
        parquet.read_table(tmp_path / "mixture" / "general_holdout" / "texts.parquet")
        .column("text")
        .to_pylist()
    )
    assert (len(examples), len(texts)) == (32, 200)
    for example, text in zip(examples, texts[:32], strict=True):
        assert tiny_tokenizer.decode(example.input_ids, skip_special_tokens=True) == text
        assert example.trained_spans.tolist() == [[1, len(example.input_ids)]]


def test_the_holdout_of_few_long_documents_takes_several_chunks_of_each(
    tmp_path: Path, faq: None, mix: Any, corpus: Any
) -> None:
    mix(corpus(20, words=2400), max_length=512, general=GENERAL)
    tokens, _ = lengths(tmp_path / "mixture", "general_holdout")
    assert len(tokens) > 5
    assert tokens.max() <= 256


def test_without_general_text_there_is_none(tmp_path: Path, faq: None, mix: Any) -> None:
    figures = mix()
    assert figures.general_share == GeneralShare(0.0, 0.0)
    assert figures.splits["general_holdout"].shards == ()
    assert list(iter_examples(tmp_path / "mixture", "general_holdout")) == []


def test_a_share_of_zero_still_measures_forgetting(tmp_path: Path, faq: None, mix: Any, corpus: Any) -> None:
    figures = mix(corpus(60), general={"corpus": "general", "share": 0.0})
    assert figures.general_share.realized == 0.0
    assert figures.splits["general_holdout"].examples > 0


LONG = [{"prompt": f"Long question {i}?", "completion": "word " * 300} for i in range(20)]


def test_a_completion_longer_than_max_length_is_cut_and_counted(write: Any, questions: Any, mix: Any) -> None:
    write("faq.jsonl", [*questions, *LONG])
    figures = mix(max_length=100)
    cut = sum(figures.splits[s].by_source["data.sources[0]"].truncated for s in ("train", "validation"))
    assert 0 < cut <= 20
    assert figures.longest == 100
    assert f"{cut} were cut to 100 tokens" in figures.warnings[-1]


def test_rows_too_long_are_dropped_and_counted_where_asked(write: Any, questions: Any, mix: Any) -> None:
    write("faq.jsonl", [*questions, *LONG])
    figures = mix(max_length=100, on_too_long="drop")
    assert 0 < figures.dropped["too long"] <= 20
    assert figures.longest < 100


def test_a_row_too_long_is_refused_where_asked(write: Any, questions: Any, mix: Any) -> None:
    write("faq.jsonl", [*questions, *LONG])
    with pytest.raises(UserError) as caught:
        mix(max_length=100, on_too_long="refuse")
    assert (caught.value.file, caught.value.field) == ("faq.jsonl", "data.on_too_long")
    assert "record" in caught.value.problem


def test_a_row_whose_labels_are_all_cut_off_is_dropped_and_counted(
    write: Any, questions: Any, mix: Any
) -> None:
    masked = [{"prompt": f"{i} " + "word " * 300, "completion": "x"} for i in range(20)]
    write("faq.jsonl", [*questions, *masked])
    figures = mix(max_length=100)
    assert 0 < figures.dropped["no trained tokens"] <= 20


def test_a_source_without_any_trained_token_is_refused(faq: None, write: Any, mix: Any) -> None:
    write("masked.jsonl", [{"prompt": f"{i} " + "word " * 300, "completion": "x"} for i in range(20)])
    with pytest.raises(UserError) as caught:
        mix(max_length=100, sources=["faq.jsonl", "masked.jsonl"])
    assert caught.value.value == "masked.jsonl"
    assert "loss mask is empty" in caught.value.problem


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, faq: None, mix: Any, corpus: Any) -> None:
    payload = corpus(60)
    for name in ("one", "two"):
        mix(payload, name=name, general=GENERAL)
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")


def test_another_seed_takes_other_general_text(tmp_path: Path, faq: None, mix: Any, corpus: Any) -> None:
    payload = corpus(200)
    for seed in (0, 1):
        mix(payload, name=str(seed), rest={"training": {"seed": seed}}, general=GENERAL)
    taken = [
        {e.row for e in iter_examples(tmp_path / name, "train") if e.source.startswith("general:")}
        for name in ("0", "1")
    ]
    assert taken[0] != taken[1]


def test_general_text_that_overlaps_the_evaluation_is_left_out(
    tmp_path: Path, faq: None, built: Any, project: Path, write: Any
) -> None:
    asked = "Which old house beside the harbour was built first by the men of the north in winter?"
    sentence = "The whale rose slowly beside the ship and the men stood silent. "
    texts = [f"Document {i}. {sentence * 4}{asked if i % 3 else sentence}" for i in range(120)]
    write("general.jsonl", [{"text": text} for text in texts])
    spec = CorpusSpec.model_validate({"description": "x", "sources": ["general.jsonl"], "holdout": 0.2})
    build_general_corpus("general", spec, project, project / "payload")
    items = [{"task": "quiz", "questions": [asked.lower()], "answers": ["the third"]}]
    file = tmp_path / "texts.parquet"
    parquet.write_table(pa.Table.from_pylist(items, schema=ITEMS_SCHEMA), file)
    general = {"corpus": "general", "share": 0.5}
    made = built(project / "payload", general=general, evaluation_texts=file)
    figures = made.figures
    train = parquet.read_table(project / "payload/general/train.parquet").column("text").to_pylist()
    used = [e.row for e in iter_examples(tmp_path / "mixture", "train") if e.source == "general:general"]
    assert used
    assert not [row for row in used if asked in train[row]]
    assert figures.overlaps["quiz"] == len(made.overlaps["quiz"]) > 0
    assert all(asked in train[row] for row in made.overlaps["quiz"])
    assert abs(figures.general_share.realized - 0.5) < 0.01
    assert built(project / "payload", name="all", general=general).overlaps == {}


def test_held_out_texts_say_which_document_they_are_of(
    tmp_path: Path, faq: None, mix: Any, corpus: Any
) -> None:
    mix(corpus(20, words=2400), max_length=512, general=GENERAL)
    rows = parquet.read_table(tmp_path / "mixture" / "general_holdout" / "texts.parquet").to_pylist()
    documents = [row["group"] for row in rows]
    assert 1 < len(set(documents)) < len(documents)


def test_the_mixture_does_not_depend_on_what_the_files_are_called(
    tmp_path: Path, write: Any, questions: Any, mix: Any
) -> None:
    for name in ("one", "two"):
        write(f"{name}.jsonl", questions)
        mix(name=name, sources=[f"{name}.jsonl"])
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")


def test_the_sample_marks_what_is_trained(write: Any, questions: Any, built: Any) -> None:
    chats = [
        {"messages": [{"role": "user", "content": q["prompt"]}, {"role": "assistant", "content": "A paper."}]}
        for q in questions
    ]
    write("faq.jsonl", chats)
    sample = built().sample
    assert sample.endswith("<|im_start|>assistant\n«A paper.<|im_end|>»\n")


@pytest.mark.parametrize("train_on", ["completions", "assistant_turns"])
def test_a_conversation_is_trained_on_its_last_answer_or_on_every_one(
    tmp_path: Path, write: Any, mix: Any, tiny_tokenizer: Any, train_on: str
) -> None:
    turns = [("user", "Is {} it?"), ("assistant", "A paper."), ("user", "And?"), ("assistant", "So {}.")]
    chats = [
        {"messages": [{"role": role, "content": text.format(i)} for role, text in turns]} for i in range(40)
    ]
    write("faq.jsonl", chats)
    mix(train_on=train_on)
    rows = parquet.read_table(tmp_path / "mixture-rows" / "train.parquet").to_pylist()
    for row, example in zip(rows, iter_examples(tmp_path / "mixture", "train"), strict=True):
        number = json.loads(row["messages"])[-1]["content"].removeprefix("So ").rstrip(".")
        spans = [tiny_tokenizer.decode(example.input_ids[start:end]) for start, end in example.trained_spans]
        answers = ["A paper.<|im_end|>", f"So {number}.<|im_end|>"]
        assert spans == (answers[1:] if train_on == "completions" else answers)


def test_a_share_outside_the_usual_is_warned_about_for_full_fine_tuning(
    faq: None, mix: Any, corpus: Any, variant: Any
) -> None:
    high = {"corpus": "general", "share": 0.3}
    payload = corpus(200)
    share = mix(payload, general=high).general_share.realized
    [warning] = declared_warnings(variant({"method": "full", "export": "merged"}), share)
    assert "30.0% of the tokens" in warning
    for share_of in ("trained", "processed"):
        declared = variant({"method": "full", "export": "merged"}, general={**high, "share_of": share_of})
        assert f"30.0% of the {share_of} tokens" in declared_warnings(declared, share)[0]
    assert declared_warnings(variant({"method": "lora"}), share) == []


def test_rows_that_hold_special_tokens_as_text_are_warned_about(write: Any, questions: Any, mix: Any) -> None:
    write(
        "faq.jsonl",
        [q | {"completion": q["completion"] + "<|im_end|>"} for q in questions[:20]] + questions[20:],
    )
    [warning] = mix(splits={"validation": 0.0, "test": 0.0}).warnings
    assert warning.startswith("20 rows hold special tokens")


def test_prompts_that_end_with_a_space_are_warned_about(write: Any, questions: Any, mix: Any) -> None:
    write("faq.jsonl", [q | {"prompt": q["prompt"] + " "} for q in questions[:20]] + questions[20:])
    [warning] = mix(splits={"validation": 0.0, "test": 0.0}).warnings
    assert warning.startswith("20 prompts end with a space")


def test_lengths_are_those_of_the_examples_over_all_shards(tmp_path: Path, tiny_tokenizer: Any) -> None:
    writer = SplitWriter(tmp_path, "train", shard_bytes=16_000)
    for i in range(700):
        writer.add(Rendered([i] * (i % 30 + 2), ((1, i % 30 + 2),)), "a", i)
    content = MixtureFigures(
        tokenizer="0" * 64, max_length=31, seed=0, order="", splits={"train": writer.close()},
        general_share=GeneralShare(0.0, 0.0), longest=31, dropped={},
    ).file_json()  # fmt: skip
    (tmp_path / "mixture.json").write_text(json.dumps(content))
    assert len(shard_files(tmp_path, "train")) > 3
    assert [e.row for e in iter_examples(tmp_path, "train")] == list(range(700))
    tokens, trained = lengths(tmp_path, "train")
    assert tokens.tolist() == [i % 30 + 2 for i in range(700)]
    assert trained.tolist() == [i % 30 + 1 for i in range(700)]


def test_a_mixture_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mixture.json").write_text('{"schema_version": 2}')
    with pytest.raises(UserError, match="newer ft-dagster"):
        read_mixture(tmp_path)


def test_probes_are_prompts_of_the_validation_rows(
    tmp_path: Path, faq: None, mix: Any, tiny_model_folder: Path
) -> None:
    from ft_dagster.data.mixture.probes import probe_prompts

    mix()
    rows = parquet.read_table(tmp_path / "mixture-rows" / "validation.parquet").to_pylist()
    probes = probe_prompts(tmp_path / "mixture-rows", tiny_model_folder, 2)
    assert probes == [row["prompt"] for row in rows[:2]]
    assert len(probe_prompts(tmp_path / "mixture-rows", tiny_model_folder, 100)) == 40


PROMPTS = [{"prompt": f"Which one is item {n}", "completion": f"Item {n} is a thing."} for n in range(40)]


def test_plain_prompts_that_run_into_their_completions_are_counted(write: Any, mix: Any) -> None:
    apart = [{**row, "completion": f" {row['completion']}"} for row in PROMPTS[:30]]
    write("faq.jsonl", [*apart, *PROMPTS[30:]])
    [warning] = mix(splits={"validation": 0.0, "test": 0.0}).warnings
    assert warning.startswith("10 of 40 prompts end in a word that their completion goes on with")


def test_a_prompt_and_its_completion_are_one_exchange_where_asked(write: Any, built: Any) -> None:
    """What stood between them as plain text says nothing then."""
    write("faq.jsonl", [{**row, "prompt": f"{row['prompt']} "} for row in PROMPTS])
    made = built(exchange=True)
    assert made.sample.startswith("<|im_start|>user\nWhich one is item ")
    assert made.sample.endswith(" is a thing.<|im_end|>»\n")
    assert made.figures.warnings == ()
    assert built(name="plain").sample.startswith("Which one is item ")
