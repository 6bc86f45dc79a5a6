"""Generated questions: task YAMLs with their data, rows of a test split, held-out texts, single scores."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.gate.samples import Sample
from ft_dagster.provenance.digest import hash_folder, payload_digest, sha256_file

CHOICES = ["the bank", "a passport and the form", "the whale", "thirty days of rain"]
COLUMNS = (
    "kind",
    "messages",
    "prompt",
    "completion",
    "text",
    "source",
    "licence",
    "group",
    "weight",
    "tools",
)
ROW = {name: pa.float64() if name == "weight" else pa.string() for name in COLUMNS}


def questions(count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Question {n}: which documents must I bring to open account {n}?",
            "choices": CHOICES,
            "gold": n % 4,
        }
        for n in range(count)
    ]


def write_task(folder: Path, name: str = "forms", count: int = 30, **changes: Any) -> Path:
    """A multiple-choice task YAML with its data beside it; returns the YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(question) for question in questions(count)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**config, **changes}))
    return file


def row(number: int, kind: str = "messages") -> dict[str, Any]:
    question, answer = f"How do you close balcony {number}?", f"Close it with glass, {number} times."
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    content = {
        "messages": {"messages": json.dumps(turns)},
        "prompt_completion": {"prompt": question + "\n", "completion": answer},
        "text": {"text": f"The whale rose slowly beside ship {number} and the men stood silent."},
    }[kind]
    return {**dict.fromkeys(ROW), "kind": kind, "source": "data.sources[0]", "weight": 1.0, **content}


def adds_tokens(tokenizer: Any) -> Any:
    """The tiny model's tokenizer, made to put `<|endoftext|>` before each text and its end after it."""
    from tokenizers.processors import TemplateProcessing

    ids = {"<|endoftext|>": tokenizer.pad_token_id, "<|im_end|>": tokenizer.eos_token_id}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=list(ids.items())
    )
    return tokenizer


def write_run(folder: Path, base: Path, **asked: Any) -> Path:
    """A run folder whose run.json asks `base` for what is given: files by their names and, here, content."""
    folder.mkdir(parents=True, exist_ok=True)
    project = asked.get("project", folder.parent)
    tuned, own, probed = asked.pop("tuned", None), asked.get("test_split_task"), asked.get("regurgitation")
    if own:
        asked["test_split_task"] = {
            **own, **{name: data_file(own[name]) for name in ("test", "database") if own.get(name)}
        }  # fmt: skip
    if probed:
        asked["regurgitation"] = {**probed, "train": data_file(probed["train"])}
    if asked.get("general_holdout"):
        asked["general_holdout"] = data_file(asked["general_holdout"])
    run = {
        "schema_version": 1,
        "model": {
            "base": {"folder": str(base), "files": files_of(base)},
            "tuned": tuned and {"folder": str(tuned), "digest": payload_digest(hash_folder(tuned))},
        },
        "digests": digests_of([*asked.get("task", ()), *asked.get("general", ())], project),
        "device": "cpu",
        "dtype": "float32",
        "project": str(project),
        "output": str(folder / "output"),
        **asked,
    }
    (folder / "run.json").write_text(json.dumps(run, default=str))
    return folder


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of each file of a model folder, as a base is recorded."""
    return {file.path: file.sha256 for file in hash_folder(folder)}


def data_file(file: Path) -> dict[str, str]:
    return {"path": str(file), "sha256": sha256_file(file)}


def digests_of(tasks: Sequence[str], project: Path) -> dict[str, str]:
    """As frozen with a declaration; what is no task is left out."""
    found: dict[str, str] = {}
    for task in tasks:
        with suppress(UserError):
            found |= tasks_digest([task], project)
    return found


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(ROW.items()))), file)
    return file


def write_database(file: Path) -> Path:
    """A table of four towns, two of the same name."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE town (name TEXT, people INTEGER, tax REAL)")
        towns = [("Port", 300, 0.1), ("Hill", 20, 0.2), ("Port", 7, 0.3), ("Lake", 4000, None)]
        connection.executemany("INSERT INTO town VALUES (?, ?, ?)", towns)
    return file


def write_texts(file: Path, count: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"text": [f"The men of ship {n} stood silent. " * (1 + n % 3) for n in range(count)]}), file
    )
    return file


def sample(number: int, value: float, **changes: Any) -> Sample:
    """The score of question `number`: of the general benchmark `forms` by acc, unless said otherwise."""
    fields = {"role": "general", "task": "forms", "metric": "acc", "question": f"forms:0:{number:04x}"}
    return Sample(**{**fields, "value": value, "weight": 1.0, "higher_is_better": True, **changes})


def requests(kind: str, *arguments: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, argument, 0) for argument in arguments]
