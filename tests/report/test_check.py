"""`ft-dagster check` reads all that a declaration names, and says every mistake of it at once."""

import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app, main
from ft_dagster.data.rows.splits import position_of, split_at
from ft_dagster.errors import UserError, all_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.spec.data import SplitsSpec
from ft_dagster.versions.check import check_variant
from tests.chat_templates import CALLS_AND_THOUGHTS

pytestmark = pytest.mark.slow

KEY = VariantKey("acme", "support")
ROWS = "".join(f'{{"prompt": "question {number}", "completion": "an answer"}}\n' for number in range(9))
TEXT = """\
description: answers support questions
owners: [ml@acme.example]
base_model: model
data: {sources: [rows.jsonl], general: {corpus: g}, splits: {minimum: 1}}
evaluation: {general: [], task: [tasks/quiz.yaml]}
"""
TASK = 'task: quiz\ndataset_path: json\ndataset_kwargs: {data_files: {test: q.jsonl}}\ndoc_to_text: "{{q}}"\n'


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Path:
    for folder in ("tenants/acme", "corpora", "tasks"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    files = {
        "tenants/acme/support.yaml": TEXT,
        "rows.jsonl": ROWS,
        "text.jsonl": '{"text": "some general words"}\n' * 9,
        "corpora/g.yaml": "description: g\nsources: [text.jsonl]\n",
        "tasks/quiz.yaml": TASK,
        "tasks/q.jsonl": '{"q": "a", "a": "b"}\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def mistakes(project: Path) -> list[UserError]:
    try:
        check_variant(load_settings(project), KEY)
    except UserError as error:
        return list(all_of(error))
    return []


def test_a_whole_declaration_has_no_mistake(project: Path) -> None:
    assert check_variant(load_settings(project), KEY)["tasks"] == ["tasks/quiz.yaml"]


LISTED = "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
METRICS = {
    "acc_norm": (LISTED, "quiz", "acc_norm", ""),
    "a metric that it has not": (LISTED, "quiz", "bleu", "no such metric per question.*has: acc, acc_norm"),
    "of a filter": (f"{LISTED}filter_list: [{{name: first}}]\n", "quiz", "acc,first", ""),
    "not of a filter": (f"{LISTED}filter_list: [{{name: first}}]\n", "quiz", "acc", "has: acc,first"),
    "not listed": ("", "quiz", "bleu", ""),
    "of a function": (f"{LISTED}process_results: !function own.scores\n", "quiz", "mine", ""),
    "of what is answered": ("output_type: generate_until\nmetric_list: [{metric: f1}]\n", "quiz", "x", ""),
    "of lm-eval's own": ("", "sciq", "bleu", "no such metric per question.*has: acc, acc_norm"),
    "a task that is not asked": (LISTED, "riddle", "acc", "no such task is asked.*Asked are: quiz"),
    "the test split": (LISTED, "test_split_task", "acc", "no such task is asked"),
    "general text": (LISTED, "general_holdout", "general_loss", ""),
    "no list": ("metric_list: 5\n", "quiz", "acc", ""),
}


@pytest.mark.parametrize("case", METRICS)
def test_a_gate_on_a_metric_that_its_task_does_not_list_is_a_mistake(project: Path, case: str) -> None:
    more, task, metric, said = METRICS[case]
    (project / "tasks/quiz.yaml").write_text(TASK + more)
    (project / "tasks/own.py").write_text("def scores(doc, results):\n    return {}\n")
    (project / "ft_dagster.yaml").write_text("evaluation: {functions: [tasks/own.py]}\n")
    asked = TEXT.replace("general: []", "general: [sciq]") if task == "sciq" else TEXT
    (project / "tenants/acme/support.yaml").write_text(f"{asked}gates: {{metrics: {{{task}: '{metric}'}}}}\n")
    found = mistakes(project)
    assert len(found) == bool(said)
    for error in found:
        assert error.field == f"gates.metrics.{task}"
        assert re.search(said, str(error))


def test_a_base_that_lacks_a_tensor_is_a_mistake_and_one_that_has_more_says_so(project: Path) -> None:
    file = project / "model/config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**config, "num_hidden_layers": 1}), "utf-8")
    said = check_variant(load_settings(project), KEY)["base_model"]
    assert said == (
        "LlamaForCausalLM (its class has no place for model.layers.1.input_layernorm.weight and 8 more of "
        "its files: left out)"
    )
    file.write_text(json.dumps({**config, "num_hidden_layers": 20}), "utf-8")
    (error,) = mistakes(project)
    assert (error.field, error.value) == ("base_model.source", "model.layers.2.input_layernorm.weight")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (
            "",
            "train, it is learned with its answer (built in; a template that writes none refuses such rows)",
        ),
        ("reasoning: train, ", "train, it is learned with its answer (declared)"),
        ("reasoning: context, ", "context, it is read and not learned (declared)"),
        ("reasoning: drop, ", "drop, it is left out (declared)"),
    ],
)
def test_what_becomes_of_reasoning_is_said_before_the_run(project: Path, declared: str, said: str) -> None:
    """And nothing where no row has any."""
    line = f"10 of 40 rows that were looked at have reasoning: data.reasoning: {said}"
    reasoned(project, declared)
    assert line in check_variant(load_settings(project), KEY)["warnings"]
    (project / "rows.jsonl").write_text(ROWS)
    assert "reasoning" not in str(check_variant(load_settings(project), KEY)["warnings"])


def test_a_plan_says_what_becomes_of_reasoning(project: Path) -> None:
    reasoned(project, "reasoning: context, ")
    done = CliRunner().invoke(app, ["--project", str(project), "plan", str(KEY)])
    assert done.exit_code == 0, (done.output, done.exception)
    line = "have reasoning: data.reasoning: context, it is read and not learned (declared)"
    assert line in " ".join(done.output.split())


def reasoned(project: Path, declared: str) -> None:
    """Lay rows of which a quarter has reasoning."""
    (project / "model/chat_template.jinja").write_text(CALLS_AND_THOUGHTS)
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes", **more}]}
        for n in range(40)
        for more in ({"reasoning_content": "So."} if n % 4 == 0 else {},)
    ]
    (project / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace("data: {", f"data: {{{declared}"))


def test_every_mistake_is_said_at_once_though_the_declaration_itself_is_invalid(project: Path) -> None:
    (project / "tenants/acme/support.yaml").write_text(
        TEXT.replace("base_model: model", "base_model: modle")  # codespell:ignore
        .replace("[rows.jsonl]", "[rows.jsonl, rwos.jsonl, {path: 5}]")
        .replace("[tasks/quiz.yaml]", "[tasks/quiz.yaml, arc_eazy, tasks/quizz.yaml]")
        + "training: {seed: -1}\n"
    )
    (project / "corpora/g.yaml").write_text("description: g\nsources: [txet.jsonl]\n")
    found = mistakes(project)
    assert sorted((error.field, error.value) for error in found if error.field != "data.sources.2.path") == [
        ("base_model.source", "modle"),  # codespell:ignore
        ("data.sources[1].path", "rwos.jsonl"),
        ("evaluation.task", "arc_eazy"),
        ("evaluation.task", "tasks/quizz.yaml"),
        ("sources[0].path", "txet.jsonl"),
        ("training.seed", -1),
    ]
    assert len(found) == 7
    assert all(error.file and error.fix for error in found)


def tensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


BROKEN = {
    "model/config.json": [b"[" * 100_000, b"[]", b'{"model_type": 5}'],
    "model/model.safetensors": [
        b"", struct.pack("<Q", 2**63), tensors(b"[]"), tensors(b'{"a":{"data_offsets":[0,0]}}'),
        tensors(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}'),
        tensors(b'{"a":{"dtype":5,"shape":"ab","data_offsets":[0,0]}}'),
    ],
    "model/model.safetensors.index.json": [
        b'{"weight_map":["a"]}', b'{"weight_map":{"a":5}}', b'{"weight_map":{"a":"../rows.jsonl"}}',
    ],
    "model/tokenizer_config.json": [b"nope"],
    "rows.jsonl": [b"[" * 100_000, b'{"prompt": "\\ud800", "completion": "a"}', b'{"prompt": 1e400}', b"\n"],
    "text.jsonl": [b"\xff\xfe", b""],
    "tasks/quiz.yaml": [
        b"[a]: b", b"task: " + b"[" * 3000, TASK.encode() + b"include: 5", b"\xff",
        TASK.replace("{data_files: {test: q.jsonl}}", "[a]").encode(),
        TASK.replace("q.jsonl", "/").encode(), TASK.replace("json\n", "''\n").encode(),
        TASK.replace("q.jsonl", "~nosuchuser/q.jsonl").encode(), TASK.replace("q.jsonl", "q" * 5000).encode(),
    ],
    "corpora/g.yaml": [b"[a]: b", b"description: g\nsources: [text.jsonl]\nmax_megabytes: true\n", b""],
    "tenants/acme/support.yaml": [
        TEXT.replace("rows.jsonl", "r" * 5000).encode(), TEXT.replace("rows.jsonl", "~nosuchuser/x").encode(),
        TEXT.replace("model: model", "model: ~nosuchuser/x").encode(),
        TEXT.replace(": model", ": ''").encode(),
        TEXT.replace("rows.jsonl", "''").encode(), TEXT.replace(": model", ": 's3://'").encode(),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, all in BROKEN.items() for number in range(len(all))]
)
def test_a_broken_file_is_one_error(project: Path, name: str, number: int) -> None:
    (project / name).write_bytes(BROKEN[name][number])
    (error,) = mistakes(project)
    assert error.file
    assert error.fix


@pytest.mark.parametrize(
    "name",
    [
        "rows.jsonl", "text.jsonl", "corpora/g.yaml", "tasks/quiz.yaml", "tasks/q.jsonl", "model/config.json",
        "model/model.safetensors", "model/tokenizer.json", "folder/rows.jsonl", "facts.db",
    ],
)  # fmt: skip
def test_a_fifo_is_said_and_never_waited_for(project: Path, name: str) -> None:
    place = project / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    changes = {
        "folder/rows.jsonl": ("[rows.jsonl]", "[folder]"),
        "facts.db": ("task: [tasks/quiz.yaml]", "kind: sql, database: facts.db"),
    }
    if name in changes:
        (project / "tenants/acme/support.yaml").write_text(TEXT.replace(*changes[name]))
    (error,) = mistakes(project)
    assert "a FIFO" in error.problem or "no such data file" in error.problem


def test_a_folder_that_links_to_itself_ends_in_an_error(project: Path) -> None:
    (project / "folder").mkdir()
    shutil.copy(project / "rows.jsonl", project / "folder")
    for name in ("one", "two"):
        (project / "folder" / name).symlink_to(".")
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace("rows.jsonl", "folder"))
    (error,) = mistakes(project)
    assert "links to one that holds it" in error.problem


@pytest.mark.parametrize(
    ("name", "text"),
    [("state.json", "{}"), ("state.json", '{"_data_files": [{"x": 1}]}'), ("dataset_dict.json", "nope")],
)
def test_a_damaged_saved_data_set_is_one_error(project: Path, name: str, text: str) -> None:
    (project / "saved").mkdir()
    (project / "saved" / name).write_text(text)
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace("rows.jsonl", "saved"))
    (error,) = mistakes(project)
    assert "is not what `datasets` saves" in error.problem


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path, *arguments: str
) -> tuple[Any, str]:
    monkeypatch.setattr("sys.argv", ["ft-dagster", "--project", str(project), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().out


def test_the_command_lists_all_mistakes_of_all_files_in_text_and_json(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "tenants/acme/wrong.yaml").write_text(TEXT + "training: {seed: -1}\nmethod: {rank: true}\n")
    (project / "tenants/acme/No_Key.yaml").write_text(TEXT)
    code, text = run(monkeypatch, capsys, project, "check")
    assert code == 1
    for words in ("ok acme.support", "wrong acme.wrong", "training.seed", "method.rank", "No_Key.yaml"):
        assert words in text
    code, text = run(monkeypatch, capsys, project, "check", "--json")
    assert code == 1
    found = {one["variant"]: one for one in json.loads(text)["variants"]}
    assert found["acme.support"]["ok"] is True
    assert [error["field"] for error in found["acme.wrong"]["errors"]] == ["method.rank", "training.seed"]
    assert found["acme.wrong"]["error"]["field"] == "method.rank"
    assert found[None]["error"]["file"].endswith("No_Key.yaml")


def test_the_command_lists_all_mistakes_of_the_settings(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "ft_dagster.yaml").write_text("tenant_runs: true\nretries: {attempts: -1}\n")
    code, text = run(monkeypatch, capsys, project, "check")
    assert code == 2
    assert "tenant_runs: a number is needed" in text
    assert "retries.attempts: input should be greater than or equal to 0" in text


def test_status_names_what_is_broken_and_shows_the_others(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "tenants/acme/wrong.yaml").write_text(TEXT + "training: {seed: -1}\n")
    (project / "tenants/acme/No_Key.yaml").write_text(TEXT)
    code, text = run(monkeypatch, capsys, project, "status", "--json")
    assert code == 0
    found = json.loads(text)
    assert [row["variant"] for row in found["variants"]] == ["acme.wrong", "acme.support"]
    assert [error["field"] for error in found["broken"]] == ["training.seed", None]
    code, text = run(monkeypatch, capsys, project, "status", "acme.support")
    assert code == 0
    assert "broken" not in text


def prompts(count: int) -> str:
    return "".join(
        json.dumps({"prompt": f"what is {n}?", "completion": f"it is the number {n}"}) + "\n"
        for n in range(count)
    )


def warnings(project: Path) -> list[str]:
    found: list[str] = check_variant(load_settings(project), KEY)["warnings"]
    return found


def test_few_steps_and_few_test_rows_are_warned_of_with_the_numbers(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace(", task: [tasks/quiz.yaml]", ""))
    (project / "rows.jsonl").write_text(prompts(60))
    steps, tail, later = warnings(project)
    assert re.match(
        r"\d+ optimizer steps \(about \d+ packed rows of 512 tokens, 3 epochs, 1 a step\): fewer than", steps
    )
    assert "60 of 60 rows" in steps
    for rows, least in ((tail, "183"), (later, "48")):
        assert "of 6 questions even a model of which no answer changed would stay undecided" in rows
        assert f"Ask {least} questions" in rows
    monkeypatch.setattr("sys.argv", ["ft-dagster", "--project", str(project), "check"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.startswith("ok acme.support")
    assert f"  ! {steps}"[:60] in shown


def test_the_test_rows_that_are_too_few_are_those_that_fall_into_the_split(project: Path) -> None:
    # 80 rows, of which a tenth should be tested; their hashes put more there, as in the data set of a run.
    fallen = sum(split_at(position_of(f"what is {n}?"), SplitsSpec()) == "test" for n in range(80))
    assert fallen != round(80 * SplitsSpec().test)
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace(", task: [tasks/quiz.yaml]", ""))
    twice = prompts(80).splitlines(keepends=True)
    (project / "rows.jsonl").write_text("".join([*twice, *twice[:30]]))  # an equal row falls nowhere twice
    assert f"of {fallen} questions even a model" in warnings(project)[1]


def test_the_next_look_is_foreseen_by_the_test_rows_that_fall_into_the_split(project: Path) -> None:
    fallen = sum(split_at(position_of(f"what is {n}?"), SplitsSpec()) == "test" for n in range(80))
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace(", task: [tasks/quiz.yaml]", ""))
    (project / "rows.jsonl").write_text(prompts(80))
    look = check_variant(load_settings(project), KEY)["look"]
    assert {rule["there"] for rule in look["rules"] if rule["rule"] == "task"} == {fallen} != {80 * 0.1}


def test_enough_rows_are_not_warned_of(project: Path) -> None:
    (project / "tenants/acme/support.yaml").write_text(TEXT.replace(", task: [tasks/quiz.yaml]", ""))
    (project / "rows.jsonl").write_text(prompts(3000))
    assert warnings(project) == []


def test_test_rows_that_let_pass_what_was_measured_are_said_to_decide_nothing(project: Path) -> None:
    lax = TEXT.replace(", task: [tasks/quiz.yaml]", "") + "gates: {undecided: measured}\n"
    (project / "tenants/acme/support.yaml").write_text(lax)
    (project / "policy.yaml").write_text("gates: {undecided: measured}\n")
    (project / "rows.jsonl").write_text(prompts(60))
    *_, rows = warnings(project)
    assert rows.startswith("6 test rows leave gates.regression_loss_margin undecided whatever is trained")
    assert "it passes as it was measured (gates.undecided); from " in rows


def test_a_row_that_a_run_would_refuse_is_a_mistake_of_the_declaration(project: Path) -> None:
    for file in (project / "model").glob("chat_template*"):
        file.unlink()
    config = project / "model/tokenizer_config.json"
    content = json.loads(config.read_text())
    content.pop("chat_template", None)
    config.write_text(json.dumps(content))
    answer = {"role": "assistant", "content": "b"}
    rows = [{"messages": [{"role": "user", "content": f"{number}?"}, answer]} for number in range(20)]
    (project / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (error,) = mistakes(project)
    assert "no chat template" in error.problem
