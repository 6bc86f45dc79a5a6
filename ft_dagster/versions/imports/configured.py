"""Shares between configurations of other programs where their rows lie, and fields that several have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from ft_dagster.data.sources.locations import rows_from
from ft_dagster.errors import UserError, all_of
from ft_dagster.methods.lora import Start
from ft_dagster.spec.data import SourceSpec
from ft_dagster.spec.validation import validate
from ft_dagster.spec.yaml_files import read_yaml
from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.declaration_text import Source
from ft_dagster.versions.imports.ledger import Item, Ledger
from ft_dagster.versions.imports.rules import (
    Rule,
    alike,
    as_here,
    changed,
    lost,
    names_of,
    number,
    numeric,
    one_of,
    refuse_credential,
)

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")
ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw")
ADMINISTRATION = changed("the store keeps each result under its key")
SPEED = changed("a way to compute that changes no result: it is chosen by the base and the device")
LOADING = changed("rows are read and prepared by stages of their own, once for equal rows")
EVALUATED = changed("training.evaluations: 8 times, unless declared")
SHARDED = changed("where the training is sharded, and how, is decided by the plan")
QUIET = changed("each step is logged")
CHAT_TEMPLATE = changed("the base's own chat template is used")
NOTHING_DOES_IT = lost("nothing here does it")
scheduled: Rule = one_of(
    "training.lr_scheduler_type", dict(zip(SCHEDULES, SCHEDULES, strict=True)), "no such schedule here"
)


def configuration(file: Path) -> JsonObject:
    """Return the content of a YAML file. Raises UserError."""
    try:
        return read_yaml(file)
    except UserError as error:
        if error.fix.startswith("Start from"):
            fix = "Give the YAML of a training"
            raise UserError(error.problem, file=file, fix=fix) from None
        raise


def optimizer(ledger: Ledger, item: Item) -> None:
    """Keep AdamW, and say so where it was another form of it; drop any other."""
    name = str(item.value)
    if name in ADAMW:
        ledger.keep(item, "as here: AdamW")
    elif "adamw" in name:
        ledger.change(item, why="AdamW with states in fp32")
    else:
        ledger.drop(item, "AdamW is the only optimizer here")


def start(ledger: Ledger, item: Item) -> None:
    """Carry the start of an adapter by PEFT's name; drop one that is not exact here."""
    if item.value is True:
        ledger.keep(item, "as here")
    elif item.value in get_args(Start):
        ledger.carry(item, "method.init_lora_weights", item.value)
    else:
        ledger.drop(item, f"no such start here: {', '.join(get_args(Start))}")


def rules_of(ledger: Ledger, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return the rules, but for the settings of LoRA where none is trained."""
    kinds = [each.value for each in ledger.settings if each.field == "method.name"]
    if kinds and kinds[0] != "full":
        return dict(rules)
    of_lora = (
        name
        for name in rules
        if name.startswith(("lora_", "peft_use_", "use_dora", "use_rslora", "peft_init", "pissa_"))
    )
    return {**rules, **dict.fromkeys(of_lora, changed("no LoRA is trained"))}


def reports(ledger: Ledger, names: Sequence[str], item: Item) -> None:
    """Write the curves for the named trackers too."""
    known = [name for name in names if name in ("tensorboard", "wandb", "mlflow")]
    others = [name for name in names if name not in (*known, "none", "all")]
    if others:
        ledger.drop(item, f"nothing is reported to {', '.join(others)}")
    elif known:
        why = "names and addresses are the tracker's own environment variables"
        ledger.change(item, "training.report_to", known, why=why)
    else:
        ledger.keep(item, "as here")


def place_of(item: Item, path: Any) -> str:
    """Return where rows lie, a local path made absolute. Raises UserError of the item."""
    if not isinstance(path, str):
        raise item.error("not the name of rows", "Put a path or a name of the hub there")
    refuse_credential(item, path)
    try:
        return rows_from(path, Path.cwd(), item.field)
    except UserError as error:
        at = Path.cwd()
        fix = f"Paths count from the current folder, {at}: go where the training was started"
        raise UserError(error.problem, file=item.file, field=item.field, value=path, fix=fix) from None


def source_of(item: Item, path: str, **fields: Any) -> Source:
    """Return an entry of data.sources without the fields that say nothing. Raises UserError of the item."""
    said = {"path": path} | {name: value for name, value in fields.items() if value not in (None, {}, "")}
    try:
        validate(SourceSpec, said, lambda field: item.file)
    except UserError as error:
        first = all_of(error)[0]
        problem = f"{first.field} of a source here: {first.problem}"
        raise item._replace(value=first.value).error(problem, first.fix) from None
    return Source(said, f"{item.field} of {item.file.name}")


def named_base(ledger: Ledger, item: Item) -> None:
    """Take the base that the file names."""
    ledger.base = item
    ledger.name(item, "", "base_model")


def added_tokens(ledger: Ledger, item: Item) -> None:
    """Carry the tokens that are added to the base's."""
    ledger.carry(item, "base_model.new_tokens", names_of(item))


def precision(ledger: Ledger, item: Item) -> None:
    """Carry bf16 where it is on."""
    if item.value is True:
        ledger.carry(item, "training.precision", "bf16")
    else:
        ledger.keep(item, "the hardware decides")


def validation_share(ledger: Ledger, item: Item) -> None:
    """Carry the share of the rows that validate; a number of rows is none."""
    share = number(item, least=0)
    if 0 < share < 1:
        ledger.carry(item, "data.splits.validation", share)
    else:
        ledger.change(item, why="a share of the rows is kept apart to validate, see data.splits")


# Of fields that several programs call the same.
COMMON: dict[str, Rule] = {
    "gradient_accumulation_steps": numeric("training.gradient_accumulation_steps", least=1, whole=True),
    "max_steps": numeric("training.max_steps", least=1, whole=True),
    "learning_rate": numeric("training.learning_rate"),
    "warmup_ratio": numeric("training.warmup_ratio"),
    "warmup_steps": changed("training.warmup_ratio is a share of the steps, 0.03 unless declared"),
    "weight_decay": numeric("training.weight_decay"),
    "max_grad_norm": numeric("training.max_grad_norm"),
    "seed": numeric("training.seed", whole=True),
    "lora_alpha": numeric("method.alpha"),
    "lora_dropout": numeric("method.dropout"),
    "bf16": precision,
    "fp16": as_here((False,), "precision is bf16 or fp32 here"),
    "tf32": changed("training.precision decides how products are rounded"),
    "save_total_limit": numeric("training.keep_last", least=1, whole=True),
    "trust_remote_code": changed("code of a base is never run"),
    "logging_steps": QUIET,
    **alike(SHARDED, "deepspeed fsdp fsdp_config"),
    **alike(EVALUATED, "eval_steps eval_strategy save_steps save_strategy"),
    **alike(ADMINISTRATION, "output_dir hub_model_id resume_from_checkpoint"),
    **alike(SPEED, "torch_compile low_cpu_mem_usage"),
    **alike(LOADING, "dataloader_num_workers dataloader_pin_memory"),
    **alike(NOTHING_DOES_IT, "neftune_noise_alpha loraplus_lr_ratio lr_scheduler_kwargs"),
    **alike(NOTHING_DOES_IT, "adam_beta1 adam_beta2 adam_epsilon"),
}
