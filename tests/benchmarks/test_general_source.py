"""The ablation of general text: a result is named by what it is made from; the table has what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import general_source, project
from benchmarks.general_source import GENERAL_LOSS, RULES, main, result_file, table
from ft_dagster.program import write_json
from tests.e2e.project import GENERAL, TASK, questions, rows, write_lines, write_yaml
from tests.taught import teach

SCORES = {
    "test_split_task": (4.0, 2.0),
    "arc_easy_local": (0.5, 0.48),
    "sciq_local": (0.8, 0.7),
    "general_loss": (3.0, 3.1),
}


def test_the_table_holds_the_mean_of_the_seeds_that_are_done_and_no_row_of_none(tmp_path: Path) -> None:
    assert set(SCORES) == {*RULES, GENERAL_LOSS}
    for seed, tuned in (("0", 0.7), ("1", 0.6)):
        scores = {**SCORES, "sciq_local": (0.8, tuned), "general_loss": (3.0, 2.5 + tuned)}
        write_json(result_file(tmp_path, "coder", "base", seed, 500), scores)
    *_, row = table(tmp_path, ["coder", "procedures"], ["0", "1", "2"], 500).splitlines()
    assert row == "| coder | base | 2 | 4.000 → 2.000 | 3.000 → 3.150 | 50.0% → 48.0% | 80.0% → 65.0% |"


def asked(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    given = ["general_source.py", "--folder", str(folder / "project"), "--results", str(folder / "results")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets
    monkeypatch.setattr(sys, "argv", [*given, *more])
    return main()


def small_demo(folder: Path, model: Path) -> Path:
    """The parts of the demo that are read here, on a tiny base that writes words."""
    teach(model, folder / "models/smollm2-135m")
    chats = [
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in rows()
    ]
    write_lines(folder / "data/meditech/icd-coder.jsonl", [{"messages": chat} for chat in chats])
    write_lines(folder / "data/general.jsonl", [{"text": text} for text in GENERAL])
    corpus = {"description": "sea stories", "sources": ["data/general.jsonl"], "holdout": 0.2}
    write_yaml(folder / "corpora/general.yaml", corpus)
    write_lines(folder / "tasks/quiz.jsonl", questions())
    for name in ("arc_easy_local", "sciq_local"):
        write_yaml(folder / f"tasks/{name}.yaml", {**TASK, "task": name})
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_adapters_of_both_sources_are_measured_on_the_same_text_and_a_call_goes_on(
    tmp_path: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo = small_demo(tmp_path / "demo", tiny_model_folder)
    monkeypatch.setattr(general_source, "DEMO", demo)
    settings = {"sources": {"allow": [".", str(demo)]}, "host": {"lock_folder": str(tmp_path / "leases")}}
    monkeypatch.setattr(project, "SETTINGS", yaml.safe_dump(settings))
    run = ("--tasks", "coder", "--seeds", "0", "--questions", "10")  # of 30: an experiment asks others
    assert asked(monkeypatch, tmp_path, *run) == 0
    assert "2 of 2 runs" in capsys.readouterr().out
    files = [result_file(tmp_path / "results", "coder", source, "0", 10) for source in ("corpus", "base")]
    corpus, base = (json.loads(file.read_text("utf-8")) for file in files)
    assert corpus[GENERAL_LOSS][0] == base[GENERAL_LOSS][0]
    assert len({corpus[GENERAL_LOSS][0], corpus[GENERAL_LOSS][1], base[GENERAL_LOSS][1]}) == 3
    files[1].unlink()
    assert asked(monkeypatch, tmp_path, *run) == 0
    assert json.loads(files[1].read_text("utf-8")) == base
