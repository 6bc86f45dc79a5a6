"""Defines each setting of a training once: as declared, where null is left to the plan, and as planned.

What is planned has every value. It is what plan.json holds and the trainer takes: plans that were stored once
stay readable where a declaration's bounds are narrowed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ft_dagster.planned import Planned
from ft_dagster.spec.model import Fraction, SpecModel

SEED_LIMIT = (1 << 32) - 1  # numpy takes no larger one
BUDGET = 0.1  # of measuring, a share of the training's FLOPs
LONGEST_EXAMPLE = 10_485_760  # tokens: the longest context of a published model


def _from_number(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: {field: value} if isinstance(value, int | str) else value)


class DeepspeedFields(SpecModel):
    """Defines how a training over several processes shards its states."""

    stage: Literal["auto", 0, 2, 3] = Field(
        "auto", description="ZeRO stage; 0: a copy on each process (data-parallel); auto: the plan decides"
    )
    offload: Literal["none", "cpu", "nvme"] = Field("none", description="Where optimizer states are kept")
    nvme_path: str | None = Field(None, description="Folder on a fast disk, for offload: nvme")


class DeepspeedSpec(DeepspeedFields):
    """Declares how a training over several processes shards its states. A plain number stands for `stage`."""

    bucket_mb: float = Field(
        500.0, gt=0, le=100_000, description="Size of the communication buckets, MB of 1e6 bytes"
    )

    @model_validator(mode="after")
    def _nvme_has_a_folder(self) -> Self:
        if (self.offload == "nvme") != (self.nvme_path is not None):
            raise ValueError("offload: nvme and nvme_path go together")
        return self


class Deepspeed(Planned, DeepspeedFields):
    """Says how states are sharded over the ranks: stage 0 is a copy on each; buckets in bytes."""

    stage: Literal[0, 2, 3] = 0
    bucket_bytes: int = Field(500_000_000, ge=1)


class WatchFields(SpecModel):
    """Defines what is measured while the model trains; of what is past a limit of forgetting nothing is
    exported.
    """

    added = ("past_limit",)

    budget: Annotated[float, Field(gt=0, le=1)] | None = Field(
        BUDGET,
        description="Largest share of the training's FLOPs for measuring; null: all, at every evaluation",
    )
    questions: int = Field(
        0, ge=0, le=1000, description="Questions of each general benchmark asked while it trains; 0: none"
    )
    general_loss_limit: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Largest rise of the loss on held-out text of data.general, nats a token",
    )
    benchmark_limit: float | None = Field(
        None, gt=0, le=1, description="Largest fall of the mean accuracy on those questions; not under ZeRO-3"
    )
    past_limit: Literal["stop", "go_on"] = Field(
        "stop",
        description="Past a limit the training stops, or goes on: the best checkpoint within the limits is "
        "exported either way",
    )


class WatchSpec(WatchFields):
    """Declares what is measured while the model trains; of what is past a limit of forgetting nothing is
    exported.
    """

    @model_validator(mode="after")
    def _limit_has_questions(self) -> Self:
        if self.benchmark_limit is not None and not self.questions:
            raise ValueError("benchmark_limit needs questions")
        return self


class WatchSettings(Planned, WatchFields):
    """Holds what is measured while the model trains, as planned."""

    unsaid = (*WatchFields.added, "budget")


def _takes_auto(schema: dict[str, Any]) -> None:
    schema["anyOf"].insert(1, {"const": "auto", "type": "string"})


class TrainingFields(SpecModel):
    """Names the settings as transformers does. The reason of a default is in the plan that has it."""

    added = ("on_bad_rate", "share_beginnings")

    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        examples=[0.0002],
        description="null, or auto: the plan's, by the probe where there is one",
        json_schema_extra=_takes_auto,
    )
    num_train_epochs: float | None = Field(None, gt=0, le=1000)
    max_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Stop after this many optimizer steps"
    )
    per_device_train_batch_size: int | None = Field(None, ge=1, le=65_536)
    gradient_accumulation_steps: int | None = Field(None, ge=1, le=65_536)
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="cosine decays to nothing, so that the last steps settle"
    )
    warmup_ratio: Fraction = Field(
        0.03, description="Linear warmup over this share of the steps: Adam's moments settle first"
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="None is usual in fine-tuning")
    max_grad_norm: float = Field(1.0, gt=0, le=1e12, description="Clips the rare large gradient")
    max_length: int | None = Field(None, ge=16, le=LONGEST_EXAMPLE, description="Longest example, in tokens")
    packing: bool = Field(
        True, description="Fill each row of a batch with whole examples, where the base keeps them apart"
    )
    share_beginnings: Literal["off", "on"] = Field(
        "off",
        description="Compute the beginning that examples of a packed row have in common once for them all: "
        "on a CPU, of bases with plain causal attention",
    )
    gradient_checkpointing: bool | None = None
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where the hardware has it"
    )
    deterministic: bool = Field(True, description="On GPUs, kernels that add in a fixed order, some slower")
    on_bad_rate: Literal["stop", "lower", "warn"] = Field(
        "stop",
        description="Where the loss of the first tenth of the steps shows that the rate is too high: stop, "
        "begin again at a third of it (once), or only say so",
    )
    deepspeed: DeepspeedFields = DeepspeedFields()
    watch: WatchFields = WatchFields()
    evaluations: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Validation losses and checkpoints of a training; null: 8, or as many of them as "
        "`watch.budget` pays for",
    )
    keep_best: int = Field(
        3, ge=1, le=1000, description="Checkpoints kept, by validation loss; the best becomes the model"
    )
    keep_last: int = Field(2, ge=1, le=1000, description="Newest checkpoints kept, to resume from")
    seed: int = Field(
        0, ge=0, le=SEED_LIMIT, description="Of the order of the examples, of what is drawn, of dropout"
    )


class TrainingSpec(TrainingFields):
    """Declares the settings of a training. An unset value is the plan's, with its reason."""

    deepspeed: Annotated[DeepspeedSpec, _from_number("stage")] = DeepspeedSpec()
    watch: WatchSpec = WatchSpec()
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Also write the curves for these, where installed"
    )
    checkpoint_minutes: float | None = Field(
        15.0, gt=0, le=100_000, description="Checkpoints between evaluations, this far apart; null: none"
    )

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _auto_is_left_out(cls, value: Any) -> Any:
        return None if value == "auto" else value


class TrainingSettings(Planned, TrainingFields):
    """Holds the settings of a training, every value resolved by the plan."""

    unsaid = (*TrainingFields.added, "deterministic")

    learning_rate: float = Field(gt=0)
    num_train_epochs: float = Field(gt=0, description="A fraction ends within an epoch")
    per_device_train_batch_size: int = Field(ge=1, description="Bins of a micro-batch (examples, unpacked)")
    gradient_accumulation_steps: int = Field(1, ge=1)
    max_length: int = Field(ge=2, description="Tokens of a bin: the longest example, and what packing fills")
    gradient_checkpointing: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"
    deepspeed: Deepspeed = Deepspeed()
    watch: WatchSettings = WatchSettings()
