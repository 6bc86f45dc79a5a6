"""docs/moving.md: its script, its declaration and its import are run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
import yaml
from peft import LoraConfig
from trl import SFTConfig
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.spec import VariantSpec
from tests.docs.page_commands import commands
from tests.e2e.project import PLACES, THINGS
from tests.e2e.workshop import Workshop
from tests.present import present

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "moving.md").read_text("utf-8")
[SCRIPT] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[DECLARED] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


class Moved(NamedTuple):
    """What the script and the chain made of the same rows."""

    folder: Path
    script: dict[str, Any]
    here: dict[str, Any]
    rule: dict[str, Any]


def rows() -> list[dict[str, str]]:
    return [
        {
            "prompt": f"Where is the {THINGS[n % 10]} of the {PLACES[n // 10 % 10]} number {n // 100}? ",
            "completion": f"The {THINGS[n % 10]} is {PLACES[n // 10 % 10]}.",
        }
        for n in range(1000)
    ]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    (folder / "data").mkdir()
    (folder / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    shutil.copytree(tiny_model_folder, folder / "models" / "tiny")
    measured = "\nprint(trainer.evaluate()['eval_loss'])\n"
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT + measured], cwd=folder, check=True, capture_output=True, text=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        [started] = [words for words in commands(PAGE) if words[0] == "init"]
        assert CliRunner().invoke(app, started).exit_code == 0
        (folder / "tenants" / "acme" / "places.yaml").write_text(yaml.safe_dump(DECLARED))
        assert CliRunner().invoke(app, ["check"]).exit_code == 0
        with dg.DagsterInstance.ephemeral() as instance:
            shop = Workshop(folder, instance)
            assert shop.materialize("acme.places").success
        compared = CliRunner().invoke(app, ["compare", "acme.places", "--json"])
    [variant] = json.loads(compared.stdout)["variants"]
    [exported] = folder.glob(
        ".ft_dagster/store/tenants/acme/places/model_export/*/*/payload/adapter_config.json"
    )
    return Moved(
        folder,
        {
            **json.loads((folder / "out/model/adapter_config.json").read_text()),
            "loss": script.stdout.split()[-1],
        },
        json.loads(exported.read_text()),
        variant["rules"][0],
    )


@pytest.mark.slow
@pytest.mark.long
def test_the_script_and_the_declaration_train_the_same_adapter_about_as_far(moved: Moved) -> None:
    for field in ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora"):
        assert moved.here[field] == moved.script[field], field
    assert {*moved.here["target_modules"]} == {*moved.script["target_modules"]}
    assert moved.rule["tuned"] == pytest.approx(float(moved.script["loss"]), abs=0.1)
    assert moved.rule["outcome"] == "pass"
    assert moved.rule["base"] > moved.rule["tuned"] + 1


@pytest.mark.slow
@pytest.mark.long
def test_the_tables_figures_are_those_of_the_run(moved: Moved) -> None:
    assert f"test split of {moved.rule['questions']} rows" in PAGE
    assert f"{moved.rule['base']:.2f} → {moved.rule['tuned']:.2f}" in PAGE


@pytest.mark.slow
@pytest.mark.long
def test_the_files_of_the_service_become_a_released_model_by_the_pages_two_commands(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    row, job = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    system = json.loads(row)["messages"][0]
    talks = [
        [
            system,
            {"role": "user", "content": each["prompt"].strip()},
            {"role": "assistant", "content": each["completion"]},
        ]
        for each in rows()
    ]
    assert talks[0] == json.loads(row)["messages"]
    text = "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
    (tmp_path / "train.jsonl").write_text(text, "utf-8")
    (tmp_path / "job.json").write_text(job, "utf-8")
    shutil.copytree(tiny_model_folder, tmp_path / "models" / "tiny")
    words = [each for each in commands(PAGE) if each[:2] == ["--project", "desk"]]
    imports, run = (next(each for each in words if name in each) for name in ("openai", "run"))
    for each in (imports, run):
        done = subprocess.run(
            [Path(sys.executable).with_name("ft-dagster"), *each],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Released as version 1" in done.stdout
    declared = yaml.safe_load((tmp_path / "desk" / "tenants" / "acme" / "desk.yaml").read_text("utf-8"))
    assert declared["training"]["num_train_epochs"] == json.loads(job)["hyperparameters"]["n_epochs"]


def test_fields_that_are_said_to_have_the_same_name_have_it() -> None:
    named = present(re.search(r"with the same names: (.*?)\. If", PAGE, re.DOTALL)).group(1)
    fields = {*re.findall(r"`(\w+)`", named)}
    ours = {*VariantSpec.model_json_schema()["$defs"]["TrainingSpec"]["properties"]}
    assert len(fields) > 10
    assert fields <= ours & {*SFTConfig.__dataclass_fields__}


def test_what_the_script_calls_its_settings_is_what_trl_and_peft_call_them() -> None:
    for name, known in (("SFTConfig", SFTConfig), ("LoraConfig", LoraConfig)):
        call = present(re.search(rf"{name}\((.*?)\)", SCRIPT, re.DOTALL)).group(1)
        assert {*re.findall(r"(\w+)=", call)} <= {*known.__dataclass_fields__}


def test_fields_that_the_tables_name_are_fields() -> None:
    schema = VariantSpec.model_json_schema()
    for path in sorted({*re.findall(r"`(training|data|evaluation|release)\.(\w+)", PAGE)}):
        part, field = path
        reference = schema["properties"][part]
        while "$ref" not in reference:
            reference = next(iter(reference.get("anyOf") or reference["allOf"]))
        fields = schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"]
        assert field in fields, path
