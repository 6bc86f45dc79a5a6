"""Defines what goes into the trainer (run.json, each member's plan.json inside) and what comes out
(result.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
)

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.program import SCHEMA_VERSION, read_json_as, write_json
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.roots import Roots
from ft_dagster.spec.training import TrainingSettings

Status = Literal["done", "stopped", "failed", "preempted", "cancelled"]
RUN_FILE = "run.json"
PLAN_FILE = "plan.json"  # in the payload of a training_plan
RESULT_FILE = "result.json"
CHECKPOINTS = "checkpoints"  # folder of a member's output


class Strict(BaseModel):
    """Refuses unknown fields: a setting that would not act must not look as if it did."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


S = TypeVar("S", bound=BaseModel)


def checked(kind: type[S], content: Mapping[str, Any], part: str, *, fix: str) -> S:
    """Return a part of plan.json as its model. Raises UserError naming the field, from `part` on."""
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join((part, *map(str, first["loc"])))
        raise UserError(str(first["msg"]), field=field, value=first["input"], fix=fix) from None


def method_settings(content: Mapping[str, Any]) -> MethodSettings:
    """Return the `method` part of plan.json. Raises UserError for an unknown method or an unknown field of
    it.
    """
    known = method_of(content.get("name"))
    kind = known.settings
    return checked(kind, content, "method", fix=f"Settings of {known.name}: {', '.join(kind.model_fields)}")


class TrainingDevice(Strict):
    """Says on which kind of device a training runs, and on how many."""

    kind: Literal["cpu", "cuda"] = "cpu"
    count: int = Field(1, ge=1)


class Plan(BaseModel):
    """Is plan.json: what acts on training, all of it resolved. `ranks`: processes that train together."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    schema_version: int = SCHEMA_VERSION
    method: SerializeAsAny[MethodSettings]
    training: TrainingSettings
    device: TrainingDevice = TrainingDevice()
    ranks: int = Field(1, ge=1)
    own_loss: str | None = Field(None, description="The objective whose own loss it is; None: the shared one")

    @field_validator("method", mode="before")
    @classmethod
    def _by_its_name(cls, given: Any) -> Any:
        return method_settings(given) if isinstance(given, dict) else given

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plan.json has it."""
        return self.model_dump(mode="json", exclude={"own_loss"} if self.own_loss is None else None)


class ParentAdapter(Strict):
    """Names another variant's adapter, kept frozen beneath the new one: its payload folder and digest."""

    adapter: Path
    digest: str


class Base(Strict):
    """Names the base model: a folder in transformers' layout with safetensors, and the digest of its payload.

    `new_token_ids`: rows of its vocabulary that were added for this variant and are to be trained. `kept_in`:
    the host's folder of quantized bases, see `kept_base`.
    """

    folder: Path
    digest: str
    reference: str | None = None
    new_token_ids: tuple[int, ...] = ()
    parent: ParentAdapter | None = None
    kept_in: Path | None = None


class Benchmarks(Strict):
    """Names lm-eval tasks asked while training, relative to `project`, each with its digest as frozen with
    the declaration; `seed` draws the questions.

    `roots`: what their files may reach; null: all.
    """

    tasks: dict[str, str]
    project: Path
    roots: Roots | None = None
    seed: int = 0


class Member(Strict):
    """Describes one training of the run."""

    variant: str
    mixture: Path
    mixture_digest: str
    plan: Plan
    seed: int = Field(0, ge=0, lt=2**32)
    output: Path
    benchmarks: Benchmarks | None = None
    report_to: tuple[str, ...] = ()
    checkpoint_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes without a checkpoint after which one is written; null: at evaluations alone",
    )
    stop_above: dict[int, float] = Field(
        {}, description="Evaluation (1, 2, ...) -> validation loss above which this training gives up"
    )
    stop_above_on: int | None = Field(
        None, ge=1, description="That loss is of the first so many examples of the sample; None: of all of it"
    )
    resume_points: int = Field(
        0, ge=0, description="States of the first pass that are kept beside what is exported"
    )
    by_example: bool = Field(
        False,
        description="Of a probe, which compares losses: keep what each validation example lost, of each "
        "evaluation, in the figures, and let no general prompt be answered",
    )
    micro_batch_halved: bool = Field(
        False, description="Memory ran out before: half the micro-batch, twice the accumulation"
    )

    @property
    def payload(self) -> Path:
        return self.output / "payload"

    @property
    def evidence(self) -> Path:
        return self.output / "evidence"

    @property
    def checkpoints(self) -> Path:
        return self.output / CHECKPOINTS

    @property
    def result(self) -> Path:
        return self.output / RESULT_FILE


class Launch(Strict):
    """Says how many processes train on how many nodes. `rendezvous`: address and port of the first of several
    nodes; `node`: which of them reads this.
    """

    nodes: int = Field(1, ge=1)
    ranks_per_node: int = Field(1, ge=1)
    rendezvous: str | None = None
    node: int = Field(0, ge=0)


class TrainingRun(Strict):
    """Is run.json: everything resolved, local paths only."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    base: Base
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=1)]
    launch: Launch = Launch()
    first_looks: Path | None = Field(None, description="Folder of what looks at bases gave, kept by content")


class TrainingResult(BaseModel):
    """Is result.json of one member. `figures`: those of `training_figures`, none where it failed.

    "stopped": its loss was above `stop_above`, and it exported nothing. `reason` is a failure's kind, where a
    retry can do something about it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    schema_version: int = SCHEMA_VERSION
    variant: str
    status: Status
    recipe: str = Field(description="Digest of what was asked; see `recipe_digest`")
    figures: dict[str, object] = {}
    checkpoints: list[dict[str, object]] = []
    error: dict[str, object] | None = None
    reason: Literal["out_of_memory"] | None = None


def recipe_digest(run: TrainingRun, member: Member) -> str:
    """Return the digest of what makes two trainings the same: base, mixture, method, settings, device kind,
    seed.
    """
    return sha256_json(
        {
            "base": run.base.digest,
            "mixture": member.mixture_digest,
            "method": member.plan.method.model_dump(mode="json", exclude_unset=True),
            "training": member.plan.training.model_dump(mode="json"),
            "device": member.plan.device.kind,
            "seed": member.seed,
            "ranks": run.launch.nodes * run.launch.ranks_per_node,
            "new_token_ids": run.base.new_token_ids,
            "parent": run.base.parent and run.base.parent.digest,
            **({} if member.plan.own_loss is None else {"own_loss": member.plan.own_loss}),
        }
    )


def read_run(run_folder: Path) -> TrainingRun:
    """Read RUN_DIR/run.json. Raises UserError."""
    return read_json_as(run_folder / RUN_FILE, TrainingRun)


def read_result(file: Path) -> TrainingResult:
    """Read a member's result.json. Raises UserError if it is absent, broken or of a newer version."""
    return read_json_as(file, TrainingResult)


def write_result(member: Member, result: TrainingResult) -> None:
    write_json(member.result, result.model_dump(mode="json", exclude_none=True))
