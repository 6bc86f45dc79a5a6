"""The light core: what it does without the libraries that train, and what it says of the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow.parquet import write_table

from ft_dagster.errors import UserError
from ft_dagster.extras import BROUGHT, TRAIN, left_out
from tests.e2e.project import write_project, write_yaml

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "tests" / "compat" / "store_0_1"
# Each as if it were not installed.
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAIN | BROUGHT)}))\n"
ALL = f"""{WITHOUT}
import json
from typer.testing import CliRunner
from ft_dagster.cli import app
from ft_dagster.definitions import defs
codes = [CliRunner().invoke(app, arguments).exit_code for arguments in json.loads(sys.argv[1])]
print(json.dumps([len(defs.sensors), *codes]))
"""
ANSWERS = (
    ("status",),
    ("catalogue",),
    ("history", "acme.places"),
    ("compare", "acme.places"),
    ("show", "acme.places"),
    ("cost",),
    ("store", "du"),
    ("fleet", "due"),
    ("audit", "tenant", "acme"),
    ("audit", "model", "acme.places"),
    ("audit", "verify", "--all"),
)
BEYOND_MB = 225  # beside Dagster's packages: DuckDB and NumPy are 142, the client of S3 34, what signs 19


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "project"))


@pytest.fixture
def fresh(tmp_path: Path, tiny_model_folder: Path) -> Path:
    return write_project(tmp_path / "fresh", tiny_model_folder)


def light(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where none of these libraries can be imported."""
    program = f"{WITHOUT}from ft_dagster.cli import main; main()"
    command = [sys.executable, "-c", program, "--project", str(project), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_libraries_are_those_of_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    names = {re.split(r"[><=;]", line)[0].replace("-", "_") for line in extras["train"]}
    assert names == TRAIN


@pytest.mark.long
def test_it_loads_the_code_location_and_answers_without_them(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps([["--project", str(project), *each] for each in ANSWERS])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    sensors, *codes = json.loads(done.stdout)
    assert sensors >= 3
    assert dict(zip(ANSWERS, codes, strict=True)) == dict.fromkeys(ANSWERS, 0)


@pytest.mark.slow
def test_it_looks_for_crossings_without_them(project: Path) -> None:
    done = light(project, "audit", "crossings", "--json")
    assert done.stderr == ""
    assert "error" not in json.loads(done.stdout)


@pytest.mark.slow
def test_it_checks_and_says_of_a_plan_in_one_line_what_it_needs(fresh: Path) -> None:
    checked = light(fresh, "check", "acme.places")
    assert (checked.returncode, checked.stderr) == (0, "")
    done = light(fresh, "plan", "acme.places", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert "this installation can look and audit, not plan or train" in error["problem"]
    assert "pip install 'ft-dagster[train]'" in error["fix"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("base_model", {"source": "org/model"}),
        ("data", {"sources": ["org/rows"]}),
        ("data", {"sources": ["rows.parquet"]}),
    ],
)
def test_a_variant_of_the_hub_or_of_parquet_rows_is_said_to_need_it_and_stops_no_other(
    fresh: Path, field: str, given: dict[str, Any]
) -> None:
    write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), fresh / "rows.parquet")
    tenants = fresh / "tenants" / "acme"
    spec = yaml.safe_load((tenants / "places.yaml").read_text("utf-8"))
    write_yaml(tenants / "hub.yaml", {**spec, field: given})
    done = light(fresh, "check", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    found = {one["variant"]: one for one in json.loads(done.stdout)["variants"]}
    assert found["acme.places"]["ok"]
    assert "this installation can look and audit" in found["acme.hub"]["message"]


def test_another_module_that_is_missing_is_a_defect() -> None:
    assert left_out(ModuleNotFoundError("no", name="ft_dagster.nowhere")) is None
    assert left_out(ModuleNotFoundError("no")) is None
    assert isinstance(left_out(ModuleNotFoundError("no", name="torch.nn")), UserError)


@pytest.mark.slow
@pytest.mark.long
def test_an_environment_of_it_alone_answers_and_is_small(project: Path, fresh: Path, tmp_path: Path) -> None:
    home = tmp_path / "light"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt")]
    dagster = ["dagster", "dagster-graphql", "dagster-pipes", "dagster-webserver"]
    sizes = []
    for packages in (dagster, [str(ROOT)]):
        subprocess.run([*pip, *packages], check=True, capture_output=True)
        files = next(home.glob("lib/python*/site-packages")).rglob("*")
        sizes.append(sum(file.stat().st_size for file in files if file.is_file()) / 1e6)
    assert sizes[1] - sizes[0] < BEYOND_MB
    program = str(home / "bin" / "ft-dagster")
    for folder, *arguments in (
        (project, "status"), (project, "catalogue"), (project, "audit", "tenant", "acme"),
        (fresh, "check", "acme.places"),
    ):  # fmt: skip
        command = [program, "--project", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    command = [program, "--project", str(fresh), "plan", "acme.places"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "pip install 'ft-dagster[train]'" in said.stderr
