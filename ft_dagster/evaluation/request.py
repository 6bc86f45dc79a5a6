"""Parses what `python -m ft_dagster.evaluation RUN_DIR` is asked to do: run.json, once, into frozen
models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ft_dagster.gate.judged_by import Against
from ft_dagster.objectives import DEFAULT
from ft_dagster.program import ProgramRequest
from ft_dagster.roots import Roots
from ft_dagster.spec.variant import MOST_QUESTIONS, AnswerKind, CallOrder, GatesSpec


class _EvaluationPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


SHA256 = r"^[0-9a-f]{64}$"
Sha256 = Annotated[str, Field(pattern=SHA256)]


class BaseFiles(_EvaluationPart):
    """Names a base model's folder, and the sha256 of each file that loading reads: nothing else of it is
    read.
    """

    folder: Path
    files: dict[str, Sha256] = Field(min_length=1)


class TunedWeights(_EvaluationPart):
    """Names the payload folder of what a training made, and the digest over its files."""

    folder: Path
    digest: Sha256


class QuestionsFile(_EvaluationPart):
    """Names a file with questions, by its content."""

    path: Path
    sha256: Sha256


class JudgedModel(_EvaluationPart):
    """Names the base, and what training made of it; null: the base alone is judged."""

    base: BaseFiles
    tuned: TunedWeights | None = None


class Examples(_EvaluationPart):
    """Says which examples stand before each question: the question is asked once after each number of
    `counts`, all drawn by the seed from the rows of `train`.
    """

    train: QuestionsFile
    counts: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class ReserveSet(_EvaluationPart):
    """Names one of the `sets` that the test split is dealt into; see `splits.sets_of`."""

    sets: int = Field(ge=2)
    number: int = Field(ge=1)
    joined: bool = False


class SplitTask(_EvaluationPart):
    """Describes the variant's test split: each row's last answer is asked for, `max_new_tokens` at most,
    greedily.

    `kind` says how an answer is scored, `call_order` whether its calls may stand in any order; `database` is
    the SQLite file that queries run on (kind sql). `train_on` is recorded, not acted on: the last answer is
    scored however many turns were trained. `reserve`: of the rows this set alone is asked. `exchange`: see
    `examples.in_exchange`. `examples`: the answer alone is asked for, after these; null: the loss too,
    without any.
    """

    test: QuestionsFile
    max_new_tokens: int = Field(64, ge=1)
    kind: AnswerKind = "text"
    call_order: CallOrder = "fixed"
    database: QuestionsFile | None = None
    train_on: Literal["completions", "assistant_turns"] = "completions"
    exchange: bool = False
    examples: Examples | None = None
    reserve: ReserveSet | None = None


class Regurgitation(_EvaluationPart):
    """Says how far to test whether the model repeats its training rows: so many of `train`, and each of the
    planted strings. `exchange`: see `examples.in_exchange`.
    """

    train: QuestionsFile
    rows: int = Field(16, ge=0)
    canaries: tuple[str, ...] = ()
    exchange: bool = False


class Membership(_EvaluationPart):
    """Says how far to test whether training rows can be told from others by their losses: `rows` at most of
    `train` and of `held_out`, of the latter those of one set of the `reserve` alone. `mixed`: rows.parquet of
    the mixture, which says of which training rows it has examples; null: of all. `exchange`: see
    `examples.in_exchange`.
    """

    train: QuestionsFile
    held_out: QuestionsFile
    mixed: QuestionsFile | None = None
    rows: int = Field(ge=1)
    reserve: ReserveSet | None = None
    exchange: bool = False


class Until(_EvaluationPart):
    """Says when enough was asked: once `gates` are decided against the samples in `before`, those of a model
    that was asked everything: what it is, `against` says. `tries`, `objective`: see `gates.judge`; `release`:
    see `Opponent`.
    """

    before: QuestionsFile
    gates: GatesSpec
    tries: int = Field(1, ge=1)
    against: Against = "base"
    release: int = Field(1, ge=1)
    objective: str = DEFAULT


class EvaluationRequest(ProgramRequest):
    """Describes one evaluation. `task` and `general` are lm-eval names or YAML files, relative to `project`;
    `digests` has the digest of each, as frozen with the declaration.

    `vllm`: the Python of an environment whose vLLM answers; null: transformers do. `withheld`: rows of the
    vocabulary among which the model does not choose. `limit`: questions drawn per task by `seed`; null: all;
    auto: batch after batch (`sequential_looks`), until `until` ends a task. `left_out`: JSON of the questions
    of tasks that are not asked.
    `choosing`: of each task the questions are drawn among those that are not asked otherwise, since by these
    answers a model is chosen, and by others judged.
    `general_holdout`: a parquet of held-out texts. `general_prompts`: whether to look for degeneration.
    `refusals`: prompts to refuse, or not to (`refusal_prompts`). `planted`: the platform's canaries.
    `declared_in`: the variant's file, for errors. `roots`: what the tasks' files may reach; null: all.
    `reasoning`, `chat_template_kwargs`: see those of `data`.
    """

    schema_version: Literal[1]
    model: JudgedModel
    reasoning: Literal["train", "drop", "context"] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    vllm: Path | None = None
    withheld: tuple[int, ...] = ()
    task: tuple[str, ...] = ()
    general: tuple[str, ...] = ()
    digests: dict[str, Sha256] = Field({})
    test_split_task: SplitTask | None = None
    general_holdout: QuestionsFile | None = None
    general_prompts: bool = False
    regurgitation: Regurgitation | None = None
    refusals: QuestionsFile | None = None
    membership: Membership | None = None
    planted: QuestionsFile | None = None
    left_out: QuestionsFile | None = None
    limit: Annotated[int, Field(ge=1)] | Literal["auto"] | None = 400
    until: Until | None = None
    choosing: bool = False
    seed: int = Field(0, ge=0)
    num_fewshot: int | None = Field(None, ge=0)
    project: Path = Path("/")
    roots: Roots | None = None
    declared_in: Path | None = None

    @property
    def most(self) -> int | None:
        """Return the number of questions of a task that are asked at most; None: all of them."""
        return MOST_QUESTIONS if self.limit == "auto" else self.limit


class TextsRequest(ProgramRequest):
    """Names the tasks whose texts are to be written out: lm-eval names or YAML files, relative to `project`
    and within `roots`, each with its digest.
    """

    schema_version: Literal[1] = 1
    tasks: dict[str, Sha256]
    project: Path = Path("/")
    roots: Roots | None = None


class UnsaidRequest(TextsRequest):
    """Names the tasks in whose texts new tokens must not stand, nor in the examples before them.
    `num_fewshot`: see `evaluation.num_fewshot`. `declared_in`: the file that errors name.
    """

    tokens: tuple[str, ...] = Field(min_length=1)
    num_fewshot: int | None = Field(None, ge=0)
    declared_in: Path | None = None


class SampledRequest(ProgramRequest):
    """Says what a base is to write: so many texts of at most so many tokens each."""

    schema_version: Literal[1] = 1
    base: BaseFiles
    documents: int = Field(ge=1)
    tokens: int = Field(ge=2)
    seed: int = Field(0, ge=0)
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
