"""Defines the declaration of a variant and of a general corpus, as frozen models; unknown keys are refused.

Names are the field's own (transformers, peft, trl, lm-eval). `None` means: the plan decides, and
says why.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from ft_dagster.methods.lora import OF_THE_BASE
from ft_dagster.objectives import DEFAULT, OBJECTIVES, known
from ft_dagster.spec.data import (
    DataSpec,
    Source,
)
from ft_dagster.spec.formats import export_problem
from ft_dagster.spec.method import MethodSpec
from ft_dagster.spec.model import SpecModel, from_string
from ft_dagster.spec.reference import LEAST, Margin, ReferenceSpec
from ft_dagster.spec.training import SEED_LIMIT, TrainingSpec
from ft_dagster.spec.zones import known_cron, known_zone

MOST_QUESTIONS = 2000  # of a task, where evaluation.limit is auto
AnswerKind = Literal["text", "label", "json", "sql", "tool_calls"]
CallOrder = Literal["fixed", "free"]


def _name_of_an_objective(value: Any) -> Any:
    """Check the name of an objective as a Literal of the names would be checked."""
    if value not in list(OBJECTIVES):
        raise PydanticKnownError("literal_error", {"expected": known("'{}'")})
    return value


ObjectiveName = Annotated[
    str,
    BeforeValidator(_name_of_an_objective),
    Field(json_schema_extra=lambda schema: schema.update(enum=list(OBJECTIVES))),
]


class BaseModelSpec(SpecModel):
    """Declares where training starts from. A plain string stands for `source`."""

    source: str | None = Field(
        None, min_length=1, description="A local folder, a hub id (org/name) or an s3:// prefix"
    )
    revision: str | None = Field(None, description="Commit of the hub repository; pinned and recorded")
    keep: bool = Field(False, description="Copy the base into the store, beside its digests")
    new_tokens: tuple[str, ...] = Field((), description="Tokens to add to the vocabulary")
    variant: str | None = Field(None, description="Start from this variant's release instead; same tenant")
    alias: Literal["production"] = Field("production", description="Which release of that variant")
    parent_adapter: Literal["fold", "stack"] = Field(
        "fold",
        description="A parent's adapter: merged into a base of its own, or kept frozen beneath the new one",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> BaseModelSpec:
        if (self.source is None) == (self.variant is None):
            raise ValueError("name either a source or a variant")
        return self


Base = Annotated[BaseModelSpec, from_string("source")]


class ProbeSpec(SpecModel):
    """Declares trainings of a few methods and rates over the same rows, before the plan that they decide."""

    share: float = Field(
        0.1,
        gt=0,
        le=20,
        description="Largest part of the training's FLOPs that they may take, but for `steps`; never more "
        "than the training, or than this where it is more; where it pays for two whole trainings or more, "
        "these are tried",
    )
    steps: int = Field(
        20, ge=2, le=10_000, description="Optimizer steps that each takes at least, whatever the share"
    )


def _on_or_off(value: Any) -> Any:
    """Read `on`, which YAML reads as true, as a part with its usual settings; `off`, or false, as none."""
    if not isinstance(value, bool | str):
        return value
    return {True: {}, "on": {}, False: None, "off": None}.get(value, value)


class PlanSpec(SpecModel):
    """Declares how the plan comes to what the declaration leaves open."""

    probe: Annotated[ProbeSpec | None, BeforeValidator(_on_or_off)] = Field(
        None, description="Try methods and learning rates before choosing: on, off, or {share, steps}"
    )


class EvaluationSpec(SpecModel):
    """Says by which tasks and questions a model is judged."""

    added = ("goal", "call_order", "reserve", "membership")

    task: tuple[str, ...] = Field(
        (), description="lm-eval tasks: built-in names or YAML files; none: the variant's own test split"
    )
    general: tuple[str, ...] = Field(
        ("mmlu", "arc_easy", "arc_challenge", "hellaswag"),
        description="General benchmarks, watched against forgetting",
    )
    limit: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] | None = Field(
        400,
        description="Questions drawn per task, by seed; null: all of them; auto: batch after batch until the "
        f"gate is decided, {MOST_QUESTIONS:,} at most",
    )
    reserve: Annotated[int, Field(ge=2, le=100)] | None = Field(
        None,
        description="Disjoint sets that the test split is dealt into by content; each release of new weights "
        "moves on to the next. null: one set, asked every time",
    )
    max_new_tokens: int = Field(64, ge=1, le=4096, description="Longest answer in the variant's own task")
    kind: AnswerKind = Field(
        "text",
        description="What the answers of the variant's own task are: scored as free text, as one of a set "
        "of labels (F1), field by field (F1), by what the query returns, or by the tools that they call",
    )
    call_order: CallOrder = Field(
        "fixed", description="Of several calls in an answer, for kind: tool_calls; free: in any order"
    )
    database: str | None = Field(None, description="SQLite file that queries run on, for kind: sql")
    num_fewshot: int | None = Field(None, ge=0, le=1000)
    probed_rows: int = Field(
        16, ge=0, le=1_000_000, description="Training rows, drawn by seed, probed for regurgitation; 0: none"
    )
    canaries: tuple[Annotated[str, Field(min_length=8)], ...] = Field(
        (), description="Strings planted in training rows, probed for regurgitation"
    )
    membership: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Training rows, and rows of the test split, by whose losses it is tried to tell the two "
        "apart (membership inference); 0: not asked",
    )
    seed: int = Field(0, ge=0, le=SEED_LIMIT)
    goal: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Score of the own answers that is wanted (of free text token_f1, of labels exact_match): "
        "where the base reaches it by examples in its prompt, that is said before the training",
    )

    @model_validator(mode="after")
    def _queries_have_a_database(self) -> EvaluationSpec:
        if (self.kind == "sql") != (self.database is not None):
            raise ValueError("kind: sql and database go together")
        return self

    @model_validator(mode="after")
    def _reserve_is_of_the_test_split(self) -> EvaluationSpec:
        if self.reserve is not None and self.task:
            raise ValueError("reserve deals out the test split, which is not asked where task is declared")
        return self

    @property
    def sets(self) -> int:
        """Return into how many sets the test split is dealt."""
        return self.reserve or 1

    @model_validator(mode="after")
    def _calls_have_an_order(self) -> EvaluationSpec:
        if self.call_order == "free" and self.kind != "tool_calls":
            raise ValueError("call_order is of kind: tool_calls alone")
        return self

    @property
    def most(self) -> int | None:
        """Return how many questions of a task are asked at most; None: all of them."""
        return MOST_QUESTIONS if self.limit == "auto" else self.limit


Weights = Literal["size", "group"]
MembershipAuc = Annotated[float, Field(ge=0.501, le=1.0)]  # no AUC of chance is shown to be below 0.5


def _none_or_least(margin: float) -> float:
    if 0 < margin < LEAST:
        raise ValueError(f"0, or {LEAST:f} or more")
    return margin


class RefusalsSpec(SpecModel):
    """Declares that the model is asked what must be refused and what must not, beside its base."""

    margin: Margin = Field(0.1, description="Largest fall of the share that is refused of what must be")
    over_margin: Margin = Field(
        0.1, description="Largest rise of the share that is refused of what is harmless"
    )
    prompts: str | None = Field(
        None,
        min_length=1,
        description="JSONL file with other prompts than those of the package: id, kind, category, prompt",
    )
    judgements: str | None = Field(
        None,
        min_length=1,
        description="JSONL file with what another model judged of the answers; it is shown, and decides "
        "nothing",
    )


class GatesSpec(ReferenceSpec):
    """Declares what a model must pass. Margins are the largest fall that is allowed; see docs/gates.md."""

    added = (
        *("loss_tail", "loss_bound", "weights", "largest_group", "refusals", "max_membership_auc"),
        *ReferenceSpec.model_fields,
    )

    task_margin: Annotated[float, Field(ge=0.0, le=1.0), AfterValidator(_none_or_least)] = Field(
        0.0, description="The task's score may fall by this much; 0: it must be shown to be better"
    )
    general_margin: Margin = Field(0.05, description="Largest fall of any general benchmark (accuracy)")
    general_loss_margin: Margin = Field(
        0.1, description="Largest rise of the loss on held-out general text (nats a token)"
    )
    regression_margin: Margin | None = Field(
        0.05, description="Largest fall of the task against production, by its score; null: not compared"
    )
    regression_loss_margin: Margin = Field(
        0.15, description="The same where a loss judges the task (nats a token)"
    )
    loss_tail: Margin = Field(
        0.02, description="Of a loss: the share of the texts of which fewer may rise by more than 2 nats"
    )
    loss_bound: float = Field(
        2.0,
        ge=2.0,
        le=100.0,
        description="Nats a token up to which each text counts in the mean of a loss; 20 takes ten times the "
        "texts",
    )
    degeneration_margin: Margin | None = Field(
        0.2, description="Largest rise of the repetition in answers to general prompts; null: not judged"
    )
    max_regurgitation: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        None, description="Largest share of the probed rows, and of the canaries, repeated; null: not judged"
    )
    refusals: Annotated[RefusalsSpec | None, BeforeValidator(_on_or_off)] = Field(
        None, description="Judge what it refuses beside its base: on, off, or {margin, over_margin, prompts}"
    )
    max_membership_auc: MembershipAuc | None = Field(
        None,
        description="Largest AUC by which training rows may be told from held-out ones, to be shown by its "
        "interval (evaluation.membership); 0.5 is chance; null: not judged",
    )
    alpha: Annotated[float, Field(ge=LEAST, lt=0.5)] = Field(
        0.05, description="One-sided level of each rule, over all tries since the last release together"
    )
    undecided: Literal["fail", "measured"] = Field(
        "fail",
        description="measured: an undecided rule passes if the measured change is within its margin",
    )
    weights: Weights = Field(
        "size",
        description="Of questions in groups: each question of the task counts alike (size), or each group "
        "(group); benchmarks always count by size",
    )
    largest_group: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Questions of the largest group of the task that there can be, by size; null: as many as "
        "the largest has that is known",
    )
    metrics: dict[str, str] = Field(
        {}, description="Judge these tasks by another metric than their main one: {mmlu: acc}"
    )


class ExportSpec(SpecModel):
    """Declares what is exported. A plain string stands for `format`."""

    format: Literal["adapter", "merged"] = "adapter"


class ResourcesSpec(SpecModel):
    """Says which devices a training gets."""

    added = ("nodes",)

    gpus: int = Field(1, ge=1, le=1024, description="GPUs of one training, where the host has any")
    nodes: int = Field(
        1, ge=1, le=1024, description="Machines of one training in a cluster, with so many GPUs on each"
    )
    gpu_memory_gb: float | None = Field(
        None, gt=0, le=10_000, description="Least memory of each GPU, GB of 1e9 bytes"
    )
    gpu_kind: str | None = Field(
        None,
        pattern=r"^[\w .|-]+$",
        description="Part of the GPU's name as its driver says it, in any case; `A100|H100`: one of them",
    )
    sharing: Literal["exclusive", "shared"] = Field(
        "exclusive",
        description="shared: beside other shared trainings on one device (host.shares_per_device)",
    )
    cpu_slots: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Cores of one training on a host without GPU; null: all it may have",
    )
    cpu_ranks: int = Field(
        1, ge=1, le=64, description="Processes of one training on a host without GPU, sharing its cores"
    )
    priority: int = Field(0, ge=-100, le=100, description="Higher is served first")
    budget_usd: float | None = Field(None, gt=0, le=1e9, description="For one training and its evaluation")
    deadline_hours: float | None = Field(
        None, gt=0, le=87_600, description="By the clock, for one training and its evaluation"
    )


class ReleaseSpec(SpecModel):
    """Declares what comes between a gate that held and production."""

    approvers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Who may put a version into production; none: a version goes there at once"
    )


class RetrainSpec(SpecModel):
    """Says when a variant is trained again."""

    cron: str | None = Field(None, description="Five cron fields, for example '0 3 * * 1'")
    timezone: str = Field("UTC", description="IANA name")
    on_new_data: bool = Field(False, description="Retrain when a source changes, told by its listing")
    on_new_base: bool = Field(False, description="Retrain when base_model.source holds another revision")
    poll: float = Field(60.0, ge=1, le=10_080, description="Minutes between two looks at sources and base")
    quiet_minutes: float = Field(
        30.0,
        ge=0,
        le=10_080,
        description="How long the sources must have stood still; a day at most is waited",
    )
    least_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="Least share of the sources' bytes that lies in files that changed"
    )
    least_rows: int | None = Field(
        None, ge=1, le=1_000_000_000, description="Least rows that changed, told by the bytes of a row before"
    )
    max_age_days: float | None = Field(
        None, gt=0, le=3_650, description="Retrain before the newest run that succeeded is this old"
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Runs in a row that may fail; then it waits for data, parent or base. One that Dagster "
        "runs again by itself counts once, with all its retries",
    )

    @field_validator("cron")
    @classmethod
    def _cron_is_valid(cls, cron: str | None) -> str | None:
        return None if cron is None else known_cron(cron)

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        return known_zone(name)


class VariantSpec(SpecModel):
    """Declares one variant of one tenant, as in tenants/<tenant>/<variant>.yaml."""

    schema_version: Literal[1] = 1
    description: str = Field(min_length=1, description="What this variant is for, in a sentence")
    owners: tuple[str, ...] = Field(min_length=1, description="Who answers for it")
    base_model: Base
    objective: ObjectiveName = DEFAULT
    data: DataSpec
    method: Annotated[MethodSpec, from_string("name")] = MethodSpec()
    training: TrainingSpec = TrainingSpec()
    plan: PlanSpec = PlanSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    gates: GatesSpec = GatesSpec()
    export: Annotated[ExportSpec, from_string("format")] = ExportSpec()
    resources: ResourcesSpec = ResourcesSpec()
    release: ReleaseSpec = ReleaseSpec()
    retrain: RetrainSpec = RetrainSpec()
    notify: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Targets of the platform's settings (notifications.targets) that events are told to"
    )

    @model_validator(mode="after")
    def _method_has_the_export(self) -> VariantSpec:
        problem = export_problem(self.method.name, self.export.format)
        if problem:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _start_is_not_stacked(self) -> VariantSpec:
        start = self.method.given.get("init_lora_weights")
        if start in OF_THE_BASE and self.base_model.parent_adapter == "stack":
            raise ValueError(
                f"method.init_lora_weights {start} does not go with base_model.parent_adapter stack: "
                "declare `parent_adapter: fold`, or leave the start out"
            )
        return self

    @model_validator(mode="after")
    def _task_has_a_kind(self) -> VariantSpec:
        scored_kinds = [kind for kind in get_args(AnswerKind) if kind != "text"]
        scored = self.evaluation.kind in scored_kinds or self.evaluation.task
        if OBJECTIVES[self.objective].judged_by == "score" and not scored:
            kinds = ", ".join(scored_kinds)
            raise ValueError(f"objective {self.objective} needs evaluation.kind ({kinds}) or evaluation.task")
        return self

    def slice(self, *fields: str) -> dict[str, Any]:
        """Return the named parts as plain JSON, for a stage's key: `spec.slice("data.general",
        "objective")`.
        """
        whole = self.model_dump(mode="json")
        return {field: pick(whole, field) for field in fields}


MOST_PLANTED = 20_000  # documents


class CanariesSpec(SpecModel):
    """Declares canaries that the platform plants in a corpus: so many for each number of repeats."""

    count: int = Field(20, ge=1, le=100, description="Canaries of each number of repeats")
    repeats: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (1, 4, 16), min_length=1, max_length=8, description="How often each of them stands in the corpus"
    )

    @field_validator("repeats")
    @classmethod
    def _are_different(cls, repeats: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(repeats)) < len(repeats):
            raise ValueError("each number of repeats once")
        return repeats

    @model_validator(mode="after")
    def _are_few(self) -> CanariesSpec:
        if self.count * sum(self.repeats) > MOST_PLANTED:
            raise ValueError(
                f"at most {MOST_PLANTED:,} documents are planted: count times the sum of repeats"
            )
        return self


class CorpusSpec(SpecModel):
    """Declares general text for all tenants, as in corpora/<name>.yaml."""

    added = ("canaries",)

    schema_version: Literal[1] = 1
    description: str = Field(min_length=1)
    sources: tuple[Source, ...] = Field(min_length=1)
    licence: str | None = None
    max_megabytes: float = Field(
        64.0, gt=0, le=1_000_000, description="Read at most this much text (1e6 bytes)"
    )
    holdout: Annotated[float, Field(gt=0.0, le=0.5)] = Field(
        0.05, description="Share of the documents never trained on: forgetting is measured on them"
    )
    canaries: CanariesSpec | None = Field(
        None,
        description="Secrets of the platform's own, planted among the documents: each model that is trained "
        "on them is asked for them; null: none",
    )


def pick(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree
