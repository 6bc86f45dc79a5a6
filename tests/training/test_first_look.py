"""The first look of a training is that of its base: taken from what another training kept, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.training.contract import read_run
from ft_dagster.training.watch import held_out
from ft_dagster.training.watch.first_look import FirstLooks, first_looks
from tests.programs import RunningProgram
from tests.training.runs import Runs, payload_bytes, result_of, train

WHAT = {"loss": "a" * 64}
pytestmark = pytest.mark.slow


def kept_in(run_folder: Path, folder: Path) -> Path:
    """The run with a folder for first looks."""
    file = run_folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "first_looks": str(folder)}))
    return run_folder


def first_lines(run_folder: Path) -> list[dict[str, Any]]:
    log = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, log) if line["step"] == 0 and "peak_memory_bytes" not in line]


def measured(run_folder: Path) -> int:
    return int(result_of(run_folder)["figures"]["measured_tokens"])


def flops(run_folder: Path) -> int:
    return int(result_of(run_folder)["figures"]["flops"])


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_next_training_of_the_base_takes_it_and_comes_out_the_same(
    runs: Runs, tmp_path: Path, precision: str
) -> None:
    folder, training = tmp_path / "looks", {"precision": precision}
    alone = runs.prepare("alone", training=training)
    first, second = (kept_in(runs.prepare(name, training=training), folder) for name in ("first", "second"))
    method = {"rank": 2, "alpha": 64.0, "dropout": 0.0, "target_modules": ["q_proj"]}
    other = kept_in(runs.prepare("other", training=training, method=method), folder)
    elsewhere = runs.prepare("elsewhere", training=training, method=method)
    assert train(elsewhere) == 0
    assert [train(each) for each in (alone, first, second, other)] == [0] * 4
    assert payload_bytes(alone) == payload_bytes(first) == payload_bytes(second)
    assert payload_bytes(other) == payload_bytes(elsewhere)
    assert first_lines(alone) == first_lines(elsewhere)
    assert first_lines(alone) == first_lines(first) == first_lines(second) == first_lines(other)
    assert measured(alone) == measured(first) > measured(second) == measured(other)
    assert flops(alone) == flops(first) == flops(second) > 0
    assert flops(other) == flops(elsewhere) != flops(first)
    kept = [json.loads(file.read_text())["asked"].keys() - {"base"} for file in folder.glob("*.json")]
    losses = [["loss", "shapes"]] * 2
    assert sorted(map(sorted, kept)) == [["flops"], ["flops"], *losses, ["prompts", "tokens"]]


@pytest.mark.parametrize("method", [{"name": "prompt_tuning", "num_virtual_tokens": 4}])
def test_a_soft_prompt_has_a_first_look_of_its_own(
    runs: Runs, tmp_path: Path, method: dict[str, Any]
) -> None:
    run_folder = kept_in(runs.prepare(method=method), tmp_path / "looks")
    assert train(run_folder) == 0
    assert not (tmp_path / "looks").exists()


@pytest.mark.parametrize(
    "changed",
    [{"training": {"precision": "bf16"}}, {"method": {"name": "full"}}, {"method": {"use_dora": True}}],
)
def test_another_arithmetic_is_another_look(runs: Runs, tmp_path: Path, changed: dict[str, Any]) -> None:
    plain = kept_in(runs.prepare("plain"), tmp_path / "looks")
    other = kept_in(runs.prepare("other", **changed), tmp_path / "looks")
    looks = [first_looks(run, run.members[0]) for run in map(read_run, (plain, other))]
    looks[0].write(WHAT, 2.5)
    assert [each.read(WHAT) for each in looks] == [2.5, None]


def test_answers_by_other_rules_of_a_chat_are_another_look(runs: Runs, tmp_path: Path) -> None:
    run = read_run(kept_in(runs.prepare(), tmp_path / "looks"))
    plain, same, other = (first_looks(run, run.members[0], chat) for chat in (None, {}, {"date": "today"}))
    plain.write(WHAT, 2.5)
    assert [each.read(WHAT) for each in (same, other)] == [2.5, None]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"value": 2.5}', '{"value": 2.5, "sha256": "b"}']
)
def test_a_damaged_one_counts_for_nothing(tmp_path: Path, content: str) -> None:
    looks = FirstLooks(tmp_path, {"base": "b" * 64})
    looks.write(WHAT, 2.5)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert looks.read(WHAT) is None
    looks.write(WHAT, 2.5)
    assert looks.read(WHAT) == 2.5


def test_a_value_that_was_changed_counts_for_nothing(tmp_path: Path) -> None:
    looks = FirstLooks(tmp_path, {"base": "b" * 64})
    looks.write(WHAT, 2.5)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace("2.5", "2.6"))
    assert looks.read(WHAT) is None


def test_what_is_not_finite_or_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    looks = FirstLooks(tmp_path / "looks", {})
    looks.write(WHAT, float("nan"))
    assert looks.read(WHAT) is None
    (tmp_path / "file").touch()
    nowhere = FirstLooks(tmp_path / "file", {})
    nowhere.write(WHAT, 2.5)
    assert nowhere.read(WHAT) is None


def test_other_micro_batches_are_another_look(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole logits leave room for four rows of 32 or 40 tokens, and for two of 80."""
    folder = tmp_path / "looks"
    vocabulary = json.loads((runs.base / "config.json").read_text())["vocab_size"]
    monkeypatch.setattr(held_out, "LOGIT_BYTES", 4 * vocabulary * 4 * 40)
    training = {"packing": False, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    found = []
    for length in (40, 32, 80):
        run_folder = runs.prepare(str(length), training={**training, "max_length": length})
        assert train(kept_in(run_folder, folder)) == 0
        asked = [json.loads(file.read_text())["asked"] for file in folder.glob("*.json")]
        found.append((sum("loss" in each for each in asked), sum("prompts" in each for each in asked)))
    assert found == [(2, 1), (2, 1), (4, 1)]


@pytest.mark.long
def test_two_trainings_at_once_keep_the_same(
    runs: Runs, tmp_path: Path, start: Callable[..., RunningProgram]
) -> None:
    folder = tmp_path / "looks"
    both = [kept_in(runs.prepare(name), folder) for name in ("one", "other")]
    processes = [start(each) for each in both]
    for process in processes:
        _, complained = process.communicate()
        assert process.returncode == 0, complained
    assert payload_bytes(both[0]) == payload_bytes(both[1])
    assert first_lines(both[0]) == first_lines(both[1])
    third = kept_in(runs.prepare("third"), folder)
    last = start(third)
    last.communicate()
    assert last.returncode == 0
    assert measured(third) < max(map(measured, both))
    assert not list(folder.glob(".*"))  # no draft is left
