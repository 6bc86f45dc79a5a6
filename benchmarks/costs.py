"""A store of many artifacts: processor seconds of `ft-dagster cost`.

    .venv/bin/python benchmarks/costs.py [--variants 2000]

Of each variant there is a plan, a training, two evaluations and an export, each of four files.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ft_dagster.provenance.digest import FileDigest, stage_key
from ft_dagster.provenance.manifest import Origin, manifest_of
from ft_dagster.stage_entries import version_of

TENANTS = 50
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
PREDICTED = {"hardware": "NVIDIA H100 80GB HBM3", "layout": {"method": "lora", "gpus": 1}, "hours": 1.0}
TRAINED: dict[str, Any] = {
    "steps": 40, "epochs": 2.0, "train_loss_first": 4.0, "train_loss_last": 2.0, "best_step": 30,
    "tokens": 40_000, "trained_tokens": 12_345, "packing_fill": 0.5, "training_seconds": 100.0,
    "seconds": 3600.0, "peak_memory_bytes": 10**9, "parameters": 10**6, "trainable_parameters": 10**4,
    "flops_estimate": 10**14, "checkpoints_kept": 2, "checkpoint_weights_bytes": 80_000,
    "checkpoint_optimizer_bytes": 160_000, "predicted": PREDICTED,
}  # fmt: skip
SCORED = {"seconds": 60.0, "load_seconds": 5.0}
FIGURES: dict[str, dict[str, Any]] = {
    "training_plan": {"predicted": PREDICTED},
    "fine_tuned_model": TRAINED,
    "base_evaluation": SCORED,
    "evaluation": {**SCORED, "verdict": {"outcome": "pass", "passed": True, "rules": []}},
    "model_export": {"seconds_writing": 5.0, "seconds_certifying": 30.0},
}
COST = """
import sys
sys.argv[1:] = ["--project", ".", "cost", "--json"]
from ft_dagster.cli import main
main()
"""


def put(store: Path, prefix: str, stage: str, inputs: dict[str, str]) -> str:
    """An artifact; its digest."""
    spec = {"of": prefix}
    key = stage_key(stage, version_of(stage), inputs, spec)
    variant = ".".join(prefix.split("/")[1:])
    origin = Origin(stage, version_of(stage), key, inputs, spec, EMPTY, variant)
    payload = [FileDigest(f"{prefix.replace('/', '-')}-{stage}-{number}", 0, EMPTY) for number in range(2)]
    evidence = [FileDigest("log.jsonl", 0, EMPTY)]
    manifest = manifest_of(origin, attempt="a", payload=payload, evidence=evidence, figures=FIGURES[stage])
    folder = store / prefix / stage / key
    for part, files in (("payload", payload), ("evidence", evidence)):
        (folder / "a" / part).mkdir(parents=True)
        for file in files:
            (folder / "a" / part / file.path).touch()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    return str(manifest["predicate"]["digest"])


def cpu_of(command: list[str], folder: Path) -> tuple[float, str]:
    """Processor seconds of a program and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--variants", type=int, default=2000)
    count = asked.parse_args().variants
    with tempfile.TemporaryDirectory() as made:
        project = Path(made)
        (project / "tenants").mkdir()
        for number in range(count):
            prefix = f"tenants/tenant-{number % TENANTS}/v{number // TENANTS}"
            store = project / ".ft_dagster" / "store"
            plan = put(store, prefix, "training_plan", {})
            weights = put(store, prefix, "fine_tuned_model", {"training_plan": plan})
            put(store, prefix, "base_evaluation", {})
            for stage in ("evaluation", "model_export"):
                put(store, prefix, stage, {"fine_tuned_model": weights})
        began = time.monotonic()
        seconds, output = cpu_of([sys.executable, "-c", COST], project)
        told = json.loads(output)
        print(
            f"{told['manifests']:,} manifests, {told['total']['trainings']:,} trainings, "
            f"${told['total']['usd']:,.0f}: {seconds:.1f} CPU s, {time.monotonic() - began:.1f} by the clock"
        )


if __name__ == "__main__":
    main()
