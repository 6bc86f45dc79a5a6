"""A project of two tenants that a declaration of one of them attacks; nothing of it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ft_dagster.errors import UserError, all_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.versions.check import check_variant

KEY = VariantKey("acme", "support")
SECRET = "the vault opens with 4711"
ROWS = [json.dumps({"prompt": f"question {n}", "completion": "an answer"}) + "\n" for n in range(40)]
SECRETS = json.dumps({"prompt": SECRET, "completion": SECRET}) + "\n" + SECRET + "\n"
QUIZ = {
    "task": "quiz",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "quiz.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
QUESTION = json.dumps({"q": "a question", "c": ["yes", "no"], "a": 0}) + "\n"


def write(file: Path, content: Any) -> Path:
    """A text as it is, anything else as YAML."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return file


def declare(project: Path, **changes: Any) -> None:
    """acme.support, with other values for some of its parts."""
    content = {
        "description": "answers",
        "owners": ["ml@acme.example"],
        "base_model": "models/base",
        "data": {"sources": ["data/acme/rows.jsonl"], "general": {"corpus": "general"}},
        "evaluation": {"general": [], "task": ["tasks/quiz.yaml"]},
    }
    write(project / "tenants/acme/support.yaml", {**content, **changes})


def settle(project: Path, **settings: Any) -> None:
    write(project / "ft_dagster.yaml", settings)


def two_tenants(folder: Path) -> Path:
    """`folder`/project, in which everything may be read by acme but for what lies below globex and the store;
    beside it `folder`/outside. Both hold SECRET.
    """
    project = folder / "project"
    (project / "models").mkdir(parents=True)
    settle(project)
    declare(project)
    write(project / "tenants/globex/places.yaml", "description: places\n")
    write(project / "corpora/general.yaml", {"description": "g", "sources": ["data/text.jsonl"]})
    write(project / "data/text.jsonl", json.dumps({"text": "general words"}) + "\n")
    write(project / "data/acme/rows.jsonl", "".join(ROWS))
    write(project / "tasks/quiz.yaml", QUIZ)
    write(project / "tasks/quiz.jsonl", QUESTION)
    for place in (
        folder / "outside",
        project / "data/globex",
        project / ".ft_dagster/store/tenants/globex/places",
    ):
        write(place / "rows.jsonl", SECRETS)
        write(place / "task.yaml", f"{SECRET}: [\n")
        write(place / "data.sqlite", SECRET)
        write(place / "config.json", SECRET)
    return project


def mistakes(project: Path) -> list[UserError]:
    """What `ft-dagster check` says of acme.support, but for its base, which is not there."""
    try:
        check_variant(load_settings(project), KEY)
    except UserError as error:
        return [one for one in all_of(error) if "no such base model folder" not in one.problem]
    return []
