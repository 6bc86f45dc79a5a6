"""Of every document whose schema was raised, a stored sample of each older one is read by a test."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "ft_dagster"
INDEX = "audit/test_records.py::test_an_index_of_an_older_schema_is_made_again"
ALTERED = "audit/index/test_judged.py::test_an_upgrade_keeps_what_the_index_alone_knows_of_evaluations"
CORPUS = "compat/test_older_rows.py::test_a_run_upon_a_store_of_0_1_makes_a_mixture_with_its_records"
TABLE = (
    "automation/test_due_on_bad_days.py::"
    "test_a_table_of_an_older_version_is_made_again_and_asks_for_nothing_that_was_asked"
)
LOOKS = (
    "gate/test_sequential_looks.py::"
    "test_a_verdict_of_looks_is_read_as_it_was_written_and_any_other_is_written_as_before"
)
READERS = {  # file of the package -> test that reads samples, the oldest schema first
    "audit/index/index_file.py": [INDEX] * 5 + [ALTERED] * 3,
    "audit/proofs/proof_form.py": ["audit/test_questions.py::test_an_older_proof_of_absence_still_holds"],
    "data/rows/corpus.py": [CORPUS],
    "data/rows/dataset_figures.py": ["compat/test_old_data.py::test_rows_are_read_and_named_by_their_path"],
    "fleet/table/table.py": [TABLE] * 3,
    "lineage/entry.py": [
        "lineage/test_release_log.py::test_a_log_of_the_first_schema_is_still_read_and_goes_on",
        "compat/test_old_store.py::test_the_release_logs_tell_what_happened",
    ],
    "lineage/verdict.py": [
        "gate/test_gates.py::test_a_verdict_of_the_first_schema_is_read",
        "compat/test_old_store.py::test_what_a_failed_gate_said_is_read",
        LOOKS,
        "evaluation/test_loss_tail.py::test_a_verdict_with_a_tail_survives_json_and_one_of_before_is_read",
        "evaluation/test_loss_tail.py::test_a_verdict_with_a_tail_survives_json_and_one_of_before_is_read",
        "gate/test_call_scores.py::test_the_parts_are_stored_with_a_verdict_and_read_back",
    ],
    "planning/trials.py": [
        "planning/test_trials.py::test_a_probe_of_the_first_schema_is_read",
        "planning/test_trials.py::test_a_probe_of_the_second_schema_is_read",
    ],
}


def test_each_older_schema_has_a_test_that_reads_it() -> None:
    """Who raises a schema keeps a sample of the one before, and names its reader here."""
    older = dict[str, int]()
    for file in PACKAGE.rglob("*.py"):
        said = re.search(r"^SCHEMA_VERSION = (\d+)", file.read_text("utf-8"), re.MULTILINE)
        if said is not None and int(said[1]) > 1:
            older[file.relative_to(PACKAGE).as_posix()] = int(said[1]) - 1
    assert older == {name: len(readers) for name, readers in READERS.items()}


def test_those_tests_are_there() -> None:
    named = [reader.split("::") for readers in READERS.values() for reader in readers]
    assert [name for file, name in named if f"def {name}(" not in (TESTS / file).read_text("utf-8")] == []
