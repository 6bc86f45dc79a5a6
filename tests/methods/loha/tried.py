"""Plans, trains, resumes, exports and loads a tiny model by LoHa, in a package that has it.

python -m tests.methods.loha.tried FOLDER BASE
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ft_dagster.export.adapter import export_adapter
from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.training import checkpoints
from ft_dagster.workspace.answer_engine import not_by_vllm
from tests.training.methods.taught import distance, habit, load_base, reloaded, train, trained_model
from tests.training.runs import Runs, payload_bytes

LOHA = {"name": "loha", "rank": 4, "alpha": 8.0, "target_modules": "all-linear"}


def main(folder: Path, base: Path) -> None:
    made = foreseen(base)
    method = made.content.to_json()["method"]
    assert method == LOHA
    (row,) = (row for row in made.estimate.ranking if row.method == "loha")
    assert row.memory_gb_per_gpu > 0
    assert not_by_vllm(method, new_tokens=False) == "vLLM does not load the adapter: it is no LoRA"
    runs = Runs(folder, base, habit(folder / "mixture"))
    training = {"num_train_epochs": 4.0, "learning_rate": 0.02}
    run = runs.prepare("run", method=method, training=training)
    figures = train(run)
    assert figures["validation_loss_best"] < figures["validation_loss_first"] - 0.2
    assert figures["trainable_parameters"] == made.estimate.trainable_parameters
    whole, member = payload_bytes(run), run / "acme.support"
    checkpoints.discard(checkpoints.complete(member / "checkpoints")[-1].folder)
    (member / "result.json").unlink()
    shutil.rmtree(member / "payload")
    assert train(run)["resumed_from"]
    assert payload_bytes(run) == whole
    export_adapter(base, "b" * 64, member / "payload", folder / "export")
    served = reloaded(base, folder / "export")
    assert distance(served, trained_model(run)) < 1e-5
    assert distance(served, load_base(base)) > 0.1


def foreseen(base: Path) -> PlanAndEstimate:
    """The plan of a declaration, its memory by dry run."""
    spec = VariantSpec.model_validate(
        {
            "description": "x",
            "owners": ["me"],
            "base_model": "base",
            "data": {"sources": ["rows.jsonl"]},
            "method": {"name": "loha", "rank": 4, "alpha": 8},
        }
    )
    given = facts(
        shapes_of_configuration(base / "config.json"),
        examples=100, tokens=2000, max_length=48, device_kind="cpu", ranks=1, device_memory=None, bf16=False,
    )  # fmt: skip
    hardware = Hardware("cpu", 1, "a CPU", None, 1e11, False, None)
    return make_plan(spec, given, PlanContext(base, hardware, base="b" * 64))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
