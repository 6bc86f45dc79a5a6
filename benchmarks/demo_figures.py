"""What the demo's variants came to, from its store into `demo.json`, and from there into the READMEs' tables.

.venv/bin/python benchmarks/demo_figures.py [PROJECT]     # after `make demo`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import DEMO, HERE
from benchmarks.tables import markdown
from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.gate.samples import read_answers
from ft_dagster.gate.verdict_words import verdict_word
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.figures import change, count, duration, percent, size
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey, variant_files
from ft_dagster.store import read_head
from ft_dagster.training.training_figures import TrainingFigures
from tests.present import present

FILE = HERE / "demo.json"
WORDS = {"passed, undecided": "passed with warnings"}  # as the README says it
FIGURES = (
    "rule",
    "task",
    "metric",
    "base",
    "tuned",
    "difference",
    "interval",
    "margin",
    "questions",
    "outcome",
)
README = (
    *("variant", "method", "rows", "trained tokens", "general share of all tokens", "task, base → tuned"),
    *("general loss", "mean of ARC-Easy and SciQ (40 questions each)", "gate", "export"),
)
TRAINED = (
    *("variant", "method", "steps", "time of the steps", "memory at its highest", "FLOPs"),
    *("effective rank of 16 (condition)", "checkpoints kept: weights + optimizer states"),
)
PAGES = {HERE.parent / "README.md": README, HERE / "README.md": TRAINED}  # which table stands where


def figures_of(settings: Settings, key: VariantKey) -> dict[str, Any]:
    """Of a variant's newest artifacts."""
    store = settings.open_store()
    made = {
        stage: present(read_head(store, key.prefix, stage))
        for stage in ("task_dataset", "training_mixture", "fine_tuned_model", "evaluation", "model_export")
    }
    mixture, export = MixtureFigures.of(made["training_mixture"]), made["model_export"]
    trained = TrainingFigures.of(made["fine_tuned_model"])
    verdict = Verdict.from_json(made["evaluation"].figures["verdict"])
    answers = read_answers(made["evaluation"].folder(store, settings.cache_folder) / "evidence")
    expected = [
        each.expected for each in answers if each.role == "test_split_task" and len(each.expected) < 8
    ]
    return {
        "variant": str(key),
        "method": trained.method,
        "rows": sum(made["task_dataset"].figures["rows"].values()),
        "trained_tokens": mixture.train.trained_tokens,
        "general_share": mixture.general_share.realized,
        "share_of": mixture.share_of,
        "verdict": verdict_word(verdict),
        "rules": [{name: rule.to_json()[name] for name in FIGURES} for rule in verdict.rules],
        "commonest_answer": max(map(expected.count, expected)) / len(expected) if expected else None,
        "export": {"format": export.figures["format"], "bytes": export.size, "digest": export.digest},
        "steps": trained.steps,
        "seconds": round(trained.training_seconds),
        "memory_bytes": trained.peak_bytes,
        "flops": trained.flops,
        "effective_rank": trained.effective_rank,
        "condition": trained.spectrum_condition,
        "checkpoint_bytes": [trained.checkpoint_weights_bytes, trained.checkpoint_optimizer_bytes],
        "computed_on": trained.computed_on,
    }


def table_of(head: Sequence[str], variants: Sequence[Mapping[str, Any]]) -> str:
    row = _readme_row if head == README else _training_row
    return (
        markdown(head, [row(each) for each in variants]).replace("| --- |", "|---|").replace(" --- |", "---|")
    )


def with_table(page: str, head: Sequence[str], table: str) -> str:
    """A page with this table in place of the one that has the same head."""
    begin = page.index(f"| {' | '.join(head)} |\n")
    return page[:begin] + table + page[page.index("\n\n", begin) + 1 :]


def _readme_row(of: Mapping[str, Any]) -> list[str]:
    rules: dict[str, list[dict[str, Any]]] = {}
    for rule in of["rules"]:
        rules.setdefault(rule["rule"], []).append(rule)
    (task,), (loss,), general = rules["task"], rules["general_loss"], rules["general_benchmark"]
    means = [sum(rule[side] for rule in general) / len(general) for side in ("base", "tuned")]
    metric = task["metric"].removeprefix("completion_").replace("_", " ")
    return [
        of["variant"],
        of["method"],
        count(of["rows"]),
        count(of["trained_tokens"]),
        percent(of["general_share"]),
        f"{metric} {change(task['metric'], task['base'], task['tuned'])}",
        change("general_loss", loss["base"], loss["tuned"]),
        change("acc_norm", *means),
        WORDS.get(of["verdict"], of["verdict"]),
        f"{of['export']['format']}, {size(of['export']['bytes'])}",
    ]


def _training_row(of: Mapping[str, Any]) -> list[str]:
    rank = "" if of["effective_rank"] is None else f"{of['effective_rank']:.1f} ({of['condition']:.0f})"
    return [
        of["variant"],
        of["method"],
        count(of["steps"]),
        duration(of["seconds"]),
        size(of["memory_bytes"]),
        f"{of['flops']:.3g}",
        rank,
        " + ".join(map(size, of["checkpoint_bytes"])),
    ]


def main(project: Path) -> None:
    settings = load_settings(project)
    variants = [figures_of(settings, key) for key in variant_files(settings.project)]
    FILE.write_text(json.dumps(variants, indent=1) + "\n", "utf-8")
    for page, head in PAGES.items():
        page.write_text(with_table(page.read_text("utf-8"), head, table_of(head, variants)), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
