"""Variants on the release of acme.places, and what that was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_dagster.data.rows.splits import position_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.workspace.corpora import find_corpus
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import declaration, write_lines, write_yaml

COLOURS = ["red", "green", "blue", "white", "black"]
TESTS = 0.4  # of a child's rows: more than of the parent's, so that some fall there that it was trained on
Row = dict[str, Any]


def workspace_of(folder: Path, name: str, say: Callable[[str], None] = lambda line: None) -> Workspace:
    return Workspace(load_settings(folder), VariantKey("acme", name), RunOf("test", "test", say))


def row(question: str, answer: str) -> Row:
    return {"instruction": question, "output": answer}


def learned(parent: Workspace) -> list[Row]:
    """The rows that a parent was trained on."""
    file = parent.payload(parent.upstream("task_dataset")) / "train.parquet"
    turns = [json.loads(messages) for messages in pq.read_table(file).column("messages").to_pylist()]
    return [row(*(turn["content"] for turn in each)) for each in turns]


def learned_texts(parent: Workspace) -> list[str]:
    """The general texts that a parent was trained on."""
    records = pq.read_table(parent.evidence(parent.upstream("training_mixture")) / "rows.parquet").to_pylist()
    trained = [r["row"] for r in records if r["split"] == "train" and r["source"].startswith("general:")]
    corpus = find_corpus(parent.store, "general")
    texts = pq.read_table(parent.payload(corpus) / "general" / "train.parquet").column("text").to_pylist()
    return [texts[number] for number in trained]


def is_test(question: str) -> bool:
    """Whether a row with this question falls into a child's test split."""
    return position_of(question) < TESTS


def new_rows() -> Iterator[Row]:
    """Rows that no ancestor has, without end."""
    return (row(f"Which colour has house {n} of Zyrtexal?", f"It is {COLOURS[n % 5]}.") for n in count())


def declare(folder: Path, name: str, rows: list[Row], parent: str = "acme.places", **more: Any) -> None:
    """Declare acme.<name> on the release of a parent, with these rows."""
    write_lines(folder / "data" / f"{name}.jsonl", rows)
    base = {"variant": parent, **more.pop("base_model", {})}
    content = declaration(folder, base_model=base)
    content["data"]["sources"] = [f"data/{name}.jsonl"]
    content["data"]["splits"] = {"validation": 0.1, "test": TESTS, "minimum": 1}
    content["training"].update(num_train_epochs=2, evaluations=1)
    for part, fields in more.items():
        content[part] = {**content.get(part, {}), **fields} if isinstance(fields, dict) else fields
    write_yaml(folder / "tenants" / "acme" / f"{name}.yaml", content)
