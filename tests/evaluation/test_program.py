"""Real runs of both programs on the tiny model."""

import json
import math
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.models.greedy import write_all
from ft_dagster.evaluation.tasks import texts
from ft_dagster.evaluation.tasks.load import load_task
from ft_dagster.evaluation.tasks.questions import metrics_of
from ft_dagster.evaluation.tasks.tasks import resolve_tasks, tasks_digest
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import read_answers, read_samples
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.payloads import make_payload
from tests.evaluation.questions import CHOICES, row, write_rows, write_run, write_task, write_texts
from tests.long import mostly_long
from tests.programs import RunningProgram

pytestmark = pytest.mark.slow


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "output" / "result.json").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_task(folder, "forms", 30)
    write_task(folder, "exam", 20)
    rows = [{**row(n), "group": f"document {n // 2}"} for n in range(20)]
    write_rows(folder / "test.parquet", rows + [row(n, "text") for n in range(4)])
    write_texts(folder / "texts.parquet", 20)
    return folder


@pytest.fixture(scope="module")
def asked(project: Path) -> dict[str, Any]:
    return {
        "general": ["forms.yaml"],
        "task": ["exam.yaml"],
        "test_split_task": {"test": project / "test.parquet", "max_new_tokens": 6, "train_on": "completions"},
        "general_holdout": project / "texts.parquet",
        "limit": 12,
        "seed": 0,
        "num_fewshot": None,
    }


@pytest.fixture(scope="module")
def base_run(project: Path, asked: dict[str, Any], tiny_model_folder: Path) -> Path:
    run = write_run(project / "base", tiny_model_folder, **asked)
    assert main(run) == 0
    return run


@pytest.fixture(scope="module")
def tuned_run(project: Path, asked: dict[str, Any], tiny_model_folder: Path, trained_adapter: Path) -> Path:
    run = write_run(project / "tuned", tiny_model_folder, **asked, tuned=trained_adapter)
    assert main(run) == 0
    return run


def test_every_role_is_measured(base_run: Path) -> None:
    found = {(s.role, s.task, s.metric) for s in read_samples(base_run / "output" / "payload")}
    assert found == {
        ("general", "forms", "acc"),
        ("general", "forms", "acc_norm"),
        ("task", "exam", "acc"),
        ("task", "exam", "acc_norm"),
        ("test_split_task", "test_split_task", "completion_loss"),
        ("test_split_task", "test_split_task", "exact_match"),
        ("test_split_task", "test_split_task", "token_f1"),
        ("general_loss", "general_holdout", "general_loss"),
    }


def test_each_task_is_asked_as_many_questions_as_the_limit_and_general_text_is_read_beyond_it(
    base_run: Path,
) -> None:
    samples = read_samples(base_run / "output" / "payload")
    counted = Counter((s.role, s.metric) for s in samples)
    assert counted.pop(("general_loss", "general_loss")) == 20
    assert {counted[key] for key in counted if key[1] not in ("exact_match", "token_f1")} == {12}


def test_questions_of_one_group_are_known_as_such(base_run: Path) -> None:
    groups: dict[str, set[str | None]] = {}
    for sample in read_samples(base_run / "output" / "payload"):
        groups.setdefault(sample.role, set()).add(sample.group)
    assert len(groups["test_split_task"] - {None}) > 1
    assert groups["test_split_task"] <= {None, *(f"document {n}" for n in range(10))}
    assert groups["task"] == groups["general"] == {None}


def test_questions_keep_their_names_where_they_are_moved(
    base_run: Path, project: Path, asked: dict[str, Any], tiny_model_folder: Path
) -> None:
    task = write_task(project, "exam_moved", 20)
    lines = task.with_suffix(".jsonl").read_text().splitlines()
    new = {"question": "One more?", "choices": CHOICES, "gold": 1}
    task.with_suffix(".jsonl").write_text("\n".join([json.dumps(new), *reversed(lines)]) + "\n")
    rows = [row(99), *reversed(pq.read_table(project / "test.parquet").to_pylist())]
    write_rows(project / "moved.parquet", rows)
    own = {**asked["test_split_task"], "test": project / "moved.parquet"}
    every = {"task": ["exam_moved.yaml"], "test_split_task": own, "limit": None}
    run = write_run(project / "moved", tiny_model_folder, **every)
    assert main(run) == 0
    after = {s.question.replace("exam_moved", "exam") for s in read_samples(run / "output" / "payload")}
    before = read_samples(base_run / "output" / "payload")
    assert {s.question for s in before if s.role in ("task", "test_split_task")} <= after


def test_base_and_tuned_are_asked_the_same_questions(base_run: Path, tuned_run: Path) -> None:
    base, tuned = (
        {(s.role, s.task, s.metric, s.question, s.weight) for s in read_samples(run / "output" / "payload")}
        for run in (base_run, tuned_run)
    )
    assert base == tuned


def test_the_tuned_model_gives_other_scores(base_run: Path, tuned_run: Path) -> None:
    base, tuned = (read_samples(run / "output" / "payload") for run in (base_run, tuned_run))
    assert [s.value for s in base] != [s.value for s in tuned]


def test_what_training_changed_is_a_figure(base_run: Path, tuned_run: Path) -> None:
    assert result_of(tuned_run)["figures"]["tuned_logit_difference"] > 0.1
    assert "tuned_logit_difference" not in result_of(base_run)["figures"]


@pytest.mark.parametrize("kind", mostly_long(["full", "nf4", "prefix"], ["full"]))
def test_trained_weights_of_every_kind_are_asked_what_the_base_was_asked(
    project: Path, asked: dict[str, Any], base_run: Path, tiny_model_folder: Path, kind: str
) -> None:
    weights = make_payload(kind, tiny_model_folder, project / f"weights-{kind}")
    run = write_run(project / kind, tiny_model_folder, **asked, tuned=weights)
    assert main(run) == 0
    assert result_of(run)["figures"]["tuned_logit_difference"] > 0
    base, tuned = (read_samples(each / "output" / "payload") for each in (base_run, run))
    assert [s[:4] for s in base] == [s[:4] for s in tuned]
    assert [s.value for s in base] != [s.value for s in tuned]


def test_the_runs_can_be_judged(base_run: Path, tuned_run: Path) -> None:
    base, tuned = (read_samples(run / "output" / "payload") for run in (base_run, tuned_run))
    rules = {(rule.rule, rule.task, rule.metric) for rule in judge(base, tuned, GatesSpec()).rules}
    assert rules == {
        ("task", "exam", "acc_norm"),
        ("task", "test_split_task", "completion_loss"),
        ("general_benchmark", "forms", "acc_norm"),
        ("general_loss", "general_holdout", "general_loss"),
    }


def test_losses_match_a_forward_pass(
    base_run: Path, project: Path, tiny_model_folder: Path, tiny_tokenizer: Any
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from ft_dagster.data.rendering.render import render
    from ft_dagster.data.rows.content import question_ids
    from ft_dagster.data.rows.dataset_io import read_split

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    rows = list(read_split(project / "test.parquet"))
    by_id = dict(zip(question_ids([given.identity for given in rows]), rows, strict=True))
    losses = [s for s in read_samples(base_run / "output" / "payload") if s.metric == "completion_loss"]
    for sample in losses:
        given = by_id[sample.question.removeprefix("test_split_task:")]
        if given.kind == "text":
            continue
        rendered = render(given, tiny_tokenizer)
        start, end = rendered.spans[-1]
        ids = torch.tensor([rendered.input_ids[:end]])
        with torch.no_grad():
            likely = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        wanted = [-likely[at - 1, ids[0, at]].item() for at in range(start, end)]
        assert sample.weight == end - start
        assert sample.value == pytest.approx(math.fsum(wanted) / len(wanted), abs=1e-4)


def test_scores_are_the_weighted_means_of_the_samples(base_run: Path) -> None:
    payload = base_run / "output" / "payload"
    scores = json.loads((payload / "scores.json").read_text())["scores"]
    samples = read_samples(payload)
    for score in scores:
        of = [
            s
            for s in samples
            if (s.role, s.task, s.metric) == (score["role"], score["task"], score["metric"])
        ]
        assert score["questions"] == len(of)
        assert score["value"] == pytest.approx(
            sum(s.value * s.weight for s in of) / sum(s.weight for s in of)
        )


def test_the_answers_are_kept_in_words(base_run: Path) -> None:
    answers = read_answers(base_run / "output" / "evidence")
    forms = [answer for answer in answers if answer.task == "forms"]
    assert all(answer.asked.startswith("Question ") for answer in forms)
    assert {answer.expected for answer in forms} <= set(CHOICES)
    assert any(
        "Close it with glass" in answer.expected for answer in answers if answer.role == "test_split_task"
    )


def test_progress_ends_with_every_question_done(base_run: Path) -> None:
    progress = json.loads((base_run / "output" / "progress.json").read_text())
    assert progress["done"] == progress["total"] == 3 * 12 + 20


def test_an_adapter_that_changes_nothing_is_refused(
    project: Path,
    asked: dict[str, Any],
    tiny_model_folder: Path,
    untrained_adapter: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_run(project / "untrained", tiny_model_folder, **asked, tuned=untrained_adapter)
    assert main(run) == 2
    assert "the training changed nothing" in result_of(run)["error"]["problem"]
    assert "Traceback" not in capsys.readouterr().err


def test_an_adapter_of_another_model_is_refused(
    project: Path, asked: dict[str, Any], tiny_model_folder: Path, trained_adapter: Path, tmp_path: Path
) -> None:
    import safetensors.torch

    for file in trained_adapter.glob("adapter_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    wider = {name: tensor.new_zeros(*(size + 1 for size in tensor.shape)) for name, tensor in weights.items()}
    safetensors.torch.save_file(wider, tmp_path / "adapter_model.safetensors")
    run = write_run(project / "other", tiny_model_folder, **asked, tuned=tmp_path)
    assert main(run) == 2
    assert "does not fit the base" in result_of(run)["error"]["problem"]


def test_a_folder_without_trained_weights_is_refused(
    project: Path, asked: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    run = write_run(project / "none", tiny_model_folder, **asked, tuned=tmp_path)
    assert main(run) == 2
    assert "not trained weights" in result_of(run)["error"]["problem"]


def test_an_unknown_task_is_one_line_and_exit_code_2(project: Path, tiny_model_folder: Path) -> None:
    run = write_run(project / "unknown", tiny_model_folder, general=["arc_eazy"])
    program = RunningProgram("evaluation", run)
    assert program.wait() == 2
    said, _ = program.communicate()
    assert said.count("\n") == 1
    assert "arc_easy" in said


def test_a_wrong_field_of_the_request_is_named(
    project: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(write_run(project / "wrong", tiny_model_folder, limit=0)) == 2
    assert "limit" in capsys.readouterr().err


def test_a_task_whose_data_cannot_be_read_is_refused(project: Path, tiny_model_folder: Path) -> None:
    file = write_task(project, "broken")
    file.with_suffix(".jsonl").write_text("no json\n")
    run = write_run(project / "broken-run", tiny_model_folder, general=["broken.yaml"])
    assert main(run) == 2
    assert "lm-eval cannot load the task" in result_of(run)["error"]["problem"]


def test_asking_nothing_leaves_empty_tables(project: Path, tiny_model_folder: Path) -> None:
    run = write_run(project / "nothing", tiny_model_folder)
    assert main(run) == 0
    assert read_samples(run / "output" / "payload") == []


@pytest.mark.long
def test_a_terminated_run_says_it_was_preempted(project: Path, tiny_model_folder: Path) -> None:
    write_task(project, "endless", 20_000)
    run = write_run(project / "stopped", tiny_model_folder, general=["endless.yaml"], limit=None)
    program = RunningProgram("evaluation", run)
    while not (run / "output" / "progress.json").exists() and program.poll() is None:
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    assert program.wait() == 75
    assert not (run / "output" / "result.json").exists()


def test_the_texts_of_all_documents_are_written(project: Path, tmp_path: Path) -> None:
    run = {
        "tasks": tasks_digest(["exam.yaml"], project),
        "project": str(project),
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert texts.main(tmp_path) == 0
    rows = pq.read_table(tmp_path / "out" / "payload" / "texts.parquet").to_pylist()
    assert len(rows) == 20
    assert {row["task"] for row in rows} == {"exam"}
    bare = "which documents must i bring to open account 19"
    assert f"question 19 {bare}" in rows[19]["questions"]
    assert rows[1]["answers"] == ["a passport and the form"]
    figures = json.loads((tmp_path / "out" / "result.json").read_text())["figures"]
    assert figures == {
        "questions": 20,
        "by_task": {"exam": 20},
        "metrics": {"exam": ["acc", "acc_norm"]},
        "examples": {"exam": [{"sampler": "default", "num_fewshot": None}]},
    }


def test_texts_written_without_spaces_are_told_from_a_template_that_touches_them(tmp_path: Path) -> None:
    facts = [f"{number}号城市建筑法" for number in "一二三四五六七八九十"]
    lines = [json.dumps({"fact": fact, "right": "下列各项"}) for fact in facts]
    (tmp_path / "law.jsonl").write_text("\n".join(lines) + "\n")
    asked: dict[str, Any] = {
        **ANSWERED,
        "dataset_kwargs": {"data_files": {"test": "law.jsonl"}},
        "doc_to_text": "请回答关于{{fact}}的问题",
        "doc_to_target": "{{right}}",
        "doc_to_choice": None,
        "metric_list": [{"metric": "exact_match"}],
    }
    write_task(tmp_path, "exam", **asked)
    run = {"tasks": tasks_digest(["exam.yaml"], tmp_path), "project": str(tmp_path)}
    (tmp_path / "run.json").write_text(json.dumps({**run, "output": str(tmp_path / "out")}))
    assert texts.main(tmp_path) == 0
    rows = pq.read_table(tmp_path / "out" / "payload" / "texts.parquet").to_pylist()
    assert rows[0]["questions"] == ["一", "一 号 城 市 建 筑 法"]
    assert rows[0]["answers"] == ["下 列 各 项"]


ANSWERED = {"output_type": "generate_until", "generation_kwargs": {"until": ["\n"]}}


@pytest.mark.parametrize(
    ("changes", "metrics"),
    [
        ({}, ["acc", "acc_norm"]),
        (
            {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "byte_perplexity"}]},
            ["byte_loss"],
        ),
        ({**ANSWERED, "metric_list": [{"metric": "exact_match"}]}, ["exact_match"]),
        (
            {
                **ANSWERED,
                "metric_list": [{"metric": "exact_match"}],
                "filter_list": [
                    {"name": name, "filter": [{"function": "take_first"}]} for name in ("first", "none")
                ],
            },
            ["exact_match,first", "exact_match"],
        ),
        ({**ANSWERED, "metric_list": [{"metric": "chrf"}]}, None),
    ],
    ids=["choices", "a loss", "an answer", "filters", "what a function gives"],
)
def test_the_metrics_of_a_task_are_known_unless_a_function_says_them(
    tmp_path: Path, changes: dict[str, Any], metrics: list[str] | None
) -> None:
    write_task(tmp_path, "exam", 4, **changes)
    [entry] = resolve_tasks(["exam.yaml"], tmp_path)
    [part] = load_task(entry, tmp_path / "tables").parts.values()
    assert metrics_of(part) == metrics
    part.config.metric_list = [{"metric": len}]
    assert metrics_of(part) is None
    part.config.metric_list, part.config.process_results = None, lambda doc, answers: {"mine": 1.0}
    assert metrics_of(part) is None


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Where each answer ends that is written meanwhile."""
    found: list[set[int]] = []

    def noted(model: Any, rows: Any, *options: Any) -> Any:
        found.extend(set(row.ends) for row in rows)
        return write_all(model, rows, *options)

    monkeypatch.setattr("ft_dagster.evaluation.models.model.write_all", noted)
    return found


def test_whatever_else_is_asked_answers_end_at_the_same_tokens(
    project: Path, asked: dict[str, Any], base_of_two_ends: Path, tmp_path: Path, ends: list[set[int]]
) -> None:
    """A base is asked what is general alone, and its tuned model with the own task, by one rule."""
    general = {**asked, "task": (), "limit": 4, "general_prompts": True}
    alone = {**general, "test_split_task": None}
    runs = [
        write_run(tmp_path / name, base_of_two_ends, project=project, **parts)
        for name, parts in (("general", alone), ("all", general))
    ]
    assert [main(run) for run in runs] == [0, 0]
    tokens = ["<|endoftext|>", "<|im_end|>"]
    tokenizer = load_tokenizer(base_of_two_ends)
    assert {frozenset(each) for each in ends} == {frozenset(tokenizer.convert_tokens_to_ids(tokens))}
    assert [result_of(run)["figures"]["chat"] for run in runs] == [{"ends": tokens}] * 2


def test_a_base_that_ends_its_turns_with_eos_says_nothing_of_it(base_run: Path) -> None:
    assert "chat" not in result_of(base_run)["figures"]
