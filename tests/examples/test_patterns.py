"""The patterns project: its rows are made, each declaration is checked whole, and its script runs."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.task_files import local_config
from ft_dagster.evaluation.tasks.task_functions import functions_in, source_of
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.versions.check import check_variant
from ft_dagster.workspace.policy import problems
from tests.e2e.project import POLICY, edit, write_yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ROOT / "examples" / "patterns"
KEYS = sorted(str(key) for key in Declarations(PATTERNS))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A copy with its rows, on the tiny model."""
    folder = tmp_path_factory.mktemp("patterns") / "project"
    shutil.copytree(PATTERNS, folder, ignore=shutil.ignore_patterns("data", ".ft_dagster"))
    subprocess.run([sys.executable, str(folder / "prepare.py"), str(folder)], check=True)
    base = str(tiny_model_folder)
    edit(folder / "ft_dagster.yaml", lambda content: content.update(sources={"bases": [base]}))
    edit(folder / "tenants" / "defaults.yaml", lambda content: content.update(base_model=base))
    edit(folder / "tenants" / "lab" / "codes.yaml", lambda content: content["base_model"].update(source=base))
    return folder


@pytest.fixture
def settings(project: Path) -> Settings:
    return load_settings(project)


def test_rows_are_the_same_bytes_each_time(project: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(PATTERNS / "prepare.py"), str(tmp_path)], check=True)
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert len(made) == 16
    assert all((project / name).read_bytes() == content for name, content in made.items())


@pytest.mark.parametrize("key", KEYS)
def test_each_declaration_is_whole_and_within_the_policy(settings: Settings, key: str) -> None:
    found = check_variant(settings, VariantKey.parse(key))
    assert found["sources"] == 1
    assert problems(settings, Declarations(settings.project).declared(VariantKey.parse(key))) == []


def test_the_ten_of_the_cohort_differ_by_name_and_rows_alone(settings: Settings) -> None:
    declarations = Declarations(settings.project)
    specs = [declarations.declared(key).spec for key in declarations if key.tenant == "branches"]
    assert len(specs) == 10
    assert len({spec.data.sources[0].path for spec in specs}) == 10
    alike = [spec.model_dump(exclude={"description": True, "data": {"sources"}}) for spec in specs]
    assert all(each == alike[0] for each in alike)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("<assay> B11-004", 1.0), ("It is <assay> B11-005.", 2 / 3), ("<blank> B01-009", 0.0), ("none", 0.0)],
)
def test_the_labs_metric_counts_the_parts_that_are_right(project: Path, answer: str, score: float) -> None:
    [(_, file)] = [(name, file) for name, file in _functions(project) if name.endswith("code_parts")]
    spec = importlib.util.spec_from_file_location("scoring", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.code_parts({"output": "<assay> B11-004"}, [answer]) == {"code_parts": pytest.approx(score)}


def _functions(project: Path) -> list[tuple[str, Path]]:
    """Of the task that the lab declares, as the platform allows them."""
    roots, file = load_settings(project).roots("lab"), project / "tasks" / "codes.yaml"
    return [
        (str(function), source_of(function, roots)) for function in functions_in(local_config(file, roots))
    ]


def test_without_the_platforms_word_the_metric_is_refused(project: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(project, tmp_path / "project"))
    edit(folder / "ft_dagster.yaml", lambda content: content.pop("evaluation"))
    with pytest.raises(UserError, match="runs Python that the platform does not allow"):
        check_variant(load_settings(folder), VariantKey.parse("lab.codes"))


def test_the_readme_names_each_pattern_where_it_is() -> None:
    page = (PATTERNS / "README.md").read_text("utf-8")
    for place in re.findall(r"\]\(([^)#]+)", page):
        assert (PATTERNS / place).exists(), place


def test_the_script_is_short_and_says_a_mistake_in_one_line(project: Path) -> None:
    script = PATTERNS / "chain.py"
    assert len(script.read_text("utf-8").splitlines()) <= 45
    done = subprocess.run(
        [sys.executable, str(script), str(project), "nobody"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.long
def test_the_script_makes_a_model_without_dagster_judged_by_the_labs_metric(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(project, tmp_path / "project"))
    write_yaml(folder / "policy.yaml", POLICY)
    quick = {"max_steps": 20, "max_length": 64, "evaluations": 1, "learning_rate": 0.005, "precision": "fp32"}
    lax = {"task_margin": 1.0, "undecided": "measured"}  # the tiny model writes no code
    file = folder / "tenants" / "lab" / "codes.yaml"
    edit(file, lambda content: content.update(training=quick, gates=lax))
    edit(file, lambda content: content["evaluation"].update(limit=12))
    chain = runpy.run_path(str(folder / "chain.py"))
    assert chain["main"](str(folder), "lab.codes") == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert re.search(r"^fine_tuned_model +[0-9a-f]{12} made$", said, re.MULTILINE)
    export = re.search(r"^exported: (.*)$", said, re.MULTILINE)
    assert export
    assert (Path(export[1]) / "adapter_config.json").is_file()
    [scores] = (folder / ".ft_dagster" / "store").glob("tenants/lab/codes/evaluation/*/*/payload/scores.json")
    assert "code_parts" in scores.read_text("utf-8")
