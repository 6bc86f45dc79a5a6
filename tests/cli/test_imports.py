"""What a command imports: its own file, and no library that it has no use for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ft_dagster import cli
from ft_dagster.cli.commands import FILES, all_commands, app
from tests.long import mostly_long
from tests.present import present
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

HEAVY = {"dagster", "torch", "transformers", "peft", "numpy", "pyarrow", "pandas", "sqlalchemy", "duckdb"}
SETTINGS = {"pydantic_settings", "fsspec", "ft_dagster.settings", "ft_dagster.spec.variant"}
STAGES = {"ft_dagster.stages.chain", "ft_dagster.stages.training_plan"}
WITHOUT = {  # the words of a command -> what it must not import
    "--help": HEAVY | SETTINGS | STAGES,
    "init --help": HEAVY | SETTINGS | STAGES,
    "show --help": HEAVY | SETTINGS | STAGES,
    "audit --help": HEAVY | SETTINGS | STAGES,
    "show acme.support": HEAVY | STAGES,
    "history acme.support": HEAVY | STAGES,
    "status": HEAVY - {"numpy", "sqlalchemy"},
    "gpus": HEAVY | STAGES,
    "audit record nobody": {"dagster", "torch", "transformers", "peft", "pyarrow"},
    "check": HEAVY - {"numpy", "pyarrow"},  # of a declaration that is wrong no row is rendered
}
RUNS = {"ft_dagster.planning.dryrun", "ft_dagster.launch.launcher", "ft_dagster.gate.gates"}
PROGRAM = """
import json, sys
from ft_dagster.cli import main
sys.argv = ["ft-dagster", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("words", mostly_long(WITHOUT, every=2))
def test_a_command_imports_no_library_that_it_has_no_use_for(words: str, tmp_path: Path) -> None:
    assert modules_of(words, tmp_path) & WITHOUT[words] == set()


@pytest.mark.parametrize("words", ["show --help", "history acme.support"])
def test_a_command_imports_its_own_file_alone(words: str, tmp_path: Path) -> None:
    [own] = [file for file, names in FILES.items() if words.split(maxsplit=1)[0] in names]
    imported = {name.removeprefix("ft_dagster.cli.") for name in modules_of(words, tmp_path)}
    assert imported & set(FILES) == {own}


def test_each_command_is_found_by_the_file_that_defines_it() -> None:
    shown = list(all_commands().commands)
    package = f"{cli.__name__}."
    defined = {
        (
            present(each.callback).__module__.removeprefix(package),
            each.name or present(each.callback).__name__,
        )
        for each in app.registered_commands
    }
    groups = {str(each.name) for each in app.registered_groups}
    listed = {(file, name) for file, names in FILES.items() for name in names}
    assert {(file, name) for file, name in listed if name not in groups} == defined
    assert set(shown) == {name for _, name in defined} | groups
    folder = Path(cli.__file__ or "").parent
    defining = {
        ".".join(file.relative_to(folder).with_suffix("").parts)
        for file in folder.rglob("*.py")
        if re.search(r"^@\w+\.command\(|\.add_typer\(", file.read_text(), re.MULTILINE)
    }
    assert defining == set(FILES)


@pytest.mark.long
def test_a_check_on_a_base_that_was_looked_at_before_imports_no_torch(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "models" / "tiny")
    (tmp_path / "tenants" / "acme").mkdir(parents=True)
    (tmp_path / "tenants" / "acme" / "support.yaml").write_text(
        "description: d\nowners: [o]\nbase_model: {source: models/tiny, new_tokens: ['<|permit|>']}\n"
        "data: {sources: [rows.jsonl]}\n"
    )
    write_rows(tmp_path, "prompt", "completion")
    first, again = (imported_by("check", tmp_path) for _ in range(2))
    assert "torch" in first
    assert again & (HEAVY - {"numpy", "pyarrow"} | RUNS) == set()
    write_rows(tmp_path, "other words", "and other answers")
    assert imported_by("check", tmp_path) & HEAVY == {"transformers", "numpy"}


def write_rows(folder: Path, prompt: str, completion: str) -> None:
    rows = [{"prompt": f"{prompt} {n}", "completion": f"{completion} {n}"} for n in range(60)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def modules_of(words: str, folder: Path) -> set[str]:
    """Return the modules that a command has imported at its end, on a declaration that is wrong."""
    (folder / "tenants" / "acme").mkdir(parents=True)
    (folder / "tenants" / "acme" / "support.yaml").write_text(
        "description: d\nowners: [o]\nbase_model: nothing\ndata: {sources: [nothing.jsonl]}\n"
    )
    return imported_by(words, folder)


def imported_by(words: str, folder: Path) -> set[str]:
    """Return the modules that a command has imported at its end."""
    command = [sys.executable, "-c", PROGRAM, "--project", str(folder), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))
