"""The ablation of the share of general text: what is declared, and what the table is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.decision_regret import BASE, Cell, Measured, Question
from benchmarks.decisions import VARIANT, Bench
from benchmarks.general_share import MIXES, NONE, Mix, as_planned, table
from ft_dagster.data.mixture.mixture_figures import GeneralShare, MixtureFigures, SourceFigures, SplitFigures
from ft_dagster.program import write_json
from ft_dagster.spec import VariantKey, VariantSpec
from tests.present import present
from tests.training.runs import LORA, TRAINING


def declared(mix: Mix) -> VariantSpec:
    text = VARIANT.format(
        kind="labels", seed=0, named="labels", objective="instruction", model="m", format="text",
        general=mix.declared, held_out=0.4,
    )  # fmt: skip
    return VariantSpec.model_validate(yaml.safe_load(text))


def test_both_kinds_of_share_are_declared_at_each_percent_and_none_once() -> None:
    general = [present(declared(mix).data.general) for mix in MIXES]
    assert [(each.share, each.share_of) for each in general] == [
        (0.0, "trained"), (0.08, "trained"), (0.25, "trained"), (0.08, "processed"), (0.25, "processed"),
    ]  # fmt: skip
    names = {VariantKey("bench", f"labels{mix.suffix}-0") for mix in MIXES}
    assert len(names) == len(MIXES)


def write_mixture(folder: Path, general: int) -> Path:
    """Its figures alone."""
    parts = {
        "rows.jsonl": SourceFigures(9, 9, 900, 90, 0),
        "general:general": SourceFigures(2, 2, general, general, 0),
    }
    split = SplitFigures(11, 11, 900 + general, 90 + general, (), parts)
    figures = MixtureFigures("t", 128, 0, "o", {"train": split}, GeneralShare(0.08, 0.08), 100, {})
    write_json(folder / "mixture.json", figures.file_json())
    return folder


def keep(bench: Bench, mix: Mix, seed: int, loss: float, general: float, *, base: bool = False) -> None:
    plan = {"method": LORA, "training": {**TRAINING, "learning_rate": 6e-4}}
    name = f"labels{mix.suffix}"
    mixture = write_mixture(bench.project / f"{name}-{seed}", general=10 * mix.percent)
    given: dict[str, Any] = {
        "task": name, "objective": "instruction", "seed": seed, "base": "b", "base_digest": "b" * 64,
        "mixture": str(mixture), "mixture_digest": f"{mix.percent:064}", "unseen": "u",
        "unseen_digest": "u" * 64,
        "plans": {"lora": plan},
        "auto": ("lora", 6e-4), "limit": 0.1, "probes": {},
    }  # fmt: skip
    question = Question(**given)
    write_json(bench.question_file(name, seed), question.to_json())
    losses = {"chosen_on": (loss, 9), "scored_on": (loss + 1, 9), "general": (general, 12)}
    cell: Cell = BASE if base else as_planned(question)
    found = Measured(name, seed, "lora", 6e-4, cell.steps, 60, losses, None, 1e12, 10.0, 2.0)
    write_json(bench.file(question, cell), asdict(found))


def test_a_row_is_held_against_the_base_on_the_same_rows_and_is_the_mean_of_its_seeds(tmp_path: Path) -> None:
    bench, mix = Bench(tmp_path / "project", tmp_path / "results"), Mix(8, "processed")
    for seed, more in ((0, 0.0), (1, 0.2)):
        keep(bench, mix, seed, loss=1.0 + more, general=3.1 + more)
    assert len(table(bench, ["labels"], [0, 1]).splitlines()) == 2
    for seed in (0, 1):
        keep(bench, NONE, seed, loss=4.0, general=3.0, base=True)
    *_, row = table(bench, ["labels", "long"], [0, 1]).splitlines()
    assert row == "| labels | 8% | processed | 2 | 80 | 60 | 4.500 → 1.600 | +0.200 |"
