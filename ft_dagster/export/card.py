"""Writes the model card (hub format) of an export: what it is, what made it, how it scored, what it cannot
do.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.errors import in_one_line
from ft_dagster.evaluation.models.load import ADAPTER_CONFIG, kind_of
from ft_dagster.evaluation.models.loaded_by_vllm import not_loaded
from ft_dagster.export.candidates import DEQUANTIZED, ORIGINAL
from ft_dagster.export.merged import KEPT
from ft_dagster.export.vllm import LOADED_AS, serve_command
from ft_dagster.gate.rule_figures import difference, metric_name, sides
from ft_dagster.gate.verdict_words import rule_word, verdict_sentence
from ft_dagster.lineage.verdict import Rule
from ft_dagster.markdown import plain
from ft_dagster.model_files.weights import GENERATION_CONFIG
from ft_dagster.models.quantize import quantization_of

if TYPE_CHECKING:
    from ft_dagster.export.request import Card, ExportRequest
    from ft_dagster.lineage.certificate import Certificate

FILE = "README.md"


def write_card(request: ExportRequest, certificate: Certificate) -> None:
    """Write evidence/README.md. Equal requests give equal bytes: it has no host, and the request's day."""
    from huggingface_hub import ModelCard

    template = Path(__file__).with_name("card.md.jinja")
    card = ModelCard.from_template(
        _metadata(request), template_path=str(template), **_content(request, certificate)
    )
    (request.evidence / FILE).write_text(card.content.rstrip() + "\n", "utf-8")


def _metadata(request: ExportRequest) -> Any:
    """Return the hub's front matter. A base that is no hub repository has no name there, so none is given."""
    from huggingface_hub import EvalResult, ModelCardData

    card, base = request.card, request.base
    scores = [
        EvalResult(
            task_type="text-generation",
            dataset_type=rule.task,
            dataset_name=rule.task,
            metric_type=rule.metric,
            metric_value=round(rule.tuned, 4),
        )
        for rule in card.verdict.rules
        if math.isfinite(rule.tuned)
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


def _content(request: ExportRequest, certificate: Certificate) -> dict[str, object]:
    card, base = request.card, request.base
    reference = f"{base.reference}@{base.revision}" if base.revision else _shown(base.reference)
    kind = quantization_of(request.weights)
    settings = [(f"{part}.{name}", _cell(value)) for part, name, value in _settings(card)]
    return {
        "card": card,
        "description": plain(card.description),
        "owners": ", ".join(map(plain, card.owners)),
        "base": plain(reference),
        "base_line": in_one_line(reference),
        "base_digest": base.digest,
        "format": request.format,
        "payload": certificate.payload,
        "certificate": certificate.figures,
        "verdict": plain(verdict_sentence(card.verdict)),
        "rows": ""
        if card.made is None
        else ", ".join(f"{n:,} {split}" for split, n in card.made.rows.items()),
        "rules": [_rule(rule) for rule in card.verdict.rules],
        "corpus": "" if card.made is None or card.made.corpus is None else f" (`{card.made.corpus}`)",
        "sources": [
            {"path": _cell(_shown(source.path)), "licence": _cell(source.licence or "not declared")}
            for source in card.sources
        ],
        "memorization": [plain(line) for line in card.memorization],
        "ancestors": [plain(line) for line in card.ancestors],
        "with_examples": [plain(line) for line in card.with_examples],
        "settings": settings,
        "figures": _figures(card),
        "limits": _limits(request, certificate),
        "stop": _stop_tokens(request),
        "serve": _serve(request, kind),
        "quantization": LOADED_AS[kind] if kind and request.format == "adapter" else None,
        "keeps_adapter": (request.payload / KEPT).is_dir(),
    }


def _settings(card: Card) -> list[tuple[str, str, Any]]:
    parts = {"method": card.method, "training": card.training}
    return [
        (part, name, value)
        for part, values in parts.items()
        for name, value in values.items()
        if value is not None
    ]


def _figures(card: Card) -> list[tuple[str, str]]:
    """Return the numbers among the training's figures, by name."""
    known = {} if card.figures is None else card.figures.to_json()
    return [(name, _cell(value)) for name, value in known.items() if _is_number(value)]


def _rule(rule: Rule) -> dict[str, object]:
    """Return a rule of the verdict with its figures as text."""
    base, tuned = sides(rule)
    metric = metric_name(rule.metric, higher_is_better=rule.higher_is_better)
    names = {"task": plain(rule.task), "metric": plain(metric), "sentence": plain(rule.sentence)}
    figures = {"base": base, "tuned": tuned, "difference": difference(rule)}
    return {
        **rule.to_json(),
        **names,
        **figures,
        "word": rule_word(rule),
        "confidence": f"{100 * rule.confidence:.3g}%",
    }


def _limits(request: ExportRequest, certificate: Certificate) -> list[str]:
    """Say what this kind of export cannot do, or costs."""
    kind = quantization_of(request.weights)
    if kind_of(request.weights) == "model":
        return ["The whole model was trained and is stored in bfloat16: no adapter can be taken off again."]
    if request.format == "adapter":
        return [
            "The adapter fits only the base named above, file by file.",
            *_adapter_limits(_adapter_config(request), kind),
        ]
    if kind is None:
        return ["Base plus adapter is rounded to the base's dtype; the certificate says what that changed."]
    limits = [_merged_into(kind, certificate)]
    if "arithmetic_kl" in certificate.figures:
        limits.append(
            "Judged in int8 arithmetic, which rounds what flows through the layers too: this model is "
            f"{certificate.figures['arithmetic_kl']:.2g} nats a token from it."
        )
    return limits


def _merged_into(kind: str, certificate: Certificate) -> str:
    """Say which of the two merges of an adapter that was learned above a quantized base this is, and why."""
    behind, original = (certificate.figures.get(f"kl_into_{name}") for name in (DEQUANTIZED, ORIGINAL))
    said = f"It was trained and judged on the base in {kind}. "
    if behind is None or original is None or not original < behind:
        said += f"Merged here are the weights behind {kind}, in bfloat16"
    else:
        said += "Merged here are the base's original weights"
    if behind is not None and original is not None:
        said += (
            f" (mean KL from the judged model: {behind:.2g} nats a token into the weights behind {kind}, "
            f"{original:.2g} into the original ones; the nearer is kept)"
        )
    return said + (
        ": it behaves as the quantized base with its adapter, and takes the memory of a plain model."
    )


def _adapter_limits(config: dict[str, object], kind: str | None) -> list[str]:
    limits = []
    if kind:
        limits.append(
            f"It was trained and judged on the base in {kind} (quantization.json): load the base so."
        )
    way = "serve it with PEFT" if config.get("num_virtual_tokens") else "export it merged to serve it there"
    return limits + [f"It {reason}, which vLLM does not load: {way}." for reason in not_loaded(config)]


def _serve(request: ExportRequest, kind: str | None) -> str | None:
    """Return the command by which vLLM serves this export; None where it does not."""
    if request.format == "merged":
        return "vllm serve EXPORT"
    return serve_command(_adapter_config(request), request.card.variant, kind)


def _adapter_config(request: ExportRequest) -> dict[str, object]:
    config: dict[str, object] = json.loads((request.weights / ADAPTER_CONFIG).read_text("utf-8"))
    return config


def _stop_tokens(request: ExportRequest) -> list[str]:
    config = json.loads((request.payload / GENERATION_CONFIG).read_text("utf-8"))
    tokenizer = load_tokenizer(request.payload)
    return [f"`{token}`" for token in tokenizer.convert_ids_to_tokens(config.get("eos_token_id", []))]


def _shown(path: str) -> str:
    """Return a declared path; of an absolute one the name alone, since the rest is this machine's."""
    return Path(path).name if Path(path).is_absolute() else path


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    shown = f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if _is_number(value) else str(value)
    return plain(shown)
