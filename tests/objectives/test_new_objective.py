"""The objective on docs/objectives.md, registered, taken from rows to a verdict: no other file knows it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.mixture.mixture import MixtureParts, build_mixture
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.errors import UserError
from ft_dagster.evaluation.__main__ import main as evaluate
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import read_samples
from ft_dagster.objectives import OBJECTIVES, Objective
from ft_dagster.planning.dryrun.footprint import footprint
from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.variant import GatesSpec, VariantSpec
from ft_dagster.training.__main__ import main as train
from ft_dagster.training.contract import method_settings
from tests.evaluation.questions import write_run
from tests.mixtures import iter_examples
from tests.present import present
from tests.training.runs import TRAINING, Runs, payload_bytes, result_of

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
MAX_LENGTH = 48
TOPICS = {"billing": "the invoice is wrong", "delivery": "the parcel is late", "account": "I cannot log in"}
ROWS = [
    {"prompt": f"Case {i}: {said}. It is", "completion": f" {topic}"}
    for i in range(40)
    for topic, said in TOPICS.items()
]


@pytest.fixture
def imitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objective:
    """The file of the page, with the one line in the registry that the page asks for."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    file = tmp_path / "imitation.py"
    file.write_text(code, "utf-8")
    described = importlib.util.spec_from_file_location("imitation", file)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    monkeypatch.setitem(OBJECTIVES, "imitation", module.IMITATION)
    return module.IMITATION


def declared(**more: Any) -> VariantSpec:
    content = {
        "description": "x",
        "owners": ["me"],
        "base_model": "base",
        "objective": "imitation",
        "data": {"sources": ["rows.jsonl"], "splits": {"validation": 0.1, "minimum": 4}},
        "evaluation": {"kind": "label", "general": []},
        "method": "full",
        "export": "merged",
    }
    return VariantSpec.model_validate({**content, **more})


def mixed(folder: Path, base: Path, rows: list[dict[str, str]]) -> Runs:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec, dataset, mixture = declared(), folder / "rows", folder / "mixture"
    dataset.mkdir()
    mixture.mkdir()
    build_task_dataset(spec, folder, [], dataset)
    build_mixture(spec, MixtureParts(dataset, base), MAX_LENGTH, mixture)
    return Runs(folder, base, mixture)


def planned(base: Path, mixture: Path) -> dict[str, Any]:
    train = json.loads((mixture / "mixture.json").read_text("utf-8"))["splits"]["train"]
    hardware = Hardware("cpu", 1, "a CPU", None, 1e11, False, None)
    given = facts(
        shapes_of_configuration(base / "config.json"),
        examples=train["examples"], tokens=train["tokens"], max_length=MAX_LENGTH, device_kind="cpu", ranks=1,
        device_memory=None, bf16=False,
    )  # fmt: skip
    return make_plan(declared(), given, PlanContext(base, hardware, base="b" * 64)).content.to_json()


def scored(folder: Path, base: Path, tuned: Path | None, test: Path) -> Path:
    own = {"test": test, "max_new_tokens": 8, "kind": "label"}
    write_run(folder, base, tuned=tuned, test_split_task=own)
    assert evaluate(folder) == 0
    return folder / "output" / "payload"


@pytest.mark.long
def test_a_new_objective_is_mixed_planned_trained_and_judged(
    tmp_path: Path, tiny_model_folder: Path, imitation: Objective
) -> None:
    runs = mixed(tmp_path, tiny_model_folder, ROWS)
    for example in iter_examples(runs.mixture, "train"):
        assert example.trained_spans.tolist() == [[1, len(example.input_ids)]]
    plan = planned(tiny_model_folder, runs.mixture)
    assert plan["own_loss"] == "imitation"
    assert plan["training"]["num_train_epochs"] == present(imitation.epochs).value
    plan["training"] |= {**TRAINING, "learning_rate": 3e-3, "num_train_epochs": 6.0}
    run = runs.prepare(plan=plan)
    assert train([str(run)]) == 0
    first = result_of(run)["figures"]["validation_loss_first"]
    assert first == pytest.approx(loss_by_hand(tiny_model_folder, runs.mixture, imitation), rel=1e-5)
    test = tmp_path / "rows" / "test.parquet"
    base, tuned = (
        read_samples(scored(tmp_path / name, tiny_model_folder, weights, test))
        for name, weights in (("base", None), ("tuned", run / "acme.support" / "payload"))
    )
    verdict = judge(base, tuned, GatesSpec(), objective="imitation")
    assert [rule.metric for rule in verdict.rules] == ["exact_match"]
    assert verdict.rules[0].base < 0.1
    assert verdict.rules[0].tuned > 0.9


def loss_by_hand(base: Path, mixture: Path, objective: Objective) -> float:
    """Of the base on the validation split, one example at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    total, tokens = 0.0, 0
    for example in iter_examples(mixture, "validation"):
        ids = torch.tensor([example.input_ids.tolist()])
        with torch.no_grad():
            total += objective.loss(model(ids).logits[0, :-1], ids[0, 1:]).item()
        tokens += ids.numel() - 1
    return total / tokens


def test_another_loss_is_another_training(
    tmp_path: Path, tiny_model_folder: Path, imitation: Objective
) -> None:
    """Of the same mixture by the same settings."""
    runs = mixed(tmp_path, tiny_model_folder, ROWS[:60])
    short = {**TRAINING, "max_steps": 3, "evaluations": 1}
    done = []
    for name, own_loss in (("shared", {}), ("own", {"own_loss": "imitation"})):
        plan = {"method": {"name": "full"}, "training": short, **own_loss}
        run = runs.prepare(name, plan=plan)
        assert train([str(run)]) == 0
        done.append((result_of(run)["recipe"], payload_bytes(run)["model.safetensors"]))
    (shared, plain), (own, smoothed) = done
    assert shared != own
    assert plain != smoothed


def test_the_dry_run_counts_the_logits_that_an_own_loss_keeps(
    tiny_model_folder: Path, imitation: Objective
) -> None:
    """Where the head is trained; the shared loss is computed in tiles on a GPU."""
    step: dict[str, Any] = {"rows": 4, "length": 128, "trained_positions": 127, "device": "cuda"}
    full = method_settings({"name": "full"})
    shared, own = (
        footprint(tiny_model_folder, full, Step(**step, own_loss=name)) for name in (None, "imitation")
    )
    rows = json.loads((tiny_model_folder / "config.json").read_text("utf-8"))["vocab_size"]
    assert own.moments["head"].total - shared.moments["head"].total > 4 * 127 * rows * 4


def test_a_new_objective_says_what_it_needs(
    tmp_path: Path, tiny_model_folder: Path, imitation: Objective
) -> None:
    with pytest.raises(ValueError, match=r"objective imitation needs evaluation\.kind"):
        declared(evaluation={})
    with pytest.raises(UserError) as caught:
        mixed(tmp_path, tiny_model_folder, [{"text": f"Report {i} of the town."} for i in range(80)])
    assert "imitation trains on conversations and prompts with completions" in caught.value.problem
    assert caught.value.fix.startswith("Declare objective: instruction for such rows")
