"""The data's promises, tried by whoever writes the rows: what a question is, and what is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import parquet

from ft_dagster.data.rows.content import question_ids
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.decontaminate import EvaluationItem
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.questions import bare_items, questions_of
from ft_dagster.provenance.digest import hash_folder
from ft_dagster.spec.variant import VariantSpec

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test")
ROWS = [{"prompt": f"What is item {i}?", "completion": f"Item {i} is a thing."} for i in range(60)]
SHORT = [
    ("Which gas do plants take in?", "carbon dioxide"),
    ("What is water made of?", "hydrogen and oxygen"),
    ("Which planet is the largest?", "Jupiter"),
    ("What do bees make?", "honey"),
    ("Which of these objects is the best conductor of heat and of electricity?", "a copper wire"),
    ("Who proposed the theory of evolution?", "Darwin"),
    ("Which organ pumps the blood?", "the heart"),
    ("What force pulls things down?", "gravity"),
]


class BuiltRows:
    """A built data set: its folders, its figures."""

    def __init__(self, folder: Path, rows: Sequence[dict[str, Any]], file: str, **data: Any) -> None:
        texts = data.pop("evaluation_texts", [])
        self.payload, self.evidence = folder / "payload", folder / "evidence"
        for part in (self.payload, self.evidence):
            part.mkdir(parents=True)
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        splits = {"validation": 0.2, "test": 0.3, "minimum": 1}
        spec = VariantSpec.model_validate(
            {
                "description": "x",
                "owners": ["me"],
                "base_model": "base",
                "data": {"sources": [file], "splits": splits, **data},
            }
        )
        self.figures = build_task_dataset(spec, folder, texts, self.payload, evidence=self.evidence)

    def split(self, name: str) -> list[Any]:
        return list(read_split(self.payload / f"{name}.parquet"))

    def questions(self) -> set[str]:
        return set(question_ids([row.identity for row in self.split("test")]))

    def evidence_of(self, name: str) -> list[dict[str, Any]]:
        return parquet.read_table(self.evidence / f"{name}.parquet").to_pylist()


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., BuiltRows]:
    made: list[BuiltRows] = []

    def build(rows: Sequence[dict[str, Any]], file: str = "rows.jsonl", **data: Any) -> BuiltRows:
        made.append(BuiltRows(tmp_path / str(len(made)), rows, file, **data))
        return made[-1]

    return build


def test_a_renamed_file_is_the_same_data_set_to_the_byte(built: Any) -> None:
    one, two = built(ROWS), built(ROWS, "renamed.jsonl")
    assert hash_folder(one.payload) == hash_folder(two.payload)


def test_where_each_row_came_from_stands_in_the_evidence(built: Any) -> None:
    data = built(ROWS, "renamed.jsonl")
    origins = data.evidence_of("rows")
    assert {(row["path"], row["file"]) for row in origins} == {("renamed.jsonl", "renamed.jsonl")}
    for origin in origins:
        row = data.split(origin["split"])[origin["row"]]
        assert row.prompt == ROWS[origin["ordinal"]]["prompt"]
        assert row.identity.hex() == origin["identity"]
        assert origin["line"] == origin["ordinal"] + 1
    assert len({origin["record"] for origin in origins}) == len(ROWS)


@pytest.mark.parametrize(
    "moved",
    [
        [{"prompt": "One row before all others", "completion": "x"}, *ROWS],
        list(reversed(ROWS)),
        [{**row, "prompt": row["prompt"].upper() + " "} for row in ROWS],
    ],
    ids=["a row prepended", "sorted otherwise", "written otherwise"],
)
def test_no_question_of_the_test_split_gets_another_name(built: Any, moved: Any) -> None:
    before = built(ROWS).questions()
    assert before
    assert before <= built(moved, "moved.jsonl").questions()


def declared_task(rows: Sequence[tuple[str, str]]) -> Any:
    """An lm-eval task over rows, with ARC-Easy's template."""
    docs = [{"id": f"row {n}", "question": q, "choices": [a, "a stone"]} for n, (q, a) in enumerate(rows)]
    return SimpleNamespace(
        eval_docs=docs,
        config=SimpleNamespace(doc_to_choice="{{choices}}"),
        doc_to_text=lambda doc: f"Question: {doc['question']}\nAnswer:",
        doc_to_target=lambda doc: 0,
        doc_to_choice=lambda doc: doc["choices"],
        should_decontaminate=lambda: False,
    )


def test_no_question_of_a_declared_task_gets_another_name() -> None:
    before = set(questions_of(declared_task(SHORT)))
    assert len(before) == len(SHORT)
    after = set(questions_of(declared_task([("What is new?", "this"), *reversed(SHORT)])))
    assert before < after
    twice = questions_of(declared_task([*SHORT, SHORT[0]]))
    assert len(set(twice)) == len(SHORT) + 1
    assert before < set(twice)


def test_another_right_answer_or_another_choice_is_another_question() -> None:
    (one,) = questions_of(declared_task(SHORT[:1]))
    (other,) = questions_of(declared_task([(SHORT[0][0], "oxygen")]))
    assert one != other


@pytest.mark.parametrize("kind", ["prompt and completion", "a conversation", "in other words around it"])
def test_a_question_with_its_answer_is_never_trained_on(built: Any, kind: str) -> None:
    def row(question: str, answer: str) -> dict[str, Any]:
        if kind == "a conversation":
            turns = [("user", question.upper()), ("assistant", f"It is {answer}, I think.")]
            return {"messages": [{"role": role, "content": text} for role, text in turns]}
        if kind == "prompt and completion":
            return {"prompt": question, "completion": answer}
        return {"prompt": f"Tell me, please: {question}", "completion": f"The answer is: {answer}!"}

    items = list(bare_items(declared_task(SHORT), "exam"))
    file = "asked.jsonl"
    clean = built([row(q["prompt"], q["completion"]) for q in ROWS], file, evaluation_texts=items)
    assert clean.figures["dropped"] == {}
    spoiled = [row(q["prompt"], q["completion"]) for q in ROWS] + [row(*each) for each in SHORT]
    data = built(spoiled, file, evaluation_texts=items)
    assert data.figures["dropped"] == {"overlaps an evaluation set": len(SHORT)}
    assert data.figures["overlaps"] == {"exam": {file: len(SHORT)}}
    found = data.evidence_of("dropped")
    assert [origin["line"] for origin in found] == list(range(61, 61 + len(SHORT)))
    assert {(origin["task"], origin["file"]) for origin in found} == {("exam", file)}


def test_a_short_question_alone_or_with_another_answer_is_ordinary_speech(built: Any) -> None:
    items = list(bare_items(declared_task(SHORT), "exam"))
    asked = [
        {"prompt": "What do bees make?", "completion": "Wax."},
        {"prompt": "honey", "completion": "sweet"},
    ]
    assert built([*ROWS, *asked], evaluation_texts=items).figures["dropped"] == {}


def test_a_letter_that_stands_for_the_answer_does_not_hide_it() -> None:
    docs = [{"question": "Which planet is the largest?", "choices": ["Mars", "Jupiter"]}]
    lettered = SimpleNamespace(
        eval_docs=docs,
        config=SimpleNamespace(doc_to_choice=["A", "B"]),
        doc_to_text=lambda doc: doc["question"],
        doc_to_target=lambda doc: 1,
        doc_to_choice=lambda doc: ["A", "B"],
    )
    assert list(bare_items(lettered, "exam")) == [
        EvaluationItem(("which planet is the largest",), ("Jupiter",), "exam")
    ]


GROUPED = [
    {"prompt": f"What is item {n}?", "completion": f"Item {n} is a thing.", "group": f"document {n // 2}"}
    for n in range(200)
]


def splits_of(data: BuiltRows) -> dict[str | None, set[str]]:
    """The splits that each group is in."""
    found: dict[str | None, set[str]] = {}
    for split in SPLITS:
        for row in data.split(split):
            found.setdefault(row.group, set()).add(split)
    return found


def test_rows_of_one_group_are_in_one_split(built: Any) -> None:
    found = splits_of(built(GROUPED))
    assert len(found) == 100
    assert all(len(splits) == 1 for splits in found.values())
    assert set.union(*found.values()) == set(SPLITS)


@pytest.mark.parametrize("answer", ["Item 0 is a thing.", "Another answer."])
def test_groups_that_share_a_question_are_in_one_split(built: Any, answer: str) -> None:
    """Whether its row is dropped as a duplicate or not, and in whatever order they come."""
    tied = [
        {"prompt": "what is ITEM 0?", "completion": answer, "group": f"document {n}"} for n in range(1, 10)
    ]
    for order in ([*GROUPED, *tied], [*tied, *GROUPED]):
        found = splits_of(built(order))
        assert len(set.union(*(found[f"document {n}"] for n in range(10)))) == 1


def test_a_row_without_a_group_goes_with_the_group_that_asks_the_same(built: Any) -> None:
    rows = [{**row, "group": "one"} for row in ROWS[:20]]
    loose = [{**row, "completion": "Another answer."} for row in ROWS]
    data = built([*loose, *rows])
    (split,) = splits_of(data)["one"]
    for other in SPLITS:
        asked = {row.prompt for row in data.split(other)}
        if other != split:
            assert not asked & {row["prompt"] for row in ROWS[:20]}


def test_near_duplicates_tie_their_groups(built: Any) -> None:
    long = " ".join(f"word{n}" for n in range(60))
    near = [
        {"prompt": f"{long} {n}", "completion": "a thing of the town", "group": f"document {n}"}
        for n in range(10)
    ]
    data = built([*near, *GROUPED], deduplicate={"method": "near", "threshold": 0.7})
    assert data.figures["dropped"]["near duplicate"] >= 9
    assert len(set.union(*(splits_of(data)[f"document {n}"] for n in range(10)))) == 1


def test_another_group_moves_no_row_of_the_others(built: Any) -> None:
    before, after = built(GROUPED[:100]), built([*reversed(GROUPED)])
    found = {row.prompt: split for split in SPLITS for row in after.split(split)}
    assert all(found[row.prompt] == split for split in SPLITS for row in before.split(split))


def test_groups_of_numbers_are_groups(built: Any) -> None:
    """Silently ignored, the rows of one customer would stand in training and test."""
    rows = [{**row, "group": number % 30} for number, row in enumerate(ROWS)]
    data = built(rows)
    where = {(row.group, split) for split in SPLITS for row in data.split(split)}
    assert len(where) == 30
    assert {group for group, _ in where} == {str(number) for number in range(30)}


@pytest.mark.parametrize("group", [["a"], {"a": 1}, True, 1.5])
def test_what_names_no_group_is_refused(built: Any, group: Any) -> None:
    with pytest.raises(UserError, match="not the name of a group"):
        built([{**row, "group": group} for row in ROWS])


def test_rows_without_a_group_stand_alone(built: Any) -> None:
    data = built([{**row, "group": [None, "", float("nan")][number % 3]} for number, row in enumerate(ROWS)])
    assert {row.group for split in SPLITS for row in data.split(split)} == {None}
