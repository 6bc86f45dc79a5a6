"""What version 0.1.0 made is read, verified, served and taken back by this one.

Asked is the command line, as a person would; `artifacts` alone knows the package. See make_store for the
story that store_0_1 holds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from tests.compat.make_store import PROMPTS, TOKENS
from tests.e2e.project import POLICY, command_environment
from tests.kept_project import OLD_PROJECT
from tests.present import present

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from ft_dagster.store import Artifact

ANSWERS = json.loads((OLD_PROJECT / "answers.json").read_text("utf-8"))
STAGES = {
    "declaration", "base_model", "general_corpus", "evaluation_texts", "task_dataset", "training_mixture",
    "training_plan", "fine_tuned_model", "base_evaluation", "evaluation", "model_export",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kept project with its store, elsewhere than where it was made."""
    folder = tmp_path / "moved" / "project"
    inner = command_environment(folder)
    for name in [name for name in os.environ if name not in inner]:
        monkeypatch.delenv(name)
    shutil.copytree(OLD_PROJECT, folder)
    (folder / "policy.yaml").write_text(json.dumps(POLICY), "utf-8")  # then there was none, and no floor
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(folder))  # which opening the instance sets
    return folder


def typed(project: Path, *words: str, exit_code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), *words, "--json"], catch_exceptions=False)
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout)


def artifacts(project: Path) -> list[tuple[Artifact, Path]]:
    """(artifact, its folder) of each manifest in the store, every byte of it verified. Raises UserError."""
    from ft_dagster.store import Place, Store, find_artifact, verify_artifact

    store, cache = Store(str(project / "store")), project / "cache"
    found = []
    for manifest in sorted((project / "store").rglob("manifest.json")):
        prefix, stage, key = manifest.parent.relative_to(project / "store").as_posix().rsplit("/", 2)
        artifact = present(find_artifact(store, Place(prefix, stage, key)))
        verify_artifact(store, artifact, cache)
        found.append((artifact, artifact.folder(store, cache)))
    return found


def payload(project: Path, stage: str, digest: str) -> Path:
    """The payload folder of the artifact with this digest."""
    (folder,) = {f for a, f in artifacts(project) if (a.place.stage, a.digest) == (stage, digest)}
    return folder / "payload"


def log_files(project: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (project / "store").rglob("releases/*.json")}


def answered(model: Any, tokenizer: Any, prompt: str) -> str:
    """What a model says to a prompt as a chat turn, greedily, as `try` asks."""
    import torch

    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        said = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
        )
    return tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_every_artifact_of_every_stage_verifies(project: Path) -> None:
    assert {artifact.place.stage for artifact, _ in artifacts(project)} == STAGES


def test_a_byte_that_changed_since_is_found(project: Path) -> None:
    file = next((project / "store").rglob("model_export/*/*/payload/adapter_model.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="has other bytes than when it was made"):
        artifacts(project)


def test_the_release_logs_tell_what_happened(project: Path) -> None:
    places = typed(project, "history", "acme.places")
    story = [(entry["action"], entry["version"], entry["production"]) for entry in places["entries"]]
    assert story == [("release", 1, 1), ("release", 2, 2), ("rollback", 1, 1), ("release", 3, 3)]
    assert places["aliases"] == {"production": 3, "candidate": 3}
    assert (places["entries"][2]["by"], places["entries"][2]["reason"]) == ("ann", "answers too long")
    merged = typed(project, "history", "globex.places")["entries"]
    assert [(entry["action"], entry["production"]) for entry in merged] == [("release", None), ("promote", 1)]
    assert typed(project, "history", "globex.strict")["entries"] == []


def test_the_status_of_each_variant_is_read(project: Path) -> None:
    rows = {row["variant"]: row for row in typed(project, "status")["variants"]}
    assert {name: (row["gate"], row["version"]) for name, row in rows.items()} == {
        "acme.places": (True, 3),
        "acme.colours": (True, 1),
        "globex.places": (True, 1),
        "globex.strict": (False, None),
    }
    released = typed(project, "history", "acme.places")["entries"][-1]
    assert rows["acme.places"]["digest"] == released["export"]
    assert rows["acme.places"]["stages"]["fine_tuned_model"] == released["weights"]
    assert rows["acme.colours"]["stale"] is None
    for row in rows.values():
        raised = [cause["words"] for cause in row["causes"] if cause["kind"] == "stage"]
        assert any(words.startswith("training_plan is at version ") for words in raised)
    strict = rows["globex.strict"]["stages"]
    assert strict["evaluation"]
    assert strict["model_export"] is None


def test_what_a_failed_gate_said_is_read(project: Path) -> None:
    (row,) = typed(project, "compare", "globex.strict")["variants"]
    assert (row["gate"], row["outcome"]) == (False, "undecided")
    assert [rule["task"] for rule in row["rules"] if not rule["passed"]] == ["general_holdout"]


@pytest.mark.parametrize("name", ["acme.places", "globex.places", "globex.strict"])
def test_a_report_is_made_of_what_it_left(project: Path, name: str) -> None:
    """Of a version as an adapter, of one as a whole model, and of what was never released."""
    file = project / "report.html"
    typed(project, "report", name, "--to", str(file))
    said = file.read_text("utf-8")
    sentence = typed(project, "compare", name)["variants"][0]["verdict"]
    assert f">{sentence}.<" in said
    assert "data/places.jsonl" in said


def test_its_declarations_hold_and_its_plans_are_shown(project: Path) -> None:
    """All but the one whose gate failed, and which is now told before a run that it cannot hold."""
    checked = {one["variant"]: one for one in typed(project, "check", exit_code=1)["variants"]}
    assert {key: one["ok"] for key, one in checked.items()} == {
        "acme.places": True,
        "acme.colours": True,
        "globex.places": True,
        "globex.strict": False,
    }
    errors = {error["field"]: error["problem"] for error in checked["globex.strict"]["errors"]}
    assert set(errors) == {"gates.general_loss_margin", "gates.loss_tail", "gates.regression_loss_margin"}
    assert "cannot pass whatever is trained" in errors["gates.general_loss_margin"]
    shown = typed(project, "show", "acme.colours")
    assert shown["fields"]["base_model.variant"]["value"] == "acme.places"
    assert {"training.learning_rate", "method.rank"} <= {reason["field"] for reason in shown["plan"]}


def test_every_adapter_in_the_catalogue_is_served_with_the_answer_it_gave_then(
    project: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    typed(project, "catalogue", "--to", str(tmp_path / "catalogue"))
    served = {}
    for file in (tmp_path / "catalogue").glob("*/adapters.json"):
        index = json.loads(file.read_text("utf-8"))
        base = payload(project, "base_model", index["base_digest"].removeprefix("sha256:"))
        base = base / "model" if (base / "model").is_dir() else project / "models" / "tiny"
        (adapter,) = index["adapters"]
        assert f"{adapter['name']}={adapter['adapter_id']}" in file.with_name("vllm.args").read_text("utf-8")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter["adapter_id"])
        tokenizer = AutoTokenizer.from_pretrained(adapter["adapter_id"])
        served[adapter["name"]] = answered(model, tokenizer, PROMPTS[adapter["name"]])
    assert served == {name: ANSWERS[name] for name in ("acme.places", "acme.colours")}


def test_a_merged_model_is_served_with_the_answer_it_gave_then(project: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    entry = typed(project, "history", "globex.places")["entries"][-1]
    folder = payload(project, "model_export", entry["export"])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert answered(model, tokenizer, PROMPTS["globex.places"]) == ANSWERS["globex.places"]


@pytest.mark.parametrize("variant", PROMPTS)
def test_try_gives_the_answer_it_gave_then(project: Path, variant: str) -> None:
    (said,) = typed(project, "try", variant, "--prompt", PROMPTS[variant], "--max-new-tokens", str(TOKENS))
    assert said["answers"][0]["tuned"] == ANSWERS[variant]
    assert said["answers"][0]["base"] != ANSWERS[variant]


def test_every_export_has_a_model_card_that_names_its_bytes(project: Path) -> None:
    from huggingface_hub import ModelCard

    libraries = []
    for artifact, folder in artifacts(project):
        if artifact.place.stage == "model_export":
            card = ModelCard.load(folder / "evidence" / "README.md")
            named = (artifact.digest, artifact.inputs["fine_tuned_model"], artifact.inputs["evaluation"])
            assert all(digest in card.text for digest in named)
            assert {result.dataset_name for result in card.data.eval_results} >= {"own_task", "sea_quiz"}
            libraries.append((artifact.predicate["variant"], card.data.library_name))
    released = [("acme.colours", "peft"), *[("acme.places", "peft")] * 3, ("globex.places", "transformers")]
    assert libraries == released


def test_it_is_rolled_back_and_forward_again(project: Path, tmp_path: Path) -> None:
    before = log_files(project)
    entry = typed(project, "rollback", "acme.places", "--reason", "worse")
    assert (entry["from_version"], entry["production"]) == (3, 1)  # 2 had been rolled back
    rows = {row["variant"]: row for row in typed(project, "status")["variants"]}
    assert rows["acme.places"]["version"] == 1
    said = "acme.places v3, which it was made on, was rolled back"
    assert rows["acme.colours"]["stale"] == said
    moved = [cause for cause in rows["acme.colours"]["causes"] if cause["kind"] in ("parent", "rolled_back")]
    assert [(cause["variant"], cause["what"], cause["words"]) for cause in moved] == [
        ("acme.colours", "acme.places", said)
    ]
    assert {cause["variant"] for cause in rows["acme.colours"]["causes"]} == {"acme.colours", "acme.places"}
    typed(project, "catalogue", "--to", str(tmp_path / "catalogue"))
    (adapter,) = [
        one
        for file in (tmp_path / "catalogue").glob("*/adapters.json")
        for one in json.loads(file.read_text("utf-8"))["adapters"]
        if one["name"] == "acme.places"
    ]
    assert adapter["version"] == 1
    assert Path(adapter["adapter_id"], "adapter_model.safetensors").is_file()

    forced = ["--version", "3", "--force", "--reason", "it was not"]
    assert typed(project, "release", "acme.places", *forced)["production"] == 3
    assert log_files(project).items() >= before.items()
    assert len(typed(project, "history", "acme.places")["entries"]) == 6


@pytest.mark.long
def test_the_chain_goes_on_from_it(project: Path) -> None:
    declared = project / "tenants" / "globex" / "places.yaml"
    calmer = declared.read_text("utf-8").replace("learning_rate: 0.02", "learning_rate: 0.01")
    declared.write_text(calmer, "utf-8")  # at 0.02 a change of rounding alone can make a worse model
    before = log_files(project)
    own = {"CUDA_VISIBLE_DEVICES": "", "FT_DAGSTER_HOST__LOCK_FOLDER": str(project.with_name("leases"))}
    program = str(Path(sys.executable).with_name("ft-dagster"))
    done = subprocess.run(
        [program, "--project", str(project), "run", "globex.places", "--json"],
        env={**command_environment(project), **own}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (row,) = json.loads(done.stdout)["variants"]
    assert row["gate"] is True
    history = typed(project, "history", "globex.places")
    assert history["aliases"]["production"] == 1  # another version would wait for its approver
    assert log_files(project).items() >= before.items()
