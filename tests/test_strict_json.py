"""What the programs write is JSON to every reader."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ft_dagster.program import write_json
from ft_dagster.store import Store
from ft_dagster.strict_json import dumps, restored, tagged, untagged
from ft_dagster.training.journal import Journal, StepLog

FIGURES = {
    "loss": math.inf, "best": -math.inf, "step": 3, "curve": [1.0, math.nan], "deep": {"x": math.nan, "y": 1},
}  # fmt: skip
STRICT = {
    "loss": None, "best": None, "step": 3, "curve": [1.0, None],
    "not_finite": {"loss": "inf", "best": "-inf", "curve": {"1": "nan"}},
    "deep": {"x": None, "y": 1, "not_finite": {"x": "nan"}},
}  # fmt: skip


def strictly(text: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_number_that_is_not_finite_is_null_and_named_beside_it(tmp_path: Path) -> None:
    assert strictly(dumps(FIGURES)) == STRICT
    write_json(tmp_path / "a.json", FIGURES)
    assert strictly((tmp_path / "a.json").read_text()) == STRICT
    store = Store(str(tmp_path))
    store.write_json("b.json", FIGURES)
    assert strictly((tmp_path / "b.json").read_text()) == STRICT


@pytest.mark.parametrize(
    "content", [FIGURES, {"curves": [[[1.0, math.inf], 2], {"x": [math.nan]}]}, {"a": [None]}]
)
def test_what_was_not_finite_is_put_back_where_it_was(content: Any) -> None:
    assert repr(restored(strictly(dumps(content)))) == repr(content)


def test_finite_content_is_written_as_json_writes_it() -> None:
    content = {"b": [1, 2.5, "ü", None, True], "a": {}}
    assert dumps(content, indent=1, sort_keys=True) == json.dumps(content, indent=1, sort_keys=True)


def test_the_log_of_a_training_is_strict_json_and_the_journal_reads_back(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.jsonl", 0)
    log.write({"step": 1, "validation_loss": math.nan})
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert strictly(line) == {
        "step": 1, "validation_loss": None, "not_finite": {"validation_loss": "nan"},
    }  # fmt: skip
    journal = Journal([1, 0], losses=[2.0], evaluations={"validation": {0: 3.0, 4: math.inf, 8: math.nan}})
    journal.save(tmp_path)
    strictly((tmp_path / "journal.json").read_text())
    again = Journal.load(tmp_path)
    assert again.losses == [2.0]
    assert repr(again.evaluations) == "{'validation': {0: 3.0, 4: inf, 8: nan}}"


def test_a_model_configuration_keeps_its_infinities_as_transformers_reads_them(tmp_path: Path) -> None:
    from transformers import PretrainedConfig

    config = json.loads('{"time_step_limit": [0.0, Infinity], "low": -Infinity, "hidden_size": 8}')
    file = tmp_path / "config.json"
    file.write_text(dumps(tagged(config)))
    strictly(file.read_text())
    read = PretrainedConfig.from_json_file(file)
    assert (read.low, list(read.time_step_limit), read.hidden_size) == (-math.inf, [0.0, math.inf], 8)
    assert untagged(json.loads(file.read_text())) == config
