"""Reads a job of hosted fine-tuning: its hyperparameters in both of their shapes, and what else it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.imports.ledger import Item, Ledger
from ft_dagster.versions.imports.rules import UNKNOWN, Rule, apply, changed, is_object, noted, number

TELLS = ("training_file", "hyperparameters", "method")  # columns of a job, and of no row
LISTED = "data"  # of a list of jobs, as the service gives it
LARGEST_MICRO_BATCH = 4  # rows of a step that are computed at once
LEFT_TO_THE_PLAN = "left to the plan, as it was left to the service"
NO_OTHER_METHOD = "only supervised training is done here"


def job_in(content: Any) -> bool:
    """Say whether a JSON document is a job, or a list of jobs."""
    if not isinstance(content, dict):
        return False
    jobs = content.get(LISTED) if content.get("object") == "list" else [content]
    return isinstance(jobs, list) and bool(jobs) and all(map(_is_job, jobs))


def _is_job(content: Any) -> bool:
    if not isinstance(content, dict) or "messages" in content:
        return False
    return content.get("object") == "fine_tuning.job" or any(name in content for name in TELLS)


def read_job(ledger: Ledger, file: Path, content: JsonObject) -> None:
    """Note what becomes of each field of the one job in a file. Raises UserError."""
    jobs = content[LISTED] if content.get("object") == "list" else [content]
    if len(jobs) > 1:
        fix = "Save the job to import into a file of its own"
        raise UserError(f"a list of {len(jobs)} jobs", file=file, fix=fix)
    [job] = jobs
    said = {name: value for name, value in job.items() if value not in ([], {})}
    method = is_object(Item(file, "method", said.pop("method", {})))
    legacy = is_object(Item(file, "hyperparameters", said.pop("hyperparameters", {})))
    kind = method.get("type", "supervised")
    if kind not in METHODS:
        fix = f"Known are {', '.join(METHODS)}"
        raise Item(file, "method.type", kind).error("no method of the service", fix)
    known = _read_method(ledger, file, kind, method)
    for name, value in legacy.items():
        _read_legacy(ledger, Item(file, f"hyperparameters.{name}", value), kind, known.get(name))
    apply(ledger, file, said, JOB)


def _read_method(ledger: Ledger, file: Path, kind: str, method: JsonObject) -> JsonObject:
    """Note the fields of `method`; return its hyperparameters."""
    if method.get("type"):
        item = Item(file, "method.type", kind)
        if kind == "supervised":
            ledger.keep(item, "as here")
        else:
            ledger.drop(item, NO_OTHER_METHOD)
    part = is_object(Item(file, f"method.{kind}", method.get(kind) or {}))
    where = f"method.{kind}.hyperparameters"
    hyperparameters = is_object(Item(file, where, part.get("hyperparameters") or {}))
    for name, value in hyperparameters.items():
        _read_hyperparameter(ledger, Item(file, f"{where}.{name}", value), kind)
    for name, value in part.items():
        if name != "hyperparameters" and value is not None:
            ledger.drop(Item(file, f"method.{kind}.{name}", value), NO_OTHER_METHOD)
    for name, value in method.items():
        if name not in ("type", kind) and value:
            ledger.drop(Item(file, f"method.{name}", value), f"the job's method is {kind}")
    return hyperparameters


def _read_legacy(ledger: Ledger, item: Item, kind: str, said: Any) -> None:
    """Note a hyperparameter of the older shape, which a job of today repeats."""
    if said is None:
        _read_hyperparameter(ledger, item, kind)
    elif item.value in (said, None):
        ledger.keep(item, f"method.{kind} says the same")
    else:
        ledger.drop(item, f"method.{kind}.hyperparameters says another value, which is taken")


def _read_hyperparameter(ledger: Ledger, item: Item, kind: str) -> None:
    name = item.field.rpartition(".")[2]
    if item.value is None:
        return
    if kind != "supervised":
        ledger.drop(item, NO_OTHER_METHOD)
    elif name not in HYPERPARAMETERS:
        ledger.drop(item, UNKNOWN)
    elif item.value == "auto":
        ledger.keep(item, LEFT_TO_THE_PLAN)
    else:
        HYPERPARAMETERS[name](ledger, item)


def _epochs(ledger: Ledger, item: Item) -> None:
    ledger.carry(item, "training.num_train_epochs", number(item, least=1, whole=True))


def _batch_size(ledger: Ledger, item: Item) -> None:
    rows = int(number(item, least=1, whole=True))
    micro = max(size for size in range(1, LARGEST_MICRO_BATCH + 1) if rows % size == 0)
    why = f"{micro} x {rows // micro} examples a step"
    ledger.carry(item, "training.per_device_train_batch_size", micro, why)
    ledger.declare(item, "training.gradient_accumulation_steps", rows // micro, why)
    ledger.declare(item, "training.packing", False, "a packed row would hold several examples")


def _multiplier(ledger: Ledger, item: Item) -> None:
    if number(item, least=0) == 1:
        ledger.keep(item, LEFT_TO_THE_PLAN)
    else:
        ledger.drop(item, "the rate that it multiplies is not published: the plan chooses one")


HYPERPARAMETERS: dict[str, Callable[[Ledger, Item], None]] = {
    "n_epochs": _epochs,
    "batch_size": _batch_size,
    "learning_rate_multiplier": _multiplier,
}
METHODS = ("supervised", "dpo", "reinforcement")


def _seed(ledger: Ledger, item: Item) -> None:
    ledger.carry(item, "training.seed", number(item, least=0, whole=True))


def _integrations(ledger: Ledger, item: Item) -> None:
    value = item.value if isinstance(item.value, list) else [item.value]
    if all(isinstance(each, dict) and each.get("type") == "wandb" for each in value):
        why = "its project, name and tags are W&B's own environment variables"
        ledger.change(item, "training.report_to", ["wandb"], why=why)
    else:
        ledger.drop(item, "only W&B's curves are written elsewhere")


NOTED = (
    *("id", "object", "created_at", "finished_at", "estimated_finish", "status", "error", "organization_id"),
    *("result_files", "trained_tokens", "fine_tuned_model", "training_file", "suffix"),
    *("user_provided_suffix", "metadata", "usage_metrics", "eval_id", "shared_with_openai"),
)
JOB: dict[str, Rule] = {
    **dict.fromkeys(NOTED, noted),
    "model": changed("its weights are not to be had: --base-model names the base that is trained"),
    "validation_file": changed("rows of all given files are split by their hash, see data.splits"),
    "seed": _seed,
    "integrations": _integrations,
}
