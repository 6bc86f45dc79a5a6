"""Resolves every value of a declaration whose method is named, without a dry run."""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.methods import method_of
from ft_dagster.methods.lora import start_problem
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory_formula import Load
from ft_dagster.planning.methods.method_settings import resolve_method
from ft_dagster.planning.methods.training_settings import precision_of, resolve_training
from ft_dagster.planning.reasons import Reasons
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.method import METHOD_SETTINGS, MethodSpec
from ft_dagster.spec.training import TrainingSettings

START = "init_lora_weights"


@dataclass(frozen=True)
class Resolved:
    """Holds a method with all its settings, as the trainer takes them, and why."""

    method: MethodSettings
    training: TrainingSettings
    reasons: Reasons
    load: Load

    @property
    def name(self) -> str:
        return self.load.method


def leaves_method_open(spec: VariantSpec) -> bool:
    """Say whether the plan chooses among all methods: no setting names LoRA."""
    return spec.method.name == "auto" and not lora_settings(spec)


def lora_settings(spec: VariantSpec) -> list[str]:
    """Return the settings of LoRA that are declared; beside `auto` they make it LoRA."""
    return [name for name in spec.method.given if name in METHOD_SETTINGS["auto"]]


def with_method(spec: VariantSpec, name: str) -> VariantSpec:
    """Return the declaration by another method; it keeps the settings that this method has, but for a start
    that it cannot export, and the rate unless it was declared for another one.
    """
    if spec.method.name == name:
        return spec
    kept = {each: value for each, value in spec.method.given.items() if each in METHOD_SETTINGS[name]}
    if start_problem(str(kept.get(START, "default")), name, None, use_dora=False):
        del kept[START]
    meant = spec.method.name == "auto" or same_family(spec.method.name, name)
    rate = {} if meant else {"learning_rate": None}
    return spec.model_copy(
        update={
            "method": MethodSpec.model_validate({"name": name, **kept}),
            "training": spec.training.model_copy(update=rate),
        }
    )


def same_family(one: str, other: str) -> bool:
    """Say whether a rate that was chosen for one method is usual for the other."""
    return method_of(one).rates == method_of(other).rates


def resolve(spec: VariantSpec, facts: Facts) -> Resolved:
    """Resolve every value of a declaration whose method is named. Raises UserError for what it cannot be."""
    reasons, precision = Reasons(), precision_of(spec, facts)
    method = resolve_method(spec, facts, reasons)
    trained = method.trainable_parameters(facts, len(spec.base_model.new_tokens))
    load = Load(method.name, trained, precision, facts)
    return Resolved(method, resolve_training(spec, load, reasons), reasons, load)
