"""A mixture says of each row that was cut or left out how much of it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from ft_dagster.data.mixture.cuts import (
    IN_PART,
    TOO_LONG,
    UNFOLLOWED,
    UNTHOUGHT,
    UNTRAINED,
    Cut,
    _beginnings,
    is_same_up_to,
    place_of,
    read_cuts,
    unrendered,
    write_cuts,
)
from ft_dagster.data.mixture.mixture import BuiltMixture, MixtureParts, build_mixture
from ft_dagster.data.rendering.render import render
from ft_dagster.data.rows.corpus import build_general_corpus
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import as_row, paths_of
from ft_dagster.data.rows.rows import Message, Row, upto_trained
from ft_dagster.data.sources.turns import as_json
from ft_dagster.spec.variant import CorpusSpec
from tests.long import mostly_long
from tests.mixtures import iter_examples

WORDS = ("the", "bank", "of", "old", "town", "lends", "to", "ships", "and", "whales", "by", "sea")


def said(number: int, words: int) -> str:
    return " ".join(WORDS[(number + at) % len(WORDS)] + str(number + at) for at in range(words))


@pytest.fixture
def mix(project: Path, tmp_path: Path, tiny_model_folder: Path, variant: Any, write: Any) -> Any:
    """A mixture of these rows, and the rows of its data set by split and number."""

    def of(
        rows: Sequence[Any], max_length: int, corpus: Path | None = None, **data: Any
    ) -> tuple[BuiltMixture, dict[tuple[str, int], Row]]:
        write("faq.jsonl", rows)
        spec, made, out = variant(None, **data), tmp_path / "rows", tmp_path / "mixture"
        made.mkdir()
        out.mkdir()
        build_task_dataset(spec, project, [], made)
        there = {
            (split, number): as_row(row)
            for split in ("train", "validation")
            for number, row in enumerate(parquet.read_table(made / f"{split}.parquet").to_pylist())
        }
        parts = MixtureParts(made, tiny_model_folder, corpus, None, paths_of(spec))
        return build_mixture(spec, parts, max_length, out), there

    return of


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["messages", "prompt_completion"])
def test_of_a_row_that_was_cut_the_mixture_says_where(
    mix: Any, tiny_tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    rows: list[Any] = []
    for number in range(40):
        asked, answer = said(number, 6), said(number, 12 if number % 2 else 200)
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        row = {"prompt": f"{asked} ", "completion": answer}
        rows.append(row if kind == "prompt_completion" else {"messages": turns})
    built, there = mix(rows, 128)
    cuts = {(cut.split, cut.row): cut for cut in built.cuts}
    long = {place for place, row in there.items() if len(row.parts[-1][1]) > 500}
    assert cuts.keys() == long
    assert len(long) > 10
    for place, cut in cuts.items():
        row = there[place]
        assert (cut.source, cut.kept, cut.reason) == ("data.sources[0]", 128, "")
        assert cut.tokens == len(render(row, tiny_tokenizer).input_ids) > 128
        assert cut.part == len(row.parts) - 1
        _, answer = row.parts[-1]
        [example] = [one for one in iter_examples(tmp_path / "mixture", place[0]) if one.row == cut.row]
        kept = tiny_tokenizer.decode(example.input_ids).rstrip("\ufffd")
        assert kept.endswith(answer[: cut.characters])
        assert 0 < (cut.characters or 0) < len(answer)
        changed = answer[: (cut.characters or 0) + 3] + " and nothing of that"
        *before, (role, _) = row.parts
        other = with_parts(row, [*before, (role, changed)])
        assert other.identity != row.identity
        assert render(other, tiny_tokenizer, max_length=100).input_ids == example.input_ids[:100].tolist()
        assert is_same_up_to(cut, row, other)
        assert not is_same_up_to(cut, row, with_parts(row, [*before, (role, f"x{changed}")]))


def with_parts(row: Row, parts: list[tuple[str, str]]) -> Row:
    if row.kind == "messages":
        return Row("messages", row.source, tuple(Message(role, text) for role, text in parts))
    return Row("prompt_completion", row.source, prompt=parts[0][1], completion=parts[1][1])


@pytest.mark.slow
def test_of_a_row_that_was_left_out_the_mixture_says_why(mix: Any) -> None:
    rows = [{"prompt": f"{said(n, 3)} ", "completion": said(n, 200 if n % 4 == 0 else 5)} for n in range(40)]
    built, there = mix(rows, 128, on_too_long="drop")
    assert len(built.cuts) == built.figures.dropped[TOO_LONG] > 5
    for cut in built.cuts:
        assert (cut.reason, cut.kept, cut.left_out) == (TOO_LONG, 0, True)
        assert (cut.tokens or 0) > 128
        assert len(there[cut.split, cut.row].completion) > 500


@pytest.mark.slow
def test_of_a_row_whose_reasoning_or_last_turns_are_not_rendered_the_mixture_says_so(mix: Any) -> None:
    thinks = {"reasoning_content": "Who knows what\nships lend?"}
    rows = []
    for n in range(40):
        asked, answer = {"role": "user", "content": said(n, 3)}, {"role": "assistant", "content": said(n, 9)}
        turns: list[dict[str, Any]] = [asked, {**answer, **(thinks if n % 2 else {})}]
        turns += [asked, {**answer, "content": said(n, 200), "train": False}] if n % 4 > 1 else []
        rows.append({"messages": turns})
    built, there = mix(rows, 128, reasoning="drop")
    told = {(cut.split, cut.row): cut for cut in built.cuts}
    assert not any(cut.left_out for cut in told.values())
    for place, row in there.items():
        lost = [UNTHOUGHT] * ("reasoning_content" in row.messages[1].said)
        lost += [UNFOLLOWED] * (len(row.messages) > 2)
        assert (told[place].reason if place in told else "") == ", ".join(lost)


def test_reasoning_that_a_template_leaves_out_of_earlier_turns_is_not_rendered() -> None:
    thinks = as_json({"reasoning_content": "Two  words"})
    row = Row("messages", "", (Message("user", "q"), Message("assistant", "a", thinks)))
    assert unrendered(row, lambda: "q <think>\ntwo words</think> a") == ""
    assert unrendered(row, lambda: "q a") == UNTHOUGHT
    assert unrendered(row, lambda: None) == ""


@pytest.mark.slow
def test_a_row_of_which_nothing_is_trained_is_named(mix: Any) -> None:
    rows = [{"prompt": f"{said(n, 200 if n % 4 == 0 else 3)} ", "completion": "yes"} for n in range(40)]
    built, there = mix(rows, 128)
    assert {cut.reason for cut in built.cuts} == {UNTRAINED}
    assert len(built.cuts) == built.figures.dropped[UNTRAINED] > 5
    assert all(len(there[cut.split, cut.row].prompt) > 500 for cut in built.cuts)


@pytest.mark.slow
def test_a_document_of_which_pieces_are_not_there_is_named(
    mix: Any, project: Path, tmp_path: Path, write: Any, tiny_tokenizer: Any
) -> None:
    write("texts.jsonl", [{"text": said(number, 150)} for number in range(200)])
    spec = CorpusSpec.model_validate({"description": "x", "sources": ["texts.jsonl"], "holdout": 0.2})
    build_general_corpus("general", spec, project, tmp_path / "corpora")
    rows = [{"prompt": f"{said(n, 3)} ", "completion": said(n, 20)} for n in range(40)]
    built, _ = mix(rows, 128, corpus=tmp_path / "corpora", general={"corpus": "general", "share": 0.3})
    [cut] = built.cuts
    assert (cut.split, cut.source, cut.reason, cut.left_out) == ("train", "general:general", IN_PART, False)
    texts = parquet.read_table(tmp_path / "corpora/general/train.parquet").column("text").to_pylist()
    given: dict[int, int] = {}
    for example in iter_examples(tmp_path / "mixture", "train"):
        if example.source.startswith("general:"):
            given[example.row] = given.get(example.row, 0) + len(example.input_ids)
    whole = {row: len(tiny_tokenizer(texts[row])["input_ids"]) for row in given}
    assert [row for row in given if given[row] < whole[row]] == [cut.row]


def conversation(number: int, *, after: bool, words: int = 4) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": said(number, 5)},
        {"role": "assistant", "content": said(number, words)},
    ]
    more = [
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Nothing.", "train": False},
    ]
    return {"messages": [*turns, *(more if after else ())]}


def test_a_row_that_differs_after_the_last_trained_answer_alone_is_the_same_as_far_as_that() -> None:
    row, cut = as_chat(conversation(0, after=True)), Cut("train", "s", 0, reason=UNFOLLOWED)
    assert is_same_up_to(cut, row, as_chat(conversation(0, after=False)))
    longer = replace(row, messages=(*row.messages[:2], Message("user", "Why?"), Message("assistant", "So.")))
    assert is_same_up_to(cut, row, longer)
    for other in (
        replace(longer, tools="[1]"),
        replace(longer, messages=(*row.messages[:1], Message("assistant", "It is."))),
        replace(
            longer, messages=(row.messages[0], row.messages[1]._replace(more='{"reasoning_content":"a"}'))
        ),
        replace(longer, messages=row.messages[:1]),
    ):
        assert not is_same_up_to(cut, row, other)


def as_chat(row: dict[str, Any]) -> Row:
    turns = (
        Message(turn["role"], turn["content"], as_json({"train": False}) if "train" in turn else "")
        for turn in row["messages"]
    )
    return Row("messages", "s", tuple(turns))


def test_cuts_are_read_as_they_were_written(tmp_path: Path) -> None:
    cuts = [
        Cut("train", "data.sources[0]", 3, 800, 512, 1, 900),
        Cut("validation", "data.sources[1]", 3, 800, 0, reason=TOO_LONG),
        Cut("train", "general:x", 3, reason=IN_PART),
        Cut("train", "data.sources[1]", 4, reason=f"{UNTHOUGHT}, {UNFOLLOWED}"),
    ]
    write_cuts(cuts, tmp_path)
    assert read_cuts(tmp_path / "cuts.parquet") == {
        ("train", False, 3): cuts[0], ("validation", False, 3): cuts[1], ("train", True, 3): cuts[2],
        ("train", False, 4): cuts[3],
    }  # fmt: skip
    write_cuts([], tmp_path)
    assert read_cuts(tmp_path / "cuts.parquet") == {}


PLACES: dict[str, tuple[list[str], str, tuple[int | None, int | None]]] = {
    "within the last": (["Who?", "The old bank."], "<u>Who?<a>The old", (1, 7)),
    "within the first": (["Who is it?", "x"], "<u>Who is", (0, 6)),
    "between two": (["Who?", "The bank."], "<u>Who?<a>", (1, 0)),
    "half a letter": (["Who?", "Müller"], "<u>Who?<a>M\ufffd", (1, 1)),
    "after the last": (["Who?", "Yes."], "<u>Who?<a>Yes.", (None, None)),
    "stripped": (["  Who? ", " The bank "], "<u>Who?<a>The b", (1, 5)),
    "a text that stands there twice": (["on", "on and on and off"], "<u>on<a>on and on a", (1, 11)),
    "not as it was rendered": (["Who?", "The bank."], "<u>Who?<a>" + "THE BANK. " * 20, (None, None)),
}


@pytest.mark.parametrize("kind", PLACES)
def test_the_place_of_a_cut_is_told_by_what_is_kept(kind: str) -> None:
    texts, kept, place = PLACES[kind]
    assert place_of(texts, kept) == place


def test_a_long_row_whose_tokenizer_changes_its_letters_is_looked_for_at_few_places() -> None:
    text = "The Old Bank of the Town lends to Ships. " * 3_000
    kept = "user: " + text.lower()[:-20]
    assert len(list(_beginnings(text, kept, 0))) <= 80
    assert place_of([text], kept) == (None, None)
    assert place_of([text], "user: " + text[:-20]) == (0, len(text) - 20)


def test_a_row_of_another_kind_or_role_is_not_the_same() -> None:
    row = Row("messages", "s", (Message("user", "Who?"), Message("assistant", "The old bank.")))
    cut = Cut("train", "s", 0, 9, 5, 1, 7)
    other = replace(row, messages=(Message("user", "WHO?"), Message("assistant", "The  OLD whale.")))
    assert is_same_up_to(cut, row, other)
    assert not is_same_up_to(cut, row, replace(other, messages=other.messages[:1]))
    assert not is_same_up_to(
        cut, row, replace(other, messages=(Message("system", "Who?"), other.messages[1]))
    )
    assert not is_same_up_to(cut, row, Row("text", "s", text="Who? The old whale."))
    assert not is_same_up_to(cut._replace(part=None), row, other)


def test_a_row_that_differs_in_tools_or_reasoning_before_its_cut_is_not_the_same() -> None:
    cut = Cut("train", "data.sources[0]", 0, 200, 128, part=1, characters=4)

    def row(answer: str, tools: str = "", **more: Any) -> Row:
        turns = (Message("user", "Where?"), Message("assistant", answer, as_json(more) if more else ""))
        return Row("messages", "", turns, tools=tools)

    one = row("Over there.", "[1]", reasoning_content="So.")
    called = row("Over here.", "[1]", reasoning_content="So.", tool_calls=[{"function": {"name": "a"}}])
    assert is_same_up_to(cut, one, called)
    assert not is_same_up_to(cut, one, row("Over here.", "[2]", reasoning_content="So."))
    assert not is_same_up_to(cut, one, row("Over here.", "[1]", reasoning_content="No."))
    assert not is_same_up_to(cut, one, row("Over here.", "[1]"))


@pytest.mark.slow
@pytest.mark.parametrize("turns", mostly_long([2, 30], [2]))
def test_rows_are_shown_as_the_shards_hold_them(
    mix: Any, tiny_tokenizer: Any, tmp_path: Path, turns: int
) -> None:
    rows = []
    for number in range(40):
        asked = {"role": "user", "content": f"«{number}» é\U0001f600"}
        context = {"role": "assistant", "content": "no", "weight": 0}
        answers = [{"role": "assistant", "content": f"\U0001f600é {number} {turn}"} for turn in range(turns)]
        rows.append({"messages": [turn for each in answers for turn in (asked, context, asked, each)]})
    built, _ = mix(rows, 4000, train_on="assistant_turns")
    examples = list(iter_examples(tmp_path / "mixture", "train"))
    for example, shown in zip(sorted(examples, key=lambda each: each.row), built.shown, strict=False):
        borders = sorted({0, *example.trained_spans.ravel().tolist(), len(example.input_ids)})
        pieces = [
            (
                "trained" if [start, end] in example.trained_spans.tolist() else "context",
                tiny_tokenizer.decode(example.input_ids[start:end], skip_special_tokens=False),
            )
            for start, end in pairwise(borders)
        ]
        assert len(pieces) == 2 * turns + 1
        more = [("not shown", f"{len(pieces) - 40} more pieces")] if len(pieces) > 40 else []
        assert shown.pieces == pieces[:40] + more
    assert len(built.shown) == 3


def test_a_cut_behind_the_last_trained_answer_leaves_what_follows_out_of_the_comparison() -> None:
    """As where a row is one token too long, of the template's own."""
    turns = Message("user", "Who?"), Message("assistant", "The old bank.")
    after = Message("user", "Why?"), Message("assistant", "So.", as_json({"train": False}))
    row = Row("messages", "s", messages=(*turns, *after))
    assert len(upto_trained(row).messages) == 2
    part, characters = place_of([text for _, text in row.parts], "<user>Who?<assistant>The old bank.<en")
    cut = Cut("train", "s", 0, 40, 39, part, characters, UNFOLLOWED)
    for other in (turns, (*turns, Message("system", "Now."))):
        assert is_same_up_to(cut, row, replace(row, messages=other))
    assert not is_same_up_to(cut, row, replace(row, messages=(turns[0], after[1])))
