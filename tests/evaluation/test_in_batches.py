"""The program asks batch after batch, and ends each task where its gate is decided."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.__main__ import main
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import SAMPLES, Sample, read_answers, read_samples
from ft_dagster.gate.sequential_looks import Order, batches
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import row, write_rows, write_run, write_task, write_texts

pytestmark = pytest.mark.slow
SEED = 4
# Wide margins, which the tiny model's answers decide early; the texts' losses are told apart by none.
GATES = GatesSpec(task_margin=1.0, general_margin=0.6, general_loss_margin=1.0)
COUNTS = {"forms": 150, "test_split_task": 100, "general_holdout": 90}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_task(folder, "forms", COUNTS["forms"], fewshot_split="test")
    write_rows(folder / "test.parquet", [row(n, "text" if n % 5 == 0 else "messages") for n in range(100)])
    write_texts(folder / "texts.parquet", COUNTS["general_holdout"])
    return folder


def ask(project: Path, name: str, base: Path, **more: Any) -> Path:
    asked = {
        "general": ["forms.yaml"],
        "test_split_task": {"test": project / "test.parquet", "max_new_tokens": 2},
        "general_holdout": project / "texts.parquet",
        "limit": "auto",
        "seed": SEED,
        "num_fewshot": 2,
        **more,
    }
    run = write_run(project / name, base, **asked)
    assert main(run) == 0
    return run / "output"


@pytest.fixture(scope="module")
def base(project: Path, tiny_model_folder: Path) -> Path:
    return ask(project, "base", tiny_model_folder)


@pytest.fixture(scope="module")
def tuned(project: Path, base: Path, tiny_model_folder: Path, trained_adapter: Path) -> Path:
    file = base / "payload" / SAMPLES
    before = {"path": str(file), "sha256": sha256_file(file)}
    until = {"before": before, "gates": GATES.model_dump(mode="json")}
    return ask(project, "tuned", tiny_model_folder, tuned=trained_adapter, until=until)


def questions(output: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for sample in read_samples(output / "payload"):
        found.setdefault(sample.task, set()).add(sample.question)
    return found


def test_the_base_is_asked_everything(base: Path) -> None:
    assert {task: len(asked) for task, asked in questions(base).items()} == COUNTS


def test_the_tuned_model_is_asked_the_first_batches_until_each_rule_is_decided(
    base: Path, tuned: Path
) -> None:
    order = Order.of(read_samples(base / "payload"), SEED)
    asked = questions(tuned)
    for (_, task), whole in order.questions.items():
        assert len(asked[task]) in batches(len(whole))
        assert asked[task] == set(whole[: len(asked[task])])
    assert len(asked["forms"]) < COUNTS["forms"]
    verdict = judge(read_samples(base / "payload"), read_samples(tuned / "payload"), GATES, order=order)
    assert {rule.task for rule in verdict.rules} == COUNTS.keys()


def test_each_question_is_asked_once_and_as_the_base_was_asked_it(base: Path, tuned: Path) -> None:
    """With the same examples before it, which are drawn at random."""
    before, after = (
        {(a.task, a.question): (a.asked, a.expected) for a in read_answers(output / "evidence")}
        for output in (base, tuned)
    )
    assert after == {key: before[key] for key in after}
    forms = [asked for (task, _), (asked, _) in after.items() if task == "forms"]
    assert {text.count("Answer:") for text in forms} == {3}
    assert len({text.split("\n\n")[0] for text in forms}) > 10
    assert set(Counter(s[:4] for s in read_samples(tuned / "payload")).values()) == {1}


def test_asked_in_batches_a_question_has_the_value_that_it_has_in_one_draw(
    project: Path, base: Path, tiny_model_folder: Path
) -> None:
    whole = ask(project, "whole", tiny_model_folder, limit=None, general=[])

    def own(output: Path) -> dict[tuple[str, ...], Sample]:
        return {s[:4]: s for s in read_samples(output / "payload") if s.role != "general"}

    one, other = own(whole), own(base)
    assert one.keys() == other.keys()
    for key, sample in one.items():
        assert other[key].value == pytest.approx(sample.value, abs=1e-4)


def test_progress_counts_what_was_asked(tuned: Path) -> None:
    progress = json.loads((tuned / "progress.json").read_text())
    assert progress["done"] == progress["total"] == sum(map(len, questions(tuned).values()))
    result = json.loads((tuned / "result.json").read_text())
    assert result["figures"]["questions"] == progress["total"]
    assert result["figures"]["measured"]["limit"] == "auto"
