"""A damaged file is one line that says where and the way out, and nothing is written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.versions.imports.project import STAGING
from tests.long import mostly_long
from tests.versions.imports.imported import WEATHER, call, chat, configured, job, lines, pair, refused

pytestmark = pytest.mark.slow

GOOD = [chat(number) for number in range(400)]
BASE = ("--base-model", "base")


def raw(text: str | bytes, file: str = "rows.jsonl") -> str:
    Path(file).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return file


def fifo() -> str:
    os.mkfifo("rows.jsonl")
    return "rows.jsonl"


def beside(**fields: Any) -> tuple[str, str]:
    return lines("rows.jsonl", GOOD), job(**fields)


def hyperparameters(**fields: Any) -> tuple[str, ...]:
    return (*beside(hyperparameters=fields), *BASE)


def with_message(**message: Any) -> tuple[str, ...]:
    asked = {"role": "user", "content": "Rain?"}
    return (
        lines("rows.jsonl", [{"messages": [asked, {"role": "assistant", "content": "a", **message}]}]),
        *BASE,
    )


OPENAI: dict[str, tuple[Callable[[], tuple[str, ...]], str]] = {
    "no such file": (lambda: ("gone.jsonl", *BASE), "no such file"),
    "a folder": (lambda: (".", *BASE), "a folder"),
    "a FIFO": (lambda: (fifo(), *BASE), "a FIFO"),
    "an empty file": (lambda: (raw(""), *BASE), "holds no rows"),
    "other than UTF-8": (lambda: (raw(b'{"messages": "\xff"}\n'), *BASE), "not UTF-8"),
    "half a line": (lambda: (raw('{"messages": [\n'), *BASE), "rows.jsonl:1: malformed line"),
    "a field twice": (lambda: (raw('{"messages": [], "messages": []}\n'), *BASE), "given twice"),
    "a list in place of a row": (lambda: (raw("[1, 2]\n"), *BASE), "not an object"),
    "nesting without end": (lambda: (raw('{"messages":' * 99999), *BASE), "malformed"),
    "an unknown form": (lambda: (lines("rows.jsonl", [{"question": "a"}]), *BASE), "no form of the service"),
    "messages that are none": (lambda: (lines("rows.jsonl", [{"messages": "a"}]), *BASE), "not a list"),
    "an unknown role": (
        lambda: (
            with_message(role="assistant")
            and (
                lines("rows.jsonl", [{"messages": [{"role": "bot", "content": "a"}, *chat(1)["messages"]]}]),
                *BASE,
            )
        ),
        "unknown role",
    ),
    "half a weight": (lambda: with_message(weight=0.5), "neither 0 nor 1"),
    "content that is no text": (lambda: with_message(content=7), "not text"),
    "half a surrogate": (
        lambda: (
            raw(
                '{"messages": [{"role": "user", "content": "\\ud83d"}, '
                '{"role": "assistant", "content": "a"}]}\n'
            ),
            *BASE,
        ),
        "not valid Unicode",
    ),
    "half a pair": (
        lambda: (lines("rows.jsonl", [{**pair(1), "preferred_output": []}]), *BASE),
        "not a list",
    ),
    "pairs alone": (lambda: (lines("rows.jsonl", [pair(1)]), *BASE), "no row to train on"),
    "a job alone": (lambda: (job(seed=1), *BASE), "no row to train on"),
    "two jobs": (lambda: (*beside(seed=1), job("other.json"), *BASE), "a second job"),
    "several jobs": (
        lambda: (
            lines("rows.jsonl", GOOD),
            job("jobs.json", object="list", data=[{"object": "fine_tuning.job"}] * 2),
            *BASE,
        ),
        "a list of 2 jobs",
    ),
    "epochs in words": (lambda: hyperparameters(n_epochs="three"), "not a whole number"),
    "epochs of 400 digits": (lambda: hyperparameters(n_epochs=10**400), "not a whole number"),
    "a seed of 400 digits": (lambda: (*beside(seed=10**400), *BASE), "not a whole number"),
    "a rate without end": (lambda: hyperparameters(learning_rate_multiplier=math.inf), "not a number"),
    "functions that are none": (lambda: (lines("rows.jsonl", [chat(1, functions=[5])]), *BASE), "not a list"),
    "functions beside tools": (
        lambda: (lines("rows.jsonl", [chat(1, functions=[{"name": "a"}], tools=[WEATHER])]), *BASE),
        "functions and tools stand together",
    ),
    "a call in both of its forms": (
        lambda: with_message(function_call={"name": "a"}, tool_calls=[call("Gdynia")]),
        "messages[1].function_call: function_call and tool_calls stand together",
    ),
    "no epoch": (lambda: hyperparameters(n_epochs=0), "not a whole number of 1 or more"),
    "epochs past all bounds": (lambda: hyperparameters(n_epochs=10**6), "training.num_train_epochs here"),
    "half a batch": (lambda: hyperparameters(batch_size=1.5), "not a whole number"),
    "a rate that is none": (lambda: hyperparameters(learning_rate_multiplier=[1]), "not a number"),
    "hyperparameters that are none": (lambda: (*beside(hyperparameters=[3]), *BASE), "not an object"),
    "an unknown method": (lambda: (*beside(method={"type": "magic"}), *BASE), "no method of the service"),
    "a seed below 0": (lambda: (*beside(seed=-1), *BASE), "not a whole number"),
    "no base": (lambda: (lines("rows.jsonl", GOOD),), "no base that can be trained"),
    "a base that is not there": (
        lambda: (lines("rows.jsonl", GOOD), "--base-model", "./gone"),
        "no such base model folder",
    ),
    "no variant": (lambda: (lines("rows.jsonl", GOOD), *BASE, "--variant", "Acme"), "variant"),
}


@pytest.mark.parametrize("what", mostly_long(OPENAI, every=2))
def test_a_damaged_file_of_the_service_is_one_line(what: str) -> None:
    words, problem = OPENAI[what]
    one_line("openai", *words(), problem=problem)


def one_line(origin: str, *words: str, problem: str) -> None:
    error = refused(origin, *words)
    assert problem in str(error)
    assert "\n" not in str(error)
    assert error.fix
    assert STAGING not in str(error)
    assert not Path("mine").exists()


USUAL: dict[str, Any] = {"base_model": "base", "adapter": "lora", "datasets": [{"path": "rows.jsonl"}]}


def axolotl(**fields: Any) -> str:
    lines("rows.jsonl", GOOD)
    return configured(**{**USUAL, **fields})


AXOLOTL: dict[str, tuple[Callable[[], str], str]] = {
    "no such file": (lambda: "gone.yaml", "no such file"),
    "an empty file": (lambda: raw("", "c.yaml"), "empty"),
    "a list": (lambda: raw("- a", "c.yaml"), "not a mapping"),
    "a tab": (lambda: raw("a:\n\tb: 1", "c.yaml"), "c.yaml:2"),
    "a key twice": (lambda: raw("a: 1\na: 2", "c.yaml"), "given twice"),
    "no data sets": (lambda: axolotl(datasets=None), "not a list of data sets"),
    "a data set that is a text": (lambda: axolotl(datasets=["rows.jsonl"]), "not an object"),
    "rows that are not there": (lambda: axolotl(datasets=[{"path": "gone.jsonl"}]), "datasets[0].path"),
    "rows without a path": (lambda: axolotl(datasets=[{"type": "alpaca"}]), "not the name of rows"),
    "no base": (lambda: axolotl(base_model=None), "no base that can be trained"),
    "a rate in words": (lambda: axolotl(learning_rate="high"), "not a number"),
    "epochs without end": (lambda: axolotl(num_epochs=math.inf, evals_per_epoch=2), "not a number"),
    "a split that is a number": (
        lambda: axolotl(datasets=[{"path": "rows.jsonl", "split": 5}]),
        "datasets[0]: split of a source here",
    ),
    "a column that is a list": (
        lambda: axolotl(datasets=[{"path": "rows.jsonl", "field_messages": [1]}]),
        "datasets[0]: fields.messages of a source here",
    ),
    "a rank past all bounds": (lambda: axolotl(lora_r=100_000), "method.rank here"),
    "a switch in words": (lambda: axolotl(sample_packing="perhaps"), "training.packing here"),
    "layers that are none": (lambda: axolotl(lora_target_modules=[1]), "not a list of names"),
    "rows in another form": (
        lambda: axolotl(datasets=[{"path": "rows.jsonl", "type": "alpaca"}]),
        "format alpaca needs it",
    ),
}


@pytest.mark.parametrize("what", mostly_long(AXOLOTL, every=2))
def test_a_damaged_configuration_of_axolotl_is_one_line(what: str) -> None:
    given, problem = AXOLOTL[what]
    one_line("axolotl", given(), problem=problem)


def llamafactory(info: str | None, **fields: Any) -> str:
    lines("data/rows.jsonl", GOOD)
    if info is not None:
        Path("data/dataset_info.json").write_text(info)
    return configured(**{"model_name_or_path": "base", "dataset": "mine", **fields})


INFO = json.dumps({"mine": {"file_name": "rows.jsonl", "formatting": "openai"}})
LLAMAFACTORY: dict[str, tuple[Callable[[], str], str]] = {
    "no data set": (lambda: llamafactory(INFO, dataset=None), "no row to train on"),
    "no dataset_info.json": (lambda: llamafactory(None), "no dataset_info.json there"),
    "half a dataset_info.json": (lambda: llamafactory('{"mine": '), "dataset_info.json:1: malformed JSON"),
    "a list in its place": (lambda: llamafactory("[]"), "not an object"),
    "an unknown data set": (lambda: llamafactory(INFO, dataset="yours"), "no such data set"),
    "a data set that is a text": (lambda: llamafactory('{"mine": "rows"}'), "not an object"),
    "columns that are none": (lambda: llamafactory('{"mine": {"columns": 3}}'), "not an object"),
    "a file that is not there": (lambda: llamafactory('{"mine": {"file_name": "x.json"}}'), "mine.file_name"),
    "a packing in words": (lambda: llamafactory(INFO, packing="some"), "not true or false"),
    "a folder that is a number": (lambda: llamafactory(INFO, dataset_dir=3), "not the name of a folder"),
}


@pytest.mark.parametrize("what", mostly_long(LLAMAFACTORY, every=2))
def test_a_damaged_configuration_of_llamafactory_is_one_line(what: str) -> None:
    given, problem = LLAMAFACTORY[what]
    one_line("llamafactory", given(), problem=problem)
