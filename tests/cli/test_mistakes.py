"""A new user's mistakes end in one line that says the way out."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ft_dagster
from ft_dagster.cli import app
from ft_dagster.cli.common import main
from ft_dagster.data.rows.splits import check_sizes, refuse_few
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT
from ft_dagster.records.record_keys import keys_of, owners
from ft_dagster.spec.data import SplitsSpec

pytestmark = pytest.mark.slow

DECLARED = """description: d
owners: [o]
base_model: nothing
data:
  sources: [data/rows.jsonl]
"""
DECLARATIONS = {  # added to a declaration, or put in place of a part -> what is said
    "training: {lr: 0.001}": "training.lr: unknown field. Did you mean learning_rate?",
    "training: {epochs: 3}": "Did you mean num_train_epochs?",
    "training: {batch_size: 8}": "Did you mean per_device_train_batch_size?",
    "training: {num_train_epochs: many}": "should be a valid number (got 'many'). Write a number",
    "training: {seed: x}": "should be a valid integer (got 'x'). Write a whole number",
    "owners: [o]->#": "owners: needed, but not given. Write it so: `owners: [ann@acme.example]`",
    "description: d->#": "not given. Write it so: `description: Sorts messages into twelve desks`",
    "lr: 0.001": "lr: unknown field. Did you mean training.learning_rate?",
    "method: {name: lora, r: 8}": "Did you mean rank?",
    "method: dora": "dora is a setting of a method (got 'dora'). Write {name: lora, use_dora: true}",
    "method: LoRA": "Did you mean lora?",
    "method: QLoRA": "Did you mean qlora?",
    "gates: {general_margin: 10%}": "(got '10%'). Write 0.1",
    "gates: {general_margin: 10}": "(got 10). Write 0.1 for 10 percent",
    "gates: {general_margin: -0.1}": "(got -0.1). Write a number from 1e-06 to 1",
    "training: {learning_rate: 5}": "(got 5). Write a number above 0 and at most 1, such as 0.0002",
    "training: {keep_best: 0}": "(got 0). Write a number from 1 to 1000",
    "  sources: [data/rows.jsonl]->  sources: [data/rows.jsonl]\n  general: {corpus: wiki, share: 5}": (
        "data.general.share: input should be less than or equal to 0.5 (got 5). Write 0.05 for 5 percent"
    ),
    "owners: [o]->owners: o@x": "owners: input should be a list (got 'o@x'). Write it as a list: [o@x]",
    "[data/rows.jsonl]->data/rows.jsonl": "Write it as a list: [data/rows.jsonl]",
    "[data/rows.jsonl]->{path: a}": "Begin each entry with a dash",
    "  sources->\tsources": "Indent by spaces, not by a tab",
    "description: d->description: This: that": "Quote a text that has a colon in it",
    "  sources: [data/rows.jsonl]->  sources: [data/rows.jsonl": "close each bracket and quote",
    "data/rows.jsonl->data/rows.xlsx": "Save the sheet as CSV UTF-8, with commas",
    "data/rows.jsonl->data/semicolons.csv": "separated by semicolons, not by commas. Save it with commas",
    "data/rows.jsonl->data/tabs.csv": "separated by tabs, not by commas. Name it .tsv",
    "data/rows.jsonl->data/bars.csv": "rated by bars, not by commas. Save it with commas between the columns",
    "data/rows.jsonl->data/commas.tsv": "separated by commas, not by tabs. Name it .csv",
    "data/rows.jsonl->data/unclosed.csv": "malformed line: a quote is never closed. Mend the quotes of this",
    "data/rows.jsonl->data/ended.jsonl": "a comma stands behind the row. Remove the comma at its end",
    "retrain: {timezone: Berlin}": "not an IANA time zone (got 'Berlin'). Did you mean Europe/Berlin?",
    "retrain: {timezone: Entenhausen}": "Write it as Europe/Berlin or UTC",
    "description: d->description: 2026-01-01": "(got '2026-01-01'). Put it in quotes, so that it is a text",
    "owners: [o]->owners: [12]": "(got 12). Put it in quotes",
    "base_model: nothing->base_model:": "base_model: no value stands there. Write one, or remove the line",
    "base_model: nothing->base_model: ~/models/base": "Write the whole path: ~ is not replaced",
    "base_model: nothing->base_model: https://huggingface.co/org/name/tree/main": (
        "Write the repository alone: org/name"
    ),
    "data/rows.jsonl->https://example.com/rows.jsonl": "only s3:// is read: download it",
    "data/rows.jsonl->'C:\\data\\rows.jsonl'": "That is a path of Windows",
    "method: [lora, qlora]": "input should be a mapping of fields (got ['lora', 'qlora']). Name one alone",
    "method: yes": "(got True). Name one of auto, full, lora, ",
    "method: {lora: {rank: 8}}": "method.lora: unknown field. Write name: lora, and its settings beside it",
    "export: [adapter, merged]": "without brackets or dashes, of adapter, merged: `export: adapter`",
    "training: fast": "(got 'fast'). Write it so: `training: {num_train_epochs: 3}`",
    "gates: off": "(got False). Write it so: `gates: {general_margin: 0.05}`",
    "evaluation: {goal: 1.2}": "(got 1.2). Write a share of at most 1",
    "gpu: 2": "gpu: unknown field. Did you mean resources.gpus?",
    "owners: [o]->owners: []": "the list is empty (got []). Write it so: `owners: [ann@acme.example]`",
    "base_model: nothing->base_model: ${BASE}/llama": "variables of the environment are not filled in",
    "base_model: nothing->base_model: {{ base }}": "templates are not filled in",
    "base_model: nothing->base_model: !env BASE": "Write a plain value, without the tag",
    "retrain: {cron: every monday}": "(got 'every monday'). Write minute, hour, day, month and weekday",
    "retrain: {on_new_data: on change}": "(got 'on change'). Write true or false",
    "training: {max_steps: 2.5}": "(got 2.5). Write a whole number",
    "training: {learning_rate: .nan}": "(got nan). Write a number",
    "---": "Leave out the line ---: a file holds one document",
    "description: d->description: \x07": "Save it as text in UTF-8",
    "objective: classification": "Did you mean task_specific?",
    "objective: zero": "(got 'zero'). Write one of these",
    "evaluation: {kind: accuracy}": "Did you mean label?",
    "training: {learning_rate: '0,0001'}": "(got '0,0001'). Write 0.0001, with a point",
    "  sources: [data/rows.jsonl]->  sources: [data/rows.jsonl]\n  splits: {test: 20}": (
        "Write 0.2 for 20 percent"
    ),
    "  sources: [data/rows.jsonl]->  sources: [data/rows.jsonl]\n  splits: {validation: 0.6, test: 0.6}": (
        "such as validation: 0.1 and test: 0.2"
    ),
    "[data/rows.jsonl]->[{path: data/rows.jsonl, fields: {prompt: completion, completion: completion}}]": (
        "prompt and completion are the same column"
    ),
    "base_model: nothing->base_model: gguf": "GGUF is made from them for inference, and cannot be trained",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("tenants/acme", "data", "gguf"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/rows.xlsx").write_bytes(b"PK")
    (tmp_path / "data/semicolons.csv").write_text("a;b\n1;2\n")
    (tmp_path / "data/tabs.csv").write_text("a\tb\n1\t2\n")
    (tmp_path / "data/unclosed.csv").write_text('instruction,output\n"a,b\nc,d\n')
    (tmp_path / "data/ended.jsonl").write_text('{"text": "a"},\n{"text": "b"},\n')
    (tmp_path / "data/bars.csv").write_text("a|b\n1|2\n")
    (tmp_path / "data/commas.tsv").write_text("a,b\n1,2\n")
    (tmp_path / "gguf/model.gguf").write_bytes(b"GGUF")
    rows = (json.dumps({"prompt": f"p {number}", "completion": "c"}) for number in range(8))
    (tmp_path / "data/rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "tenants/acme/support.yaml").write_text(DECLARED)
    return tmp_path


def said(project: Path, *words: str) -> str:
    return CliRunner().invoke(app, ["--project", str(project), *words]).output


@pytest.mark.parametrize("mistake", DECLARATIONS)
def test_a_mistake_in_a_declaration_is_one_line_that_says_how_it_is_written(
    project: Path, mistake: str
) -> None:
    part, _, instead = mistake.partition("->")
    content = DECLARED.replace(part, instead) if instead else f"{DECLARED}{part}\n"
    (project / "tenants/acme/support.yaml").write_text(content)
    outcome = CliRunner().invoke(app, ["--project", str(project), "check"])
    assert outcome.exit_code == BAD_INPUT
    assert isinstance(outcome.exception, SystemExit)
    [line] = [line for line in outcome.output.splitlines() if DECLARATIONS[mistake] in line]
    assert re.search(r"support\.yaml|data/\w+\.\w+:[12]: |/gguf: ", line), "it names the file"


def test_a_misspelt_field_that_is_needed_is_one_mistake(project: Path) -> None:
    (project / "tenants/acme/support.yaml").write_text(DECLARED.replace("owners:", "onwers:"))
    output = said(project, "check")
    assert "onwers: unknown field. Did you mean owners?" in output
    assert "needed" not in output


def test_a_gate_on_a_task_that_is_not_asked_is_refused_by_a_plan_too(project: Path) -> None:
    gate = "evaluation: {general: [sciq]}\ngates: {metrics: {sciqq: acc}}\n"
    (project / "tenants/acme/support.yaml").write_text(DECLARED + gate)
    output = mistake_of(project, "plan", "acme.support")
    assert "gates.metrics.sciqq: no such task is asked (got 'sciqq'). Did you mean sciq?" in output


def test_a_trace_of_what_nobody_declared_does_not_say_to_run_it(project: Path) -> None:
    line = mistake_of(project, "trace", "acme.supp")
    assert "no such variant (got 'acme.supp'). Did you mean acme.support?" in line
    assert "`ft-dagster run acme.support` makes them" in mistake_of(project, "trace", "acme.support")


def test_few_rows_are_refused_by_check_with_how_many_are_needed(project: Path) -> None:
    output = said(project, "check")
    assert "data.sources: too few rows: train and validation and test take 8 each (got 8)" in output
    assert "80 rows are about the least" in output


def test_one_row_many_times_counts_once(project: Path) -> None:
    (project / "data/rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 400)
    output = said(project, "check")
    assert "data.sources: too few different rows: train and validation and test take 8 each (got 1)" in output


@pytest.mark.parametrize(("name", "fix"), [("r.zip", "Unpack it"), ("r.docx", "Save its rows as CSV")])
def test_a_file_of_another_kind_is_told_what_becomes_of_it(project: Path, name: str, fix: str) -> None:
    (project / "data" / name).write_bytes(b"PK")
    (project / "tenants/acme/support.yaml").write_text(DECLARED.replace("rows.jsonl", name))
    assert f"no data file there (got 'data/{name}'). {fix}" in said(project, "check")


def test_the_least_rows_are_those_of_the_declared_shares() -> None:
    splits = SplitsSpec(validation=0.2, test=0.2, minimum=8)
    refuse_few(24, splits)
    with pytest.raises(UserError, match="40 rows are about the least"):
        refuse_few(23, splits)
    with pytest.raises(UserError, match="40 are about the least"):
        check_sizes({"train": 20, "validation": 3, "test": 2}, splits)


def test_a_declarations_file_in_place_of_its_variant_is_told_how_it_is_named(project: Path) -> None:
    line = mistake_of(project, "run", "tenants/acme/support.yaml")
    assert "not a variant key (got 'tenants/acme/support.yaml'). Write acme.support for this file" in line


@pytest.mark.parametrize("command", ["run", "register"])
def test_named_variants_beside_all_are_refused(project: Path, command: str) -> None:
    line = mistake_of(project, command, "acme.support", "--all")
    assert "--all: variants are named, and all are asked for (got 'acme.support')" in line


def test_a_misspelt_command_is_answered_by_the_one_that_is_meant(project: Path) -> None:
    assert "'status'" in said(project, "stats")


@pytest.mark.parametrize(("called", "meant"), [("train", "run"), ("list", "status"), ("help", "--help")])
def test_a_command_by_the_name_that_others_give_it_is_answered_by_ours(
    project: Path, called: str, meant: str
) -> None:
    assert f"No such command '{called}'. Did you mean '{meant}'?" in said(project, called, "acme.support")


def test_an_option_of_all_commands_behind_one_of_them_is_told_where_it_stands() -> None:
    outcome = CliRunner().invoke(app, ["check", "--project", "mine"])
    assert outcome.exit_code == BAD_INPUT
    assert "ft-dagster --project FOLDER check" in outcome.output


def test_the_version_is_printed_alone() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"{ft_dagster.__version__}\n"


def test_an_address_without_a_bucket_is_no_store(project: Path) -> None:
    (project / "ft_dagster.yaml").write_text("store: s3://\n")
    line = mistake_of(project, "status")
    assert "ft_dagster.yaml: store: cannot be opened: no bucket is named (got 's3://'). Name a folder" in line
    assert not (project / "s3:").exists()


def test_a_question_that_is_its_own_answer_begins_no_project(project: Path, tmp_path: Path) -> None:
    rows = tmp_path / "data/letters.csv"
    rows.write_text("letter,desk\na,b\n")
    given = ["--base-model", "org/base", "--data", str(rows), "--question", "desk", "--answer", "desk"]
    line = str(CliRunner().invoke(app, ["init", str(tmp_path / "new"), *given]).exception)
    assert line.startswith("--answer: question and answer are the same column (got 'desk')")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [["status"], ["cost"]])
def test_a_tenant_of_whom_nothing_is_known_is_a_mistake(project: Path, command: list[str]) -> None:
    line = mistake_of(project, *command, "--tenant", "acne")
    assert line == "--tenant: no such tenant (got 'acne'). Did you mean acme?"


def test_a_record_that_is_the_name_of_no_file_is_not_sought_as_a_text(project: Path) -> None:
    line = mistake_of(project, "audit", "record", "data/row.jsonl")
    assert "no such file (got 'data/row.jsonl'). Name one that is there" in line


def test_a_rollback_without_a_reason_is_refused(project: Path) -> None:
    assert "--reason: no reason is given" in mistake_of(project, "rollback", "acme.support", "--reason", " ")


def test_a_picture_in_no_folder_is_refused_before_a_plan_is_made(project: Path) -> None:
    line = mistake_of(project, "plan", "acme.support", "--picture", str(project / "nowhere/p.svg"))
    assert "--picture: no such folder" in line


def test_a_variant_that_is_named_twice_is_taken_once(project: Path) -> None:
    assert said(project, "compare", "acme.support", "acme.support").count("Next for acme.support") == 1


def test_a_value_of_another_kind_in_a_sweep_is_told_how_it_is_written(project: Path) -> None:
    line = mistake_of(project, "sweep", "acme.support", "--set", "training.learning_rate=fast")
    assert "(got 'fast'). Write a number" in line


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for one small file more; skips where no disk may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={2 * os.sysconf('SC_PAGE_SIZE')}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    (folder / "own").write_bytes(b"0")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", str(full_disk / "new"), "--base-model", "org/base", "--data", "org/rows"]
    monkeypatch.setattr("sys.argv", ["ft-dagster", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == BAD_INPUT
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(": no space is left on the disk. Free some, then run it again")
    assert str(full_disk / "new") in line, "it names the file"
    files = [path for path in (full_disk / "new").rglob("*") if path.is_file()]
    assert all(path.stat().st_size for path in files), "each is whole, or not there"


def test_columns_by_their_names_before_ours_are_told_how_they_are_written(project: Path) -> None:
    (project / "data/rows.jsonl").write_text('{"letter": "a", "desk": "b"}\n' * 99)
    declared = DECLARED.replace("[data/rows.jsonl]", "[{path: data/rows.jsonl, fields: {letter: prompt}}]")
    (project / "tenants/acme/support.yaml").write_text(declared)
    assert "Write the name of this project first: prompt: letter" in said(project, "check")


def test_a_policy_that_is_a_list_is_told_how_it_is_written(project: Path) -> None:
    (project / "policy.yaml").write_text("- gates: {alpha: 0.1}\n")
    line = mistake_of(project, "check")
    assert "policy.yaml: not a mapping of fields. Write a field on each line, as `name: value`; " in line


def test_a_project_that_declares_nothing_says_how_to_begin(project: Path) -> None:
    (project / "tenants/acme/support.yaml").unlink()
    [line] = mistake_of(project, "status").splitlines()
    assert "no variant is declared. Begin with `ft-dagster init`" in line


def test_a_fleet_before_its_first_tick_says_what_decides(project: Path) -> None:
    assert "`ft-dagster ui` runs the daemon that decides" in said(project, "fleet", "due")


def test_what_others_call_a_setting_is_known_to_a_sweep(project: Path) -> None:
    words = ["sweep", "acme.support", "--set", "training.lr=1"]
    assert "Did you mean training.learning_rate?" in mistake_of(project, *words)


def mistake_of(project: Path, *words: str) -> str:
    """Return the mistake that a command raises."""
    error = CliRunner().invoke(app, ["--project", str(project), *words]).exception
    assert isinstance(error, UserError)
    return str(error)


def test_a_variant_without_an_evaluation_is_compared_by_running_it(project: Path) -> None:
    assert "`ft-dagster run acme.support` trains it" in said(project, "compare", "acme.support")


def test_an_environment_that_is_no_json_is_one_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FT_DAGSTER_HOST", "{bad")
    monkeypatch.setattr("sys.argv", ["ft-dagster", "--project", str(project), "history", "acme.support"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == BAD_INPUT
    [line] = capsys.readouterr().err.splitlines()
    assert "FT_DAGSTER_HOST__CPU_SLOTS=2" in line


def test_what_differs_from_built_in_is_shown_alone(project: Path) -> None:
    shown = json.loads(said(project, "show", "acme.support", "--changed", "--json"))["fields"]
    assert set(shown) == {"description", "owners", "base_model.source", "data.sources"}


def test_a_key_of_a_tenant_that_has_none_is_not_rotated(project: Path) -> None:
    """A mistyped name would leave the key that was meant in use."""
    keys = project / ".ft_dagster/keys"
    keys_of(keys, "acme")
    done = CliRunner().invoke(app, ["--project", str(project), "audit", "key", "rotate", "acm"])
    assert isinstance(done.exception, UserError)
    assert "there is no key to rotate (got 'acm'). Did you mean acme?" in str(done.exception)
    done = CliRunner().invoke(app, ["--project", str(project), "audit", "key", "rotate", "--shared"])
    assert "the first run makes it" in str(done.exception)
    assert owners(keys) == ["acme"]
