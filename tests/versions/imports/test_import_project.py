"""An import writes all or nothing, changes nothing when it is repeated, and overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.files import new_file
from ft_dagster.spec import VariantKey, load_variant, start
from tests.versions.imports.imported import (
    chat,
    configured,
    declaration,
    imported,
    job,
    lines,
    refused,
    rows_of,
)

pytestmark = pytest.mark.slow

BASE = ("--base-model", "base")
ROWS = [chat(number) for number in range(400)]


def files(folder: str = "mine") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_declaration_is_one_that_loads_and_says_where_each_value_came_from() -> None:
    made = imported("openai", lines("rows.jsonl", ROWS), job(seed=7), *BASE)
    declared = load_variant(Path("mine"), VariantKey("acme", "support"))
    assert declared.spec.training.seed == 7
    assert "seed: 7   # seed of job.json\n" in made["declaration"]["text"]
    assert "# 400 rows of rows.jsonl\n" in made["declaration"]["text"]
    assert (declared.spec.objective, declared.spec.evaluation.kind) == ("task_specific", "label")


def test_rows_of_the_project_that_do_not_change_are_named_where_they_are() -> None:
    made = imported("openai", lines("mine/data/rows.jsonl", ROWS), *BASE)
    assert declaration(made)["data"]["sources"] == [{"path": "data/rows.jsonl"}]
    assert not Path("mine/data/acme").exists()


def test_rows_of_elsewhere_are_copied_byte_for_byte() -> None:
    made = imported("openai", lines("rows.jsonl", ROWS), *BASE)
    assert Path("mine/data/acme/support/rows.jsonl").read_bytes() == Path("rows.jsonl").read_bytes()
    assert declaration(made)["data"]["sources"] == [{"path": "data/acme/support/rows.jsonl"}]


def test_files_of_one_name_are_kept_apart() -> None:
    given = [lines(f"{folder}/rows.jsonl", ROWS) for folder in ("a", "b")]
    paths = [source["path"] for source in declaration(imported("openai", *given, *BASE))["data"]["sources"]]
    assert paths == ["data/acme/support/rows.jsonl", "data/acme/support/rows-2.jsonl"]


def test_a_file_that_is_hidden_is_not_hidden_in_the_project() -> None:
    made = imported("openai", lines(".rows.jsonl", ROWS), *BASE)
    assert declaration(made)["data"]["sources"] == [{"path": "data/acme/support/rows.jsonl"}]


def test_no_credential_gets_into_a_declaration() -> None:
    lines("rows.jsonl", ROWS)
    metadata = {"note": "a", "langfuse": [{"secret_key": "hunter2"}]}
    made = imported("openai", "rows.jsonl", job(metadata=metadata), *BASE)
    assert "hunter2" not in json.dumps(made)
    assert "# metadata: (not shown)\n" in made["declaration"]["text"]
    for place in ("s3://me:hunter2@bucket/rows.jsonl", "https://me:hunter2@example.com/rows.jsonl"):
        for fields in ({"base_model": place}, {"datasets": [{"path": place}]}):
            usual: dict[str, Any] = {"base_model": "base", "datasets": [{"path": "rows.jsonl"}]}
            error = refused("axolotl", configured(**{**usual, **fields}))
            assert "an address with a credential in it" in str(error)
            assert "hunter2" not in str(error)


def test_of_two_imports_at_once_one_declares_and_the_other_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other begins when the first has looked at what is there, and before it writes."""
    given = ("openai", lines("rows.jsonl", ROWS), *BASE)
    late: list[Path] = []

    def other_first(target: Path) -> Any:
        if target.suffix == ".yaml" and not late:
            late.append(target)
            imported(*given, job(seed=7))
        return new_file(target)

    monkeypatch.setattr(start, "new_file", other_first)
    assert refused(*given).problem == "this variant is already declared"
    declared = load_variant(Path("mine"), VariantKey("acme", "support"))
    assert declared.spec.training.seed == 7
    assert not [name for name in files() if "draft" in name]


def test_a_second_import_changes_nothing() -> None:
    given = ("openai", lines("rows.jsonl", [*ROWS, chat(1, functions=[{"name": "f"}])]), job(seed=7), *BASE)
    imported(*given)
    before = files()
    again = imported(*given)
    assert (again["made"], files()) == ([], before)


def test_an_import_that_was_cut_off_is_ended_by_the_next() -> None:
    given = ("openai", lines("rows.jsonl", ROWS), *BASE)
    imported(*given)
    whole = files()
    Path("mine/tenants/acme/support.yaml").unlink()
    assert [Path(path).name for path in imported(*given)["made"]] == ["support.yaml"]
    assert files() == whole


def test_a_declaration_that_says_otherwise_is_not_overwritten() -> None:
    rows = lines("rows.jsonl", ROWS)
    imported("openai", rows, *BASE)
    before = files()
    assert "already declared" in refused("openai", rows, job(seed=7), *BASE).problem
    assert files() == before


def test_rows_that_were_changed_meanwhile_are_not_overwritten() -> None:
    imported("openai", lines("rows.jsonl", ROWS), *BASE)
    Path("mine/tenants/acme/support.yaml").unlink()
    before = files()
    error = refused("openai", lines("rows.jsonl", ROWS[1:]), *BASE)
    assert error.problem == "another file is there already"
    assert files() == before


def test_a_dry_run_says_all_and_writes_nothing() -> None:
    rows = lines("rows.jsonl", ROWS)
    given = ["import", "openai", rows, job(hyperparameters={"learning_rate_multiplier": 2}), *BASE]
    done = CliRunner().invoke(app, ["--project", "mine", *given, "--dry-run"])
    assert done.exit_code == 0, done.exception
    assert not Path("mine").exists()
    assert "! 1 dropped: refused without --allow-dropped 1\n" in done.stdout
    assert "description: " in done.stdout
    assert "would make mine/tenants/acme/support.yaml\n" in done.stdout


def test_what_is_dropped_above_the_allowed_is_refused_and_nothing_is_written() -> None:
    rows = lines("rows.jsonl", [*ROWS, {"messages": [{"role": "user", "content": "a?"}]}])
    assert "1 would be dropped" in refused("openai", rows, *BASE, allow="0").problem
    assert not Path("mine").exists()
    assert len(rows_of(imported("openai", rows, *BASE, allow="1"))) == len(ROWS)


def test_an_error_names_the_file_and_line_that_were_given_where_rows_are_written_anew() -> None:
    dropped = {"messages": [{"role": "user", "content": "a?"}]}
    odd = {"messages": [*chat(2)["messages"][:1], {"role": "assistant", "content": "a", "mood": "glad"}]}
    error = refused("openai", lines("rows.jsonl", [chat(1), dropped, odd]), *BASE)
    assert (error.file, error.line, error.field) == ("rows.jsonl", 3, "messages[1].mood")


def test_two_tenants_import_beside_each_other() -> None:
    rows = lines("rows.jsonl", ROWS)
    imported("openai", rows, *BASE)
    made = imported("openai", rows, *BASE, "--variant", "globex.faq")
    assert declaration(made)["data"]["sources"] == [{"path": "data/globex/faq/rows.jsonl"}]
    from ft_dagster.settings import load_settings

    roots = load_settings(Path("mine")).roots("acme")
    assert not roots.may_read(Path("mine/data/globex/faq/rows.jsonl").absolute())
