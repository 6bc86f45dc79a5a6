"""What is wrong with one variant, or with one place, is said once and stops no other."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ft_dagster.assets.failures import FailedInOneLine, failures
from ft_dagster.cli import app
from ft_dagster.data.rows.rows_read import READ
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import command_environment, edit, rows, write_lines, write_project
from tests.long import mostly_long

pytestmark = pytest.mark.slow

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--")  # in which a root may mount
BIN = Path(sys.executable).parent
RIGHT = {"acme.places", "globex.places"}


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return write_project(tmp_path / "project", tiny_model_folder)


def declare(project: Path, name: str | bytes, **data: Any) -> Path:
    """tenants/evil/NAME: as acme.places, on other rows."""
    file = Path(os.fsdecode(os.fsencode(project / "tenants/evil") + b"/" + os.fsencode(name)))
    file.parent.mkdir(exist_ok=True)
    shutil.copy(project / "tenants/acme/places.yaml", file)
    edit(file, lambda content: content["data"].update(data))
    return file


def broken_yaml(project: Path) -> None:
    declare(project, "broken.yaml").write_text("data: [\n", "utf-8")


def one_line_of_3_gb(project: Path) -> None:
    member = gzip.compress(b"a" * 100_000_000, 1)
    (project / "data/long.jsonl.gz").write_bytes(gzip.compress(b'{"text": "') + 30 * member)
    declare(project, "broken.yaml", sources=["data/long.jsonl.gz"])


def rows_of_no_name(project: Path) -> None:
    (project / "data/odd").mkdir()
    write_lines(Path(os.fsdecode(os.fsencode(project / "data/odd") + b"/rows\xe9.jsonl")), rows())
    declare(project, "broken.yaml", sources=["data/odd"])


def declaration_of_no_name(project: Path) -> None:
    declare(project, b"rows\xe9.yaml")


BROKEN = {
    "one tenant's broken YAML": (broken_yaml, "evil.broken", "did not find expected node content"),
    "a gzip of one 3 GB line": (one_line_of_3_gb, "evil.broken", "data/long.jsonl.gz:1: a line of more than"),
    "rows whose file's name is not UTF-8": (
        rows_of_no_name,
        "evil.broken",
        "rows\\udce9.jsonl is not UTF-8 text",
    ),
    "a declaration whose name is not UTF-8": (
        declaration_of_no_name,
        "rows\\udce9.yaml",
        "not a variant key",
    ),
}


def typed(project: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)


@pytest.mark.parametrize("broken", mostly_long(BROKEN, every=2))
def test_check_goes_on_with_the_others_lists_the_broken_at_the_end_and_exits_with_1(
    project: Path, broken: str
) -> None:
    break_it, name, problem = BROKEN[broken]
    break_it(project)
    done = typed(project, "check")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == f"1 of 3 is wrong: {name}"
    (said,) = [line for line in lines[:-1] if name in line]
    assert said.startswith(f"wrong {name}")
    assert problem in said
    assert {key for key in RIGHT if f"ok {key}" in done.stdout} == RIGHT
    found = json.loads(typed(project, "check", "--json").stdout)["variants"]
    assert {one["variant"] for one in found if one["ok"]} == RIGHT
    assert [len(one["errors"]) for one in found if not one["ok"]] == [1]


def test_check_exits_with_2_where_none_is_right(project: Path) -> None:
    broken_yaml(project)
    done = typed(project, "check", "evil.broken")
    assert done.exit_code == 2
    assert "1 of 1" not in done.stdout


@pytest.mark.parametrize(
    "broken", mostly_long(["one tenant's broken YAML", "a declaration whose name is not UTF-8"], every=2)
)
def test_run_all_goes_on_with_the_others_lists_the_broken_at_the_end_and_exits_with_1(
    project: Path, broken: str
) -> None:
    break_it, name, problem = BROKEN[broken]
    break_it(project)
    done = typed(project, "run", "--all", "--detach")
    assert done.exit_code == 1
    *started, last = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in started] == sorted(RIGHT)
    assert last.startswith("left out ")
    assert name in last
    assert problem in last
    found = json.loads(typed(project, "run", "--all", "--detach", "--json").stdout)
    assert {one["variant"] for one in found if one["run_id"] is not None} == RIGHT
    (left_out,) = [one for one in found if one["run_id"] is None]
    assert problem in left_out["message"]


def test_run_refuses_at_once_what_was_named_and_where_all_are_broken(project: Path) -> None:
    broken_yaml(project)
    with pytest.raises(UserError, match="did not find expected node content"):
        typed(project, "run", "acme.places", "evil.broken", "--detach")
    for key in RIGHT:
        (project / f"tenants/{key.replace('.', '/')}.yaml").unlink()
    with pytest.raises(UserError, match="did not find expected node content"):
        typed(project, "run", "--all", "--detach")


@pytest.mark.long
def test_run_all_waits_for_the_others_and_lists_what_failed_and_what_was_left_out(project: Path) -> None:
    """A file of rows is read by the run alone: its variant fails, beside one that is not started."""
    (project / "tenants/globex/places.yaml").unlink()
    rows_of_no_name(project)
    (project / "tenants/evil/broken.yaml").rename(project / "tenants/evil/odd.yaml")
    broken_yaml(project)
    command = [str(BIN / "ft-dagster"), "run", "--all"]
    done = subprocess.run(
        command, env=command_environment(project), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    *_, failed, judged, following, left_out = done.stdout.splitlines()
    assert judged == "evil.odd: not judged yet"
    assert following == "Next for evil.odd: Mend the cause that is named, then `ft-dagster run evil.odd`"
    assert failed.startswith("evil.odd failure: ")
    assert "rows\\udce9.jsonl is not UTF-8 text" in failed
    assert left_out.startswith("left out evil.broken: ")
    made = Workspace(load_settings(project), VariantKey("acme", "places"), looking=True)
    assert made.head("model_export") is not None


def test_a_store_below_a_device_is_one_error_and_check_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_DAGSTER_STORE", "/dev/null/x")
    done = typed(project, "check")
    assert done.exit_code == 1
    first, *_, last = done.stdout.splitlines()
    assert first == (
        "wrong store  /dev/null: store: cannot be written: a file stands where a folder has to be "
        "(got '/dev/null/x'). Name another place, or let this user read and write there"
    )
    assert last == "1 of 3 is wrong: store"
    assert {key for key in RIGHT if f"ok {key}" in done.stdout} == RIGHT
    with pytest.raises(UserError, match="cannot be written"):
        typed(project, "run", "--all")
    assert not (project.parent / "home").exists()  # no instance was made for it


COMMANDS = (
    *(("status",), ("history", "acme.places"), ("compare", "acme.places"), ("cost",), ("store", "du")),
    *(("fleet", "due"), ("release", "acme.places"), ("run", "--all"), ("catalogue",), ("store", "gc")),
)


@pytest.mark.parametrize("command", mostly_long(COMMANDS, every=4, whole=True), ids=" ".join)
def test_no_command_ends_in_a_traceback_on_a_store_below_a_device(
    project: Path, command: tuple[str, ...]
) -> None:
    environment = {**command_environment(project), "FT_DAGSTER_STORE": "/dev/null/x"}
    words = [str(BIN / "ft-dagster"), *command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr


READ_ONLY = """
import sys
from ft_dagster.settings import load_settings
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.cli import main
if sys.argv[1] == "chain":
    from pathlib import Path
    from ft_dagster.spec import VariantKey
    from ft_dagster.workspace.workspace import Workspace
    settings = load_settings(Path(sys.argv[3]))
    print(run_chain(Workspace(settings, VariantKey("acme", "places")), CHAIN[:1]).error)
else:
    main()
"""


def in_read_only(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Where the file system of the store takes no files."""
    store = project / "store"
    store.mkdir(exist_ok=True)
    mount = f'mount --bind {store} {store} && mount -o remount,ro,bind {store} && exec "$@"'
    command = [*NAMESPACE, "sh", "-c", mount, "sh", sys.executable, "-c", READ_ONLY, *words]
    environment = {**command_environment(project), "FT_DAGSTER_STORE": str(store)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_a_store_on_a_read_only_file_system_is_one_error(project: Path) -> None:
    said = "cannot be written: its file system takes no files"
    checked = in_read_only(project, "check")
    assert checked.returncode == 1, checked.stderr
    assert checked.stdout.count(said) == 1
    assert {key for key in RIGHT if f"ok {key}" in checked.stdout} == RIGHT
    ran = in_read_only(project, "run", "--all")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"error: {project}/store: store: {said}")
    assert in_read_only(project, "status").returncode == 0  # who reads needs no more
    chain = in_read_only(project, "chain", "--project", str(project))
    assert chain.stdout.startswith(f"{project}/store/tenants"), chain.stderr
    assert "its file system takes no files" in chain.stdout


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOTDIR, errno.EACCES])
def test_a_step_on_a_place_that_is_closed_fails_in_one_line_and_is_not_tried_again(error: int) -> None:
    with pytest.raises(FailedInOneLine, match=r"/store/x: .*Name another place") as caught, failures():
        raise OSError(error, os.strerror(error), "/store/x")
    assert "\n" not in str(caught.value)
    assert caught.value.allow_retries is False


def test_a_store_that_can_be_written_is(tmp_path: Path) -> None:
    Store(str(tmp_path / "not" / "there")).check_writable()
    Store(str(tmp_path)).check_writable()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file stands where a folder has to be"):
        Store(str(tmp_path / "file" / "x")).check_writable()
    Store("memory://anywhere").check_writable()
    assert not (tmp_path / "not").exists()


def test_check_says_how_many_rows_of_each_file_it_read(project: Path) -> None:
    write_lines(project / "data/rows.jsonl", rows(5))
    write_lines(project / "data/general.jsonl", [{"text": "an old town"}] * (READ + 1))
    for name, count in (("a", 40), ("b", READ - 40), ("c", 60), ("d", 5)):
        write_lines(project / f"data/parts/{name}.jsonl", rows(count))
    edit(
        project / "tenants/acme/places.yaml",
        lambda content: content["data"].update(sources=["data/rows.jsonl", "data/parts"]),
    )
    done = typed(project, "check", "acme.places")
    assert done.exit_code == 0
    assert (
        f"all 5 rows of data/rows.jsonl, all 40 rows of data/parts/a.jsonl, all {READ - 40:,} rows of "
        f"data/parts/b.jsonl, the first {READ:,} of data/general.jsonl and none of 2 more files read"
    ) in done.stdout
    assert "`ft-dagster check --all-rows` reads them too" in done.stdout
    (one,) = json.loads(typed(project, "check", "acme.places", "--json").stdout)["variants"]
    assert [(each["file"], each["rows"], each["whole"]) for each in one["files"]] == [
        ("data/rows.jsonl", 5, True),
        ("data/parts/a.jsonl", 40, True),
        ("data/parts/b.jsonl", READ - 40, True),
        ("data/parts/c.jsonl", 0, False),
        ("data/parts/d.jsonl", 0, False),
        ("data/general.jsonl", READ, False),
    ]


@pytest.mark.long
def test_all_rows_reads_all(project: Path) -> None:
    file = project / "data/rows.jsonl"
    write_lines(file, rows(READ))
    done = typed(project, "check", "--all-rows", "acme.places")
    assert f"all {READ:,} rows of data/rows.jsonl and all 400 rows of data/general.jsonl read" in done.stdout
    assert "--all-rows" not in done.stdout
    with file.open("a") as lines:
        lines.write(json.dumps(rows(1)[0]) + "\n{no row\n")
    assert typed(project, "check", "acme.places").exit_code == 0
    done = typed(project, "check", "--all-rows", "acme.places")
    assert done.exit_code == 2
    assert f"data/rows.jsonl:{READ + 2}: malformed line" in done.stdout


def test_a_wrong_row_of_a_corpus_is_found_by_all_rows_for_each_variant_that_names_it(project: Path) -> None:
    write_lines(project / "data/general.jsonl", [{"text": "an old town"}] * (READ + 1))
    with (project / "data/general.jsonl").open("a") as lines:
        lines.write("{no row\n")
    assert typed(project, "check").exit_code == 0
    done = typed(project, "check", "--all-rows")
    assert done.exit_code == 2
    assert done.stdout.count(f"data/general.jsonl:{READ + 2}: malformed line") == len(RIGHT)
