"""`ft-dagster plan VARIANT`: before there is a mixture, after, on other hardware, where it will not fit."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS
from ft_dagster.planning.hardware.catalogue import PROCESS
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.versions.plan_warnings import plan_warnings
from ft_dagster.versions.preview import plan_variant
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import UP_TO_PLAN, edit, write_lines, write_project
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
KEY = VariantKey.parse("acme.places")
CARDS = """cards:
  Tiny-1:
    memory_mib: 478
    bf16_tflops: 1
    usd_per_hour: 0.1
    price: {date: 2026-11-25, source: made up for a test}
    source: none
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return _project(tmp_path_factory.mktemp("project"), tiny_model_folder)


def _project(folder: Path, model: Path) -> Path:
    made = write_project(folder, model)
    for tenant in ("acme", "globex"):
        edit(made / "tenants" / tenant / "places.yaml", _bare)
    (made / "gpus.yaml").write_text(CARDS)
    return made


def _bare(declared: dict[str, Any]) -> None:
    declared["evaluation"] = {"general": []}
    declared["data"]["decontaminate"] = {"enabled": False}


def asked(folder: Path, *more: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["--project", str(folder), "plan", *more, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_before_there_is_a_mixture_the_sources_are_sampled_and_that_is_said(folder: Path) -> None:
    code, document = asked(folder, str(KEY))
    assert code == 0
    assert document["basis"].startswith("an estimate from ")
    assert document["method"] == document["plan"]["method"]["name"]
    assert set(document["ranking"][0]) == {
        "method", "fits", "gpus_needed", "memory_gb_per_gpu", "hours", "cost_usd", "storage_gb",
        "serving_gpus", "days_to_candidate", "warnings", "rules",
    }  # fmt: skip


def test_the_memory_of_each_method_is_drawn_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "memory.svg"
    _, document = asked(folder, str(KEY), "--picture", str(file))
    drawn = ElementTree.parse(file).getroot()
    said = ["".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    planned = document["plan"]["method"]["name"]
    names = [row["method"] + (" ◂" if row["method"] == planned else "") for row in document["ranking"]]
    assert drawn.get("width") == "700"
    assert [each for each in said if each in names] == names
    assert file.stat().st_size < 40_000


def test_a_picture_of_another_format_is_refused_before_anything_is_planned(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "memory.png"
    ended = CliRunner().invoke(app, ["--project", str(folder), "plan", str(KEY), "--picture", str(file)])
    assert isinstance(ended.exception, UserError)
    assert "--picture" in str(ended.exception)
    assert "Let it end in .svg" in str(ended.exception)
    assert not file.exists()


def test_it_ends_with_the_command_that_comes_next(folder: Path) -> None:
    said = CliRunner().invoke(app, ["--project", str(folder), "plan", str(KEY)]).output
    assert said.splitlines()[-1] == f"Next: `ft-dagster run {KEY}` trains it"


def test_the_command_line_warns_of_what_the_page_warns_of(folder: Path) -> None:
    file = folder / "tenants/acme/places.yaml"
    edit(file, lambda declared: declared["gates"].update(task_margin=0.02))
    edit(file, lambda declared: declared["evaluation"].update(kind="label"))  # judged by shares of answers
    edit(file, lambda declared: declared["training"].update(max_length=100_000))
    _, document = asked(folder, str(KEY))
    workspace = Workspace(load_settings(folder), KEY)
    estimate = plan_variant(workspace.settings, KEY).estimate
    spec = workspace.declared().spec
    edit(file, lambda declared: declared["gates"].pop("task_margin"))
    edit(file, lambda declared: declared["evaluation"].pop("kind"))
    edit(file, lambda declared: declared["training"].update(max_length=128))
    base = Path(str(spec.base_model.source))
    assert document["warnings"] == plan_warnings(workspace, spec, estimate, document["test_rows"], base)
    assert any("training.max_length 100,000 is beyond" in line for line in document["warnings"])
    assert any("gates.task_margin of 2 points needs" in line for line in document["warnings"])


def test_it_says_what_is_asked_beside_the_tasks(folder: Path) -> None:
    file = folder / "tenants/acme/places.yaml"
    _, before = asked(folder, str(KEY))
    edit(file, lambda declared: declared["gates"].update(refusals="on"))
    edit(file, lambda declared: declared["evaluation"].update(membership=50))
    _, document = asked(folder, str(KEY))
    edit(file, lambda declared: declared["gates"].update(refusals={"prompts": "data/gone.jsonl"}))
    ended = CliRunner().invoke(app, ["--project", str(folder), "plan", str(KEY)])
    edit(file, lambda declared: declared["gates"].pop("refusals"))
    edit(file, lambda declared: declared["evaluation"].pop("membership"))
    (said,) = (note for note in document["notes"] if "beside its tasks" in note)
    assert said.endswith(": 240 prompts of gates.refusals, 100 rows of evaluation.membership")
    assert not any("beside its tasks" in note for note in before["notes"])
    assert isinstance(ended.exception, UserError)
    assert "gates.refusals.prompts" in str(ended.exception)


@pytest.fixture(scope="module")
def mixed(folder: Path) -> dict[str, Any]:
    """What was planned before there was a mixture."""
    _, before = asked(folder, str(KEY))
    with dg.DagsterInstance.ephemeral() as instance:
        Workshop(folder, instance).materialize(str(KEY), *UP_TO_PLAN[:-1])
    return before


def test_the_sample_is_near_what_the_mixture_counts(folder: Path, mixed: dict[str, Any]) -> None:
    before, (_, after) = mixed, asked(folder, str(KEY))
    assert after["basis"].startswith("the newest training_mixture")
    assert before["examples"] == pytest.approx(after["examples"], rel=0.15)
    assert before["tokens"] == pytest.approx(after["tokens"], rel=0.15)
    assert before["memory_bytes"] == after["memory_bytes"]


@pytest.mark.long
def test_a_mixture_of_other_rows_or_another_base_is_not_what_the_plan_counts(
    folder: Path, mixed: dict[str, Any], tiny_model_folder: Path
) -> None:
    key, file = str(KEY), folder / "tenants" / "acme" / "places.yaml"
    source = folder / "data" / "more.jsonl"
    declared = file.read_text()
    try:
        write_lines(source, [{"prompt": f"Where is place {n}?", "completion": "North."} for n in range(40)])
        edit(file, lambda d: d["data"].update(sources=["data/more.jsonl"]))
        assert asked(folder, key)[1]["basis"].startswith("an estimate from 40 of 40 rows")
        file.write_text(declared)
        assert asked(folder, key)[1]["basis"].startswith("the newest training_mixture")
        shutil.copytree(tiny_model_folder, folder / "models" / "other")
        edit(file, lambda d: d.update(base_model="models/other"))
        assert asked(folder, key)[1]["basis"].startswith("an estimate from ")
    finally:
        file.write_text(declared)


def test_a_long_source_is_counted_and_not_tokenized_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"Where is place {n}?", "completion": "North."} for n in range(900)]
    write_lines(folder / "data" / "long.jsonl", rows)
    file = folder / "tenants" / "globex" / "places.yaml"
    edit(file, lambda declared: declared["data"].update(sources=["data/long.jsonl"], general=None))
    preview = plan_variant(load_settings(folder), VariantKey.parse("globex.places"))
    assert "400 of 900 rows" in preview.basis
    assert preview.examples == pytest.approx(630, rel=0.01)  # less 15% each for validation and test


def test_on_a_card_that_cannot_hold_it_the_changes_are_named_and_the_exit_is_1(folder: Path) -> None:
    code, document = asked(folder, str(KEY), "--gpus", "Tiny-1")
    assert (code, document["fits"]) == (1, False)
    assert document["plan"]["memory_bytes"]["total"] > document["device_bytes"]


def test_an_unknown_card_and_an_unknown_variant_are_one_error(folder: Path) -> None:
    for more, field in ((["--gpus", "A100-79GB"], "--gpus"), ([], None)):
        name = str(KEY) if more else "acme.nowhere"
        with pytest.raises(UserError) as error:
            CliRunner().invoke(app, ["--project", str(folder), "plan", name, *more], catch_exceptions=False)
        assert error.value.field == field


def test_what_this_host_can_never_lend_is_refused_before_anything_is_computed(folder: Path) -> None:
    file = folder / "tenants" / "acme" / "places.yaml"
    before = file.read_text()
    edit(file, lambda d: d["resources"].update(cpu_slots=3))
    try:
        with pytest.raises(UserError, match="more CPU slots than this host lends") as error:
            plan_variant(load_settings(folder), KEY)
    finally:
        file.write_text(before)
    assert (error.value.file, error.value.field) == (str(file), "resources.cpu_slots")


@pytest.mark.long
def test_a_variant_that_does_not_fit_fails_at_the_plan_and_the_first_change_makes_it_pass(
    folder: Path,
) -> None:
    """Through Dagster: the check blocks, its list is followed, the plan passes."""
    training = {"max_length": 512, "per_device_train_batch_size": 8, "gradient_checkpointing": False}
    edit(
        folder / "tenants" / "acme" / "places.yaml",
        lambda d: d.update(method="full", export="merged", training=training),
    )
    needs = plan_variant(load_settings(folder), KEY).estimate.plan.memory_bytes.total
    lent = (0.8 * needs + PROCESS) / 1e9
    edit(folder / "ft_dagster.yaml", lambda d: d.setdefault("host", {}).update(memory_gb=lent))
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        refused = shop.materialize(str(KEY), *UP_TO_PLAN, raises=False)
        assert not refused.success, shop.failure(refused)
        (check,) = [e for e in refused.get_asset_check_evaluations() if e.check_name == "fits"]
        assert not check.passed
        changes = plan_variant(load_settings(folder), KEY).estimate.changes
        assert changes[0].sentence in present(check.description)
        edit(folder / "tenants" / "acme" / "places.yaml", lambda d: _apply(d, changes[0].settings))
        passed = shop.materialize(str(KEY), *UP_TO_PLAN)
        (check,) = [e for e in passed.get_asset_check_evaluations() if e.check_name == "fits"]
        assert check.passed


def _apply(declared: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for field, value in settings.items():
        tree, *names = declared, *field.split(".")
        for name in names[:-1]:
            tree = tree.setdefault(name, {})
        tree[names[-1]] = value


AT_ONCE = "from ft_dagster.cli import main, steps; steps.QUICK_SECONDS = 0.0; main()"


@pytest.mark.long
def test_each_step_is_said_on_stderr_and_none_with_json(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = _project(tmp_path / "project", tiny_model_folder)  # of which nothing was made yet
    command = [sys.executable, "-c", AT_ONCE, "--project", str(folder), "plan", str(KEY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [line.partition(" s  ")[2] for line in done.stderr.splitlines()]
    methods = [line for line in said if line.startswith("dry run of ")]
    assert sorted(methods) == sorted(  # on several cores at once
        f"dry run of {name}, method {number} of {len(METHODS)}" for number, name in enumerate(METHODS, 1)
    )
    read, tokenized = (
        next(number for number, line in enumerate(said) if line.startswith(words))
        for words in ("reads rows of ", "tokenizes ")
    )
    assert read < tokenized < said.index(methods[0])
    assert "dry run of lora," not in done.stdout
    silent = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert silent.stderr == ""
