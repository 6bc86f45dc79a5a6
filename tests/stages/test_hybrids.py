"""Bases of layers with a state, and without SDPA, go the whole way: trained, validated, exported,
reloaded by plain PEFT.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.training.batches.apart import side_by_side
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_project
from tests.tiny_classes import make_tiny

pytestmark = [pytest.mark.slow, pytest.mark.long]
TRAINED = {  # of a layer with a state, and of one that attends
    "qwen3_next": ["in_proj_qkvz", "q_proj"],
    "qwen3_5_text": ["in_proj_qkv", "q_proj"],
    "granitemoehybrid": ["in_proj", "q_proj"],
    "bamba": ["in_proj", "q_proj"],
    "falcon_h1": ["in_proj", "q_proj"],
}
PACKED = {"gpt_oss": ["q_proj", "v_proj"], "gemma2": ["q_proj", "v_proj"]}  # whose attention is eager


@pytest.mark.parametrize("kind", [*TRAINED, *PACKED])
def test_a_base_of_an_unusual_class_goes_from_rows_to_an_export_that_plain_peft_loads(
    kind: str, tmp_path: Path
) -> None:
    base, layers = make_tiny(kind, tmp_path / "base"), (TRAINED | PACKED)[kind]
    folder = write_project(tmp_path / "project", base)
    edit(
        folder / "tenants" / "acme" / "places.yaml",
        lambda content: content["method"].update(target_modules=layers),
    )
    run = RunOf("test", "test", lambda line: None)
    workspace = Workspace(load_settings(folder), VariantKey("acme", "places"), run)
    outcome = run_chain(workspace, up_to("model_export"))
    assert outcome.error is None, outcome.error
    plan, trained = workspace.upstream("training_plan"), workspace.upstream("fine_tuned_model")
    assert plan.figures["training"]["packing"] is (kind in PACKED)
    assert any(line.startswith("not packed") for line in plan.figures["warnings"]) is (kind in TRAINED)
    losses = [trained.figures[name] for name in ("validation_loss_first", "validation_loss_best")]
    assert losses[1] < losses[0]

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    batch = side_by_side(*(torch.arange(start, start + 12) for start in (100, 200, 300)))
    ids = {"input_ids": batch["input_ids"]}
    with torch.no_grad():
        before = plain(**ids, use_cache=False).logits
        tuned = PeftModel.from_pretrained(plain, str(workspace.payload(workspace.upstream("model_export"))))
        after = tuned.eval()(**ids, use_cache=False).logits
    assert (after - before).abs().max() > 1e-3
    updated = {
        name.split(".lora_A")[0].rsplit(".", 1)[-1]
        for name, _ in tuned.named_parameters()
        if "lora_A" in name
    }
    assert updated == set(layers)
