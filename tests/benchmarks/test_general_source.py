"""The ablation of general text: a result is named by what it is made from; the table has what is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.general_source import RULES, declaration, main, result_file, table
from ft_dagster.program import write_json
from ft_dagster.spec import VariantSpec

SCORES = {"test_split_task": (4.0, 2.0), "arc_easy_local": (0.5, 0.48), "sciq_local": (0.8, 0.7)}


def test_a_result_is_of_one_task_source_seed_and_number_of_questions(tmp_path: Path) -> None:
    cases = [("coder", "corpus", "0", 500), ("coder", "base", "0", 500), ("coder", "corpus", "1", 500)]
    cases += [("procedures", "corpus", "0", 500), ("coder", "corpus", "0", 100)]
    assert len({result_file(tmp_path, *case) for case in cases}) == len(cases)
    assert result_file(tmp_path, *cases[0]) == result_file(tmp_path, *cases[0])


def test_the_table_holds_the_mean_of_the_seeds_that_are_done_and_no_row_of_none(tmp_path: Path) -> None:
    assert set(SCORES) == set(RULES)
    for seed, tuned in (("0", 0.7), ("1", 0.6)):
        scores = {**SCORES, "sciq_local": (0.8, tuned)}
        write_json(result_file(tmp_path, "coder", "base", seed, 500), scores)
    *_, row = table(tmp_path, ["coder", "procedures"], ["0", "1", "2"], 500).splitlines()
    assert row == "| coder | base | 2 | 4.000 → 2.000 | 50.0% → 48.0% | 80.0% → 65.0% |"


def test_both_sources_are_declared_with_equal_shares() -> None:
    for source in ("corpus", "base"):
        general = VariantSpec.model_validate(yaml.safe_load(declaration("coder", source, 500))).data.general
        assert general is not None
        assert (general.share, general.share_of) == (0.1, "processed")
        assert (general.corpus is None) is (source == "base")


def asked(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    given = ["general_source.py", "--folder", str(folder / "project"), "--results", str(folder / "results")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets
    monkeypatch.setattr(sys, "argv", [*given, "--status", *more])
    return main()


def test_a_task_that_there_is_not_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="--tasks: poems: no such task"):
        asked(monkeypatch, tmp_path, "--tasks", "coder,poems")


def test_fresh_forgets_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(result_file(tmp_path / "results", "coder", "base", "0", 500), SCORES)
    for more, done in (((), 1), (("--fresh",), 0)):
        assert asked(monkeypatch, tmp_path, *more) == 0
        assert capsys.readouterr().out.startswith(f"{done} of 24 runs")
