"""Declares LoRA: low-rank updates beside the base's linear layers; rsLoRA and DoRA are settings of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.layers import LayerSettings, LinearShapes, updated
from ft_dagster.methods.method import Figure, Method, PublishedCost, Quantized, Rate, Rates, SettingDefault

ALPHA = SettingDefault(32.0, "32 at any rank: one rate then learned and forgot alike at ranks 4 to 64")
DEFAULTS = {
    "rank": None,
    "alpha": ALPHA,
    "dropout": SettingDefault(0.0, "at 135M 0.05 moved no loss and slowed each step"),
    "target_modules": SettingDefault(
        "all-linear", "all linear layers at a modest rank beat fewer at a higher one"
    ),
    "use_rslora": SettingDefault(False, "updates scale by alpha/r, not by alpha/sqrt(r)"),
    "use_dora": SettingDefault(False, "DoRA gains little for its time and memory"),
    "init_lora_weights": SettingDefault("default", "A is drawn and B is 0, so that it begins at the base"),
}
RATES = Rates(  # 1e-3 of 128 rows a step (LoRA Without Regret) is 3.5e-4 of 16 by Adam's square root
    Rate(2e-4, 1e-4, 3e-4, "2e-4 at 7B and 13B, 16 rows a step (QLoRA on OASST1)"),
    small_times=2.0,  # at 135M so much more did better (benchmarks/decisions.py)
    narrow_times=2.0,
    large=Rate(1e-4, 5e-5, 3e-4, "1e-4 at 33B and 65B, 16 rows a step (QLoRA on OASST1)"),
)
EPOCHS = Figure(3.0, "usual for LoRA")
UTILIZATION = Figure(0.30, "as full, less for the many small products with A and B")
CPU_STEP_SECONDS = 1.8  # of 4 x 128 tokens at 135M on two CPU cores
# PEFT's names. Those that PEFT takes out of the base are taken out beneath the adapter here: the base stays.
Start: TypeAlias = Literal["default", "gaussian", "orthogonal", "pissa", "olora"]
OF_THE_BASE: tuple[Start, ...] = ("pissa", "olora")
AT_ZERO: tuple[Start, ...] = ("default", "gaussian")  # B is 0
Alpha: TypeAlias = Annotated[float, Field(gt=0, le=65_536, description="LoRA alpha; 32 unless said")]


def start_problem(start: str, name: str, rank: int | None, *, use_dora: bool) -> str | None:
    """Say why an adapter with such a start has no exact export; None where it has. `rank`: None where it is
    not known yet.
    """
    if start in AT_ZERO:
        return None
    if name not in ("lora", "auto"):
        return "needs a base that is not quantized: take method lora"
    if use_dora:
        return "does not go with use_dora: leave out one of them"
    if start == "orthogonal" and rank is not None and rank % 2:
        return f"needs an even rank, not {rank}"
    return None


class LoraSettings(LayerSettings):
    """Holds the settings of LoRA and its relatives: a low-rank update of the layers, scaled by alpha and
    rank.
    """

    unsaid: ClassVar[tuple[str, ...]] = (*LayerSettings.unsaid, "target_parameters", "init_lora_weights")

    name: str = "lora"
    alpha: Alpha = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0, description="LoRA dropout")] = 0.05
    use_rslora: Annotated[bool, Field(description="Scale by alpha/sqrt(r)")] = False
    use_dora: Annotated[bool, Field(description="Weight-decomposed LoRA")] = False
    target_parameters: tuple[str, ...] | None = Field(
        None,
        description="Tensors of experts, and layers that PEFT takes for such, that get an update beside the "
        "layers, by the end of their names; null: none, as in plans from before there was a choice",
    )
    init_lora_weights: Annotated[
        Start, Field(description="How A and B begin, by PEFT's names; pissa and olora export twice the rank")
    ] = "default"

    @property
    def starts_beneath(self) -> bool:
        """Say whether the update begins at a part of the base, which is taken out beneath it."""
        return self.init_lora_weights in OF_THE_BASE

    @model_validator(mode="after")
    def _start_is_exact(self) -> Self:
        problem = start_problem(self.init_lora_weights, self.name, self.rank, use_dora=self.use_dora)
        if problem:
            raise ValueError(f"init_lora_weights {self.init_lora_weights} {problem}")
        return self

    def updated(self, base: BaseFacts) -> LinearShapes:
        return updated(base, self.target_modules, self.target_parameters)

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        """Count the trained weights; DoRA also trains the length of each output's weights."""
        trained = super().trainable_parameters(base, new_tokens)
        if not self.use_dora:
            return trained
        return trained + sum(shape[0] for shapes in self.updated(base).values() for shape in shapes)


def utilization_above(base: Quantized) -> Figure:
    """Return the utilization of LoRA, less by what a step takes longer above a quantized base."""
    value = round(UTILIZATION.value * CPU_STEP_SECONDS / base.cpu_step_seconds, 2)
    times = f"{CPU_STEP_SECONDS}/{base.cpu_step_seconds}"
    return Figure(value, f"as lora, times {times}: each step unpacks the {base.kind} weights")


METHOD = Method(
    name="lora",
    order=1,
    trains="layers",
    settings=LoraSettings,
    defaults=DEFAULTS,
    usual=Figure(0, "the usual choice: small files beside a base that is as it was"),
    rates=RATES,
    epochs=EPOCHS,
    utilization=UTILIZATION,
    exports=("adapter", "merged"),
    is_lora=True,
    zero_stages=(0, 3),
    declared_zero_stages=(0, 2, 3),
    smaller=("lora_8bit", "qlora"),
    published=PublishedCost(
        {7: (15, 30), 13: (30, 60), 70: (200, 400)},
        "lora spends two thirds of full's FLOPs (no gradients of the base's weights), not a tenth",
    ),
)
