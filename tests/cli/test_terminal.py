"""The command line in a terminal of 80 columns, piped, and by its help."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from typer.testing import CliRunner

from ft_dagster.automation.patience import START_SECONDS
from ft_dagster.cli import app, common
from ft_dagster.cli.commands import EXIT_CODES, all_commands
from ft_dagster.cli.common import main, show
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, TRANSIENT
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.tables.variant_row import VariantRow
from ft_dagster.versions import summary
from tests.present import present
from tests.verdicts import stored_rule

pytestmark = pytest.mark.slow

LONG = "acme-with-a-long-name.support-with-a-long-name-too"
GROUPS = {
    *(common.DECLARING, common.PLANNING, common.RUNNING),
    *(common.JUDGING, common.RELEASING, common.KEEPING),
}
OWN_OUTPUT = {"schema", "ui", "metrics"}  # prints JSON anyway; serves until it is ended


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tenant, _, variant = LONG.partition(".")
    (tmp_path / "tenants" / tenant).mkdir(parents=True)
    (tmp_path / "tenants" / tenant / f"{variant}.yaml").write_text("description: d\n")
    rules = [
        stored_rule(task=f"a_benchmark_of_a_long_name_{n}", passed=False, outcome="fail") for n in range(4)
    ]
    verdict = Verdict.from_json({"passed": False, "outcome": "fail", "rules": rules})
    row = VariantRow(
        LONG, verdict=verdict, digest="0123456789abcdef" * 4, stale="its parent acme.base v12 is new"
    )
    monkeypatch.setattr(summary, "_row", lambda store, key, heads: row)
    return tmp_path


@pytest.mark.parametrize("command", [["status"], ["compare", LONG]])
def test_nothing_is_cut_at_80_columns(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(common.out, "_width", 80)
    monkeypatch.setattr(common.out, "_force_terminal", True)
    monkeypatch.setattr(common.out, "no_color", True)
    said = re.sub(
        r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, ["--project", str(project), *command]).output
    )
    tables = [line for line in said.splitlines() if "│" in line or "━" in line]
    assert tables
    assert max(map(len, tables)) <= 80
    assert "…" not in said
    joined = re.sub(r"[^\w.-]", "", said)
    for word in ("broken", "support-with") if command == ["status"] else ("fail", "name_3"):
        assert word in joined


def test_what_is_piped_is_plain_and_a_line_a_row(project: Path) -> None:
    said = CliRunner().invoke(app, ["--project", str(project), "status"]).output
    (line,) = [line for line in said.splitlines() if LONG in line]
    assert line.split()[:2] == [LONG, "broken"]
    assert "owners: needed, but not given" in line
    assert not re.search("[\x1b│┃━…]", said)


@pytest.mark.parametrize("columns", ["60", "0", "wide"])
def test_piped_tables_are_as_wide_as_columns_says_and_sentences_stay_whole(columns: str) -> None:
    program = """
from ft_dagster.cli.common import show_rows, tell
show_rows(("name", "said"), [("a", "word " * 30)])
tell("/store/" + "long/" * 30 + " could not be read")
"""
    environment = {**os.environ, "COLUMNS": columns}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    *table, sentence = done.stdout.splitlines()
    assert (max(map(len, table)) <= 60) is (columns == "60"), done.stdout
    assert sentence == "/store/" + "long/" * 30 + " could not be read"


def test_a_table_wider_than_any_terminal_is_piped_whole() -> None:
    table = Table("name", "text")
    table.add_row("x", "y" * 500)
    with common.out.capture() as captured:
        show(table)
    assert "y" * 500 in captured.get()


def leaves(command: Any) -> Iterator[Any]:
    """The commands of a group and of the groups in it; of a command itself."""
    below = getattr(command, "commands", None)
    if below is None:
        yield command
        return
    for each in below.values():
        yield from leaves(each)


def test_each_command_is_in_a_group_and_takes_json() -> None:
    group: Any = all_commands()
    for name, command in group.commands.items():
        assert command.rich_help_panel in GROUPS, name
        for each in leaves(command):
            options = {option for parameter in each.params for option in parameter.opts}
            assert "--json" in options or name in OWN_OUTPUT, (name, each.name)


def test_the_exit_codes_are_said_by_help_and_by_the_docs() -> None:
    said = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "Exit codes: 0 done;" in said
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    for code in re.findall(r"(\d+) (?:done|it was|a mistake|the storage|cancelled)", EXIT_CODES):
        assert f"\n| {code} |" in page


def test_a_mistake_exits_with_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["ft-dagster", "--project", str(tmp_path), "compare", "nobody"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == BAD_INPUT


def test_a_file_that_this_user_may_not_read_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Root, as tests may run, reads all: what the system would say is raised."""

    def read() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/srv/store/tenants")

    with pytest.raises(SystemExit) as ended:
        main(read)
    assert ended.value.code == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /srv/store/tenants: this user may not")


def test_a_storage_out_of_reach_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tenants").mkdir()
    options = 'store_options: {endpoint_url: "http://127.0.0.1:9", key: a, secret: b}\n'
    (tmp_path / "ft_dagster.yaml").write_text(f"store: s3://bucket/prefix\n{options}", "utf-8")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("sys.argv", ["ft-dagster", "--project", str(tmp_path), "history", "acme.support"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == TRANSIENT
    assert "the storage could not be reached: Could not connect" in said
    assert len(said.splitlines()) == 1


def test_a_file_whose_name_breaks_the_line_or_clears_the_screen_forges_nothing(tmp_path: Path) -> None:
    tenant, rows = tmp_path / "tenants/acme", tmp_path / "rows"
    tenant.mkdir(parents=True)
    rows.mkdir()
    (tenant / "x\nok acme.forged \x1b[2J.yaml").write_text("description: d\n")
    (rows / "a\nok acme.forged  \x1b[2J.jsonl").write_text("no row\n")
    declared = {"description": "d", "owners": ["o"], "base_model": "b", "data": {"sources": ["rows"]}}
    (tenant / "honest.yaml").write_text(json.dumps(declared))
    done = CliRunner().invoke(app, ["--project", str(tmp_path), "check"])
    assert done.exit_code == BAD_INPUT
    assert "\\nok acme.forged" in done.output
    assert not [line for line in done.output.splitlines() if line.startswith(("ok", " ok"))]
    assert "\x1b[2J" not in done.output
    shown = str(UserError("is not one", file="a\nok b", field="c\nd", fix="Take it out"))
    assert shown == "a\\nok b: c\\nd: is not one. Take it out"


def test_what_is_told_is_no_markup_and_keeps_its_backslashes() -> None:
    with common.out.capture() as captured:
        common.tell("[red]a[/] C:\\x\\")
    assert captured.get() == "[red]a[/] C:\\x\\\n"


INTERRUPTED = """
import time
from dagster._utils.interrupts import capture_interrupts
from ft_dagster.cli.common import main

def waits():
    with capture_interrupts():  # as Dagster does where it loads and runs code
        pass
    print("waits", flush=True)
    time.sleep(120)

main(waits)
"""


def test_a_background_job_that_ignores_ctrl_c_ends_by_sigterm_whatever_dagster_does() -> None:
    ignoring = 'trap "" INT; exec "$@"'  # as a shell starts what ends with &
    command = ["sh", "-c", ignoring, "sh", sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert present(process.stdout).readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == CANCELLED
        assert present(process.stderr).read() == ""


IMPORTS = """
import sys
from ft_dagster.cli import main

def imports():
    assert "dagster" not in sys.modules
    from dagster._grpc.client import DEFAULT_GRPC_TIMEOUT
    print(DEFAULT_GRPC_TIMEOUT)

main(imports)
"""


@pytest.mark.parametrize(
    ("said", "waits"), [({}, START_SECONDS), ({"DAGSTER_GRPC_TIMEOUT_SECONDS": "45"}, 45)]
)
def test_dagster_is_told_how_long_to_wait_before_it_is_imported(said: dict[str, str], waits: int) -> None:
    """What a command starts has it from its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, env=environment | said, capture_output=True, text=True, check=True)
    assert int(done.stdout) == waits
