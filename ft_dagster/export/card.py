"""The model card (hub format) of an export: what it is, what made it, how it scored, what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ft_dagster.data.render import load_tokenizer
from ft_dagster.export.serving import GENERATION_CONFIG

if TYPE_CHECKING:
    from ft_dagster.export.certificate import Certificate
    from ft_dagster.export.request import Request

FILE = "README.md"


class Source(BaseModel):
    """One source of the tenant's rows, as declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    licence: str | None = None


class Card(BaseModel):
    """What the card says of the variant. `verdict`: JSON of the gate's verdict; `weights` and `evaluation`:
    digests; `general`: name of the corpus mixed in; `base_model`: the declared reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    description: str
    owners: tuple[str, ...]
    base_model: str
    objective: str
    method: dict[str, Any]
    training: dict[str, Any]
    figures: dict[str, Any] = {}
    verdict: dict[str, Any]
    sources: tuple[Source, ...]
    general: str | None = None
    licence: str | None = None
    weights: str
    evaluation: str


def write_card(request: Request, certificate: Certificate) -> None:
    """Write evidence/README.md. Equal requests give equal bytes: it has no date and no host."""
    from huggingface_hub import ModelCard

    template = Path(__file__).with_name("card.md.jinja")
    card = ModelCard.from_template(
        _metadata(request), template_path=str(template), **_content(request, certificate)
    )
    (request.evidence / FILE).write_text(card.content.rstrip() + "\n", "utf-8")


def _metadata(request: Request) -> Any:
    """The hub's front matter. A base that is no hub repository has no name there, so none is given."""
    from huggingface_hub import EvalResult, ModelCardData

    card, base = request.card, request.base
    scores = [
        EvalResult(
            task_type="text-generation",
            dataset_type=rule["task"],
            dataset_name=rule["task"],
            metric_type=rule["metric"],
            metric_value=round(rule["tuned"], 4),
        )
        for rule in card.verdict.get("rules", [])
        if rule["tuned"] is not None
    ]
    return ModelCardData(
        base_model=base.reference if base.revision else None,
        eval_results=scores or None,
        library_name="peft" if request.format == "adapter" else "transformers",
        license=card.licence,
        model_name=card.variant,
        pipeline_tag="text-generation",
        tags=["ft-dagster", card.objective, str(card.method.get("name"))],
    )


def _content(request: Request, certificate: Certificate) -> dict[str, Any]:
    card, base = request.card, request.base
    reference = f"{base.reference}@{base.revision}" if base.revision else _shown(base.reference)
    settings = [(f"{part}.{name}", _cell(value)) for part, name, value in _settings(card)]
    return {
        "card": card,
        "base": reference,
        "base_digest": base.digest,
        "format": request.format,
        "payload": certificate.payload,
        "certificate": certificate.figures,
        "rules": [_rule(rule) for rule in card.verdict.get("rules", [])],
        "sources": [
            {"path": _cell(_shown(source.path)), "licence": _cell(source.licence or "not declared")}
            for source in card.sources
        ],
        "settings": settings,
        "figures": [(name, _cell(value)) for name, value in card.figures.items() if _is_number(value)],
        "limits": _limits(request),
        "stop": _stop_tokens(request),
    }


def _settings(card: Card) -> list[tuple[str, str, Any]]:
    parts = {"method": card.method, "training": card.training}
    return [
        (part, name, value)
        for part, values in parts.items()
        for name, value in values.items()
        if value is not None
    ]


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule of the verdict with its figures as text."""
    low, high = rule["interval"]
    return {
        **rule,
        "base": _figure(rule["base"]),
        "tuned": _figure(rule["tuned"]),
        "difference": _figure(rule["difference"], "+"),
        "interval": f"{_figure(low, '+')} to {_figure(high, '+')}",
    }


def _limits(request: Request) -> list[str]:
    if request.format == "merged":
        return ["Base plus adapter is rounded to the base's dtype; the certificate says what that changed."]
    limits = ["The adapter fits only the base named above, file by file."]
    if request.card.method.get("use_dora"):
        limits.append("It is a DoRA adapter, which vLLM does not load: export it merged to serve it there.")
    return limits


def _stop_tokens(request: Request) -> list[str]:
    config = json.loads((request.payload / GENERATION_CONFIG).read_text("utf-8"))
    tokenizer = load_tokenizer(request.payload)
    return [f"`{token}`" for token in tokenizer.convert_ids_to_tokens(config.get("eos_token_id", []))]


def _shown(path: str) -> str:
    """A declared path; of an absolute one the name alone, since the rest is this machine's."""
    return Path(path).name if Path(path).is_absolute() else path


def _figure(value: float | None, sign: str = "") -> str:
    return "not a number" if value is None else f"{value:{sign}.4f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    shown = f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if _is_number(value) else str(value)
    return shown.replace("|", "\\|").replace("\n", " ")
