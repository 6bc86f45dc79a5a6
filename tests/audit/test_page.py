"""docs/audit.md: its commands are some; a stranger's program checks proofs, and nothing else passes it."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import TRAINED, record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, question
from tests.audit.proved import ROOT, ran

PAGE = (ROOT / "docs/audit.md").read_text("utf-8")


@pytest.mark.slow
def test_the_program_for_a_stranger_checks_a_proof(history: History, tmp_path: Path) -> None:
    audit = history.audit()
    weights = audit.model("acme.one").digest
    number = next(n for n in range(30) if any(
        one.how == TRAINED and one.weights == weights
        for one in record(audit, parse_record(json.dumps(question(n)))).models
    ))  # fmt: skip
    row = question(number)
    proof = tmp_path / "proof.json"
    made = prove(audit, parse_record(json.dumps(row)), audit.model("acme.one"))
    proof.write_text(dumps(made, indent=1), "utf-8")
    parts = [["prompt", f"  {row['prompt'].upper()}"], ["completion", row["completion"]]]
    done = ran(proof, ["prompt_completion", parts])
    assert done.returncode == 0, done.stderr
    assert f'"line":{number + 1}' in done.stdout

    another = ran(proof, ["prompt_completion", [["prompt", "another"], ["completion", "one"]]])
    assert another.returncode == 1
    assert "not in the mixture" in another.stderr
    made["manifests"]["training_mixture"] = made["manifests"]["training_mixture"].replace('"seed"', '"Seed"')
    proof.write_text(dumps(made), "utf-8")
    forged = ran(proof, ["prompt_completion", parts])
    assert forged.returncode == 1
    assert "another mixture" in forged.stderr


@pytest.mark.slow
def test_the_program_for_a_stranger_checks_each_row_of_a_record(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows, whole = [question(n) for n in (1, 2, 1)], {"validation": 0, "test": 0, "minimum": 1}
    dataset = made.dataset("acme.one", rows, deduplicate="off", splits=whole)
    made.model("acme.one", made.mixture("acme.one", dataset), made.base())
    audit, file = made.audit(), tmp_path / "proof.json"
    proof = prove(audit, parse_record(json.dumps(rows[0])), audit.model("acme.one"))
    content = ["prompt_completion", [[name, rows[0][name]] for name in ("prompt", "completion")]]
    file.write_text(dumps(proof), "utf-8")
    assert [f'"line":{line},' in ran(file, content).stdout for line in (1, 2, 3)] == [True, False, True]
    file.write_text(dumps({**proof, "also": [{**proof["also"][0], "salt": "0" * 32}]}), "utf-8")
    assert "not in the mixture" in ran(file, content).stderr
    file.write_text(dumps({**proof, "also": [{name: proof[name] for name in proof["also"][0]}]}), "utf-8")
    assert "shown twice" in ran(file, content).stderr
    file.write_text(dumps({**proof, "also": [{**proof["also"][0], "identity": "0" * 64}]}), "utf-8")
    assert "not checked: 1 rows that were read otherwise" in ran(file, content).stdout


def test_every_question_takes_a_tenant_and_what_is_the_platforms_takes_none() -> None:
    """As the page says."""
    from ft_dagster.cli.audit.questions import audit
    from ft_dagster.cli.commands import all_commands

    all_commands()  # each file of commands is imported
    commands = {
        each.name or each.callback.__name__: each.callback
        for each in audit.registered_commands
        if each.callback
    }
    without = {
        name for name, callback in commands.items() if "tenant" not in inspect.signature(callback).parameters
    }
    assert without == {"check", "index", "forget-identities"}
    assert "`check`, `index`, `key` and `forget-identities` are the" in PAGE
    assert all("as_json" in inspect.signature(callback).parameters for callback in commands.values())


@pytest.mark.slow
def test_the_page_shows_no_command_that_is_none() -> None:
    from typer.testing import CliRunner

    from ft_dagster.cli import app

    for command in sorted(set(re.findall(r"ft-dagster (audit [a-z-]+(?: [a-z]+)?)", PAGE))):
        words = command.split()
        words = words if words[1] == "key" else words[:2]
        done = CliRunner().invoke(app, [*words, "--help"])
        assert done.exit_code == 0, command
