"""Artifacts of which only the manifests matter: what was trained, judged and prepared, and what it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.store import Artifact, Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.stored_figures import stored_training

H100, PRICE = "NVIDIA H100 80GB HBM3", 2.0
CATALOGUE = f"cards:\n  H100-80GB: {{usd_per_hour: {PRICE}}}\n"


def catalogue(folder: Path) -> Any:
    (folder / "gpus.yaml").write_text(CATALOGUE)
    return load_catalogue(folder)


def put(
    store: Store,
    stage: str,
    prefix: str,
    inputs: dict[str, str],
    figures: dict[str, Any],
    *,
    name: str = "x",
    manifests: dict[str, str] | None = None,
) -> Artifact:
    """An artifact of which only the manifest matters; `name` tells it from others of the stage. `manifests`:
    of its inputs.
    """

    def build(attempt: Any) -> dict[str, Any]:
        (attempt.payload / "what.txt").write_text(f"{prefix} {stage} {name}")
        return figures

    recipe = Recipe(stage, prefix, inputs, {"x": name}, manifests=manifests or {})
    return make_artifact(store, Path(store.root) / "work", recipe, build)


def predicted(hours: float | None, device: str = H100, gpus: int = 2) -> dict[str, Any]:
    return {"hardware": device, "layout": {"method": "lora", "gpus": gpus}, "hours": hours}


def train(store: Store, prefix: str, name: str = "x", hours: float = 1.0, **said: Any) -> Artifact:
    """A training of two GPUs that took so long."""
    figures = stored_training(seconds=hours * 3600, training_seconds=10.0, **said)
    return put(store, "fine_tuned_model", prefix, {"training_plan": f"plan of {name}"}, figures, name=name)


def judge(
    store: Store, model: Artifact, outcome: str, name: str = "x", seconds: float = 1800.0, **changes: Any
) -> Artifact:
    """`changes`: of the verdict."""
    verdict = {"outcome": outcome, "passed": outcome == "pass", "rules": [], **changes}
    figures = {"seconds": seconds - 100, "load_seconds": 100.0, "verdict": verdict}
    inputs = {"fine_tuned_model": model.digest}
    return put(store, "evaluation", model.place.prefix, inputs, figures, name=name)
