"""Defines what a declaration says of its rows: sources, splits, duplicates, general text."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ft_dagster.spec.model import Fraction, SpecModel, former_auto, from_string

Format = Literal["auto", "chat", "prompt_completion", "alpaca", "sharegpt", "text"]


ASSET = "asset://"  # of the path of an upstream asset: asset://warehouse/tickets

MOST = 1e12  # of a number that a chat template is given
Bounds = Field(ge=-MOST, le=MOST)
TemplateNumber = Annotated[int, Bounds] | Annotated[float, Bounds]
ASSET_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def _say_asset(schema: dict[str, Any]) -> None:
    """Add `asset` to the schema as another way to write `path`."""
    schema["properties"]["asset"] = {
        "type": "string",
        "description": "An upstream asset of Dagster, warehouse/tickets: short for path: asset://warehouse/tickets",
    }
    schema["required"] = [name for name in schema.get("required", ()) if name != "path"]
    schema["oneOf"] = [{"required": ["path"]}, {"required": ["asset"]}]


class SourceSpec(SpecModel):
    """Declares one source of rows. A plain string stands for `path`, `asset: warehouse/tickets` for the path
    asset://warehouse/tickets.
    """

    model_config = ConfigDict(json_schema_extra=_say_asset)

    path: str = Field(
        min_length=1,
        description="A file, folder, glob, s3:// address, hub data set id (org/name) or upstream asset "
        "(asset://warehouse/tickets)",
    )
    format: Format = Field("auto", description="Row format; detected from the first row unless said")
    fields: dict[str, str] = Field({}, description="Rename columns: {prompt: question, completion: answer}")
    system: str | None = Field(None, description="System message put before each row's conversation")
    revision: str | None = Field(None, description="Commit of a hub data set; pinned and recorded")
    split: str = Field("train", description="Split of a hub data set")
    licence: str | None = Field(None, description="Licence of the rows, kept with each of them")

    @model_validator(mode="before")
    @classmethod
    def _asset_is_a_path(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "asset" not in content:
            return content
        if "path" in content:
            raise ValueError("name either a path or an asset")
        if not isinstance(content["asset"], str):
            raise ValueError("an asset is a text: warehouse/tickets")
        others = {name: value for name, value in content.items() if name != "asset"}
        return {**others, "path": f"{ASSET}{content['asset']}"}

    @model_validator(mode="after")
    def _asset_is_read_as_it_is(self) -> SourceSpec:
        if self.path.startswith(ASSET) and (self.split != "train" or self.revision is not None):
            raise ValueError("an asset has no split and no revision: it is read as it was last made")
        return self


class TenantSource(SourceSpec):
    """Declares a tenant's source: its rows may be transformed by a function that the platform allows."""

    added = ("transform",)

    transform: str | None = Field(
        None,
        pattern=r"^[^:]+:[A-Za-z_]\w*$",
        description="Function from a row (its columns) to a row, rows.py:function or module:function; one of "
        "sources.functions in ft_dagster.yaml",
    )


Source = Annotated[SourceSpec, from_string("path")]


RowSource = Annotated[TenantSource, from_string("path")]


class SplitsSpec(SpecModel):
    """Says how much of the rows validation and test take."""

    validation: Fraction = Field(0.1, description="Share of the rows kept for validation loss")
    test: Fraction = Field(0.1, description="Share of the rows kept for the task score")
    minimum: int = Field(8, ge=1, le=1_000_000, description="A split with fewer rows than this is refused")

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> SplitsSpec:
        if self.validation + self.test >= 1:
            fix = "Declare less than 1 for both together, such as validation: 0.1 and test: 0.2"
            raise PydanticCustomError(
                "shares", "validation and test together must leave rows to train on", {"fix": fix}
            )
        return self


class DeduplicateSpec(SpecModel):
    """Declares how duplicate rows are removed. A plain string stands for `method`."""

    method: Literal["exact", "near", "off"] = Field("exact", description="near: MinHash over word 5-grams")
    threshold: float = Field(
        0.85, gt=0.0, le=1.0, description="Jaccard similarity that makes a near duplicate"
    )


class DecontaminateSpec(SpecModel):
    """Says how rows that overlap the evaluation are left out of training."""

    added = ("coverage",)

    enabled: bool = Field(True, description="Leave out rows and general text that overlap the evaluation")
    ngram: int = Field(13, ge=3, le=50, description="Words in a row that make an overlap")
    coverage: float | None = Field(
        None,
        ge=0.3,
        le=1.0,
        description="Share of a question's runs of three words that make an overlap, too, where nine tenths "
        "of its words stand beside them (an inserted word breaks two of these runs at most); null: none",
    )


ShareOf = Literal["trained", "processed"]


USUAL_SHARE = 0.08  # of general text
HELD_OUT_TEXTS, MOST_HELD_OUT = (
    200,
    2000,
)  # that a gate reads: 200 decide a margin of 0.1 nats at the first try


class GeneralSpec(SpecModel):
    """Declares general text that is mixed in against forgetting: of a corpus, or of what the base writes by
    itself.
    """

    model_config = ConfigDict(populate_by_name=True)
    added = ("share_of", "sampled_from", "texts", "held_out")

    corpus: str | None = Field(None, description="Name of corpora/<name>.yaml")
    sampled_from: Literal["base"] | None = Field(
        None, alias="from", description="base: text sampled from the base itself, in place of a corpus"
    )
    share: float = Field(
        USUAL_SHARE, ge=0.0, le=0.5, description="Share of the tokens of the final mix, 0 to 0.5"
    )
    share_of: ShareOf = Field(
        "processed",
        description="Of which tokens: all that are read, prompts among them, or those with a label alone",
    )
    texts: int = Field(
        512, ge=64, le=100_000, description="With `from: base`, how many texts of up to 128 tokens"
    )

    held_out: int = Field(
        HELD_OUT_TEXTS,
        ge=64,
        le=MOST_HELD_OUT,
        description="Held-out texts of up to 256 tokens that the gate reads, as far as the corpus has them; "
        "the more, the more tries can pass",
    )

    @field_validator("share", mode="before")
    @classmethod
    def _is_no_former_word(cls, value: Any, info: ValidationInfo) -> Any:
        return former_auto(value, info, USUAL_SHARE, f"leave it out: it is {USUAL_SHARE} then")

    @model_validator(mode="after")
    def _has_one_origin(self) -> GeneralSpec:
        if (self.corpus is None) == (self.sampled_from is None):
            raise ValueError("name either a corpus or `from: base`")
        return self

    @property
    def name(self) -> str:
        """Return the name of the text, as figures and records call it."""
        return self.corpus or "sampled from the base"


# What a chat template is given anyway.
TEMPLATE_TAKES = {
    *("messages", "tools", "documents", "conversations", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "return_assistant_tokens_mask", "date_string"),
    *("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"),
}


class DataSpec(SpecModel):
    """Says which rows a variant trains on, and how they are prepared."""

    added = ("reasoning", "chat_template_kwargs", "max_malformed")

    sources: tuple[RowSource, ...] = Field(min_length=1, description="Where the tenant's rows come from")
    splits: SplitsSpec = SplitsSpec()
    deduplicate: Annotated[
        DeduplicateSpec,
        from_string("method"),
        BeforeValidator(lambda value: "off" if value is False else value),
    ] = DeduplicateSpec()
    decontaminate: DecontaminateSpec = DecontaminateSpec()
    general: GeneralSpec | None = Field(None, description="General data mixed in against forgetting")
    train_on: Literal["completions", "assistant_turns"] = Field(
        "completions", description="Loss on the last answer only, or on every assistant turn"
    )
    render: Literal["auto", "plain"] = Field(
        "auto",
        description="Prompts with completions. auto: as one exchange in the base's chat template, where it "
        "has one; plain: one after the other, as they are",
    )
    reasoning: Literal["train", "drop", "context"] | None = Field(
        None,
        description="Reasoning of an answer (reasoning_content). train: learned with it; context: rendered, "
        "without a label; drop: left out. null: train",
    )
    chat_template_kwargs: dict[str, bool | TemplateNumber | str] | None = Field(
        None, description="What the base's chat template is given besides: {enable_thinking: false}"
    )
    max_malformed: float = Field(
        0.0,
        ge=0.0,
        le=0.5,
        description="Share of the rows that may be left out for broken calls, tools or turns; above it the "
        "data set is refused",
    )
    on_too_long: Literal["truncate", "drop", "refuse"] = Field(
        "truncate", description="What to do with a row longer than training.max_length"
    )
    samples: Literal["off", "store", "metadata"] = Field(
        "store", description="Where sample rows may be shown; the event log cannot forget"
    )

    @property
    def held_out(self) -> int:
        """Return how many held-out texts a gate reads at most."""
        return HELD_OUT_TEXTS if self.general is None else self.general.held_out

    @field_validator("chat_template_kwargs")
    @classmethod
    def _says_what_is_free(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        taken = sorted(TEMPLATE_TAKES & set(value or ()))
        if taken:
            raise ValueError(f"the row or the tokenizer gives the template {', '.join(taken)}")
        return value
