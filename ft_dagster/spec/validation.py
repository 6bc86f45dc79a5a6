"""Hold content against a model: every mistake as a UserError of its own, with the nearest known name."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from datetime import date
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ft_dagster.errors import UserError, UserErrors

T = TypeVar("T", bound=BaseModel)
CALLED = {  # what other programs, and people, call a field -> its name here
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "max_seq_length": "max_length",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "model": "base_model",
    "owner": "owners",
    "gpu": "gpus",
    "dataset": "data",
}
VALUES_CALLED = {  # in the same way, a value
    "classification": "task_specific",
    "sft": "instruction",
    "chat": "instruction",
    "pretraining": "domain_knowledge",
    "accuracy": "label",
    "exact_match": "label",
}
KINDS = {  # of a value of another kind, by pydantic's name of the mistake -> what is to be written
    "bool_parsing": "Write true or false",
    "bool_type": "Write true or false",
    "int_from_float": "Write a whole number",
    "int_parsing": "Write a whole number",
    "finite_number": "Write a number",
    "float_parsing": "Write a number",
}
EXAMPLES = {  # of fields that are needed, or take a list or fields of their own: how a declaration says them
    "description": ("Sorts messages into twelve desks",),
    "base_model": ("organisation/name", "models/folder"),
    "base_model.new_tokens": ('["<tool>"]',),
    "owners": ("[ann@acme.example]",),
    "data": ("{sources: [data/rows.jsonl]}",),
    "data.sources": ("[data/rows.jsonl]", "[{path: data/rows.csv, fields: {text: body}}]"),
    "data.sources.fields": ("{instruction: question, output: answer}",),
    "data.splits": ("{validation: 0.1, test: 0.2}",),
    "data.decontaminate": ("{enabled: true}",),
    "data.general": ("{corpus: wiki, share: 0.05}", "{from: base, share: 0.05}"),
    "data.chat_template_kwargs": ("{enable_thinking: false}",),
    "method.target_modules": ("[q_proj, v_proj]", "all-linear"),
    "training": ("{num_train_epochs: 3}",),
    "training.watch": ("{general_loss_limit: 0.1}",),
    "training.report_to": ("[tensorboard]",),
    "plan": ("{probe: on}",),
    "plan.probe": ("on", "{steps: 50}"),
    "evaluation": ("{general: [arc_easy], limit: 400}",),
    "evaluation.task": ("[tasks/quiz.yaml]",),
    "evaluation.general": ("[arc_easy, sciq]",),
    "evaluation.canaries": ("[a text that is in no row]",),
    "gates": ("{general_margin: 0.05}",),
    "gates.metrics": ("{arc_easy: acc}",),
    "gates.refusals": ("on", "{margin: 0.1}"),
    "resources": ("{gpus: 1}",),
    "release": ("{approvers: [ann@acme.example]}",),
    "release.approvers": ("[ann@acme.example]",),
    "retrain": ("{cron: '0 3 * * 1'}",),
    "notify": ("[ops]",),
}  # fmt: skip
OF_ANOTHER_KIND = ("model_type", "dict_type", "tuple_type", "too_short", "string_type", "missing")
BEYOND_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
SEE_SCHEMA = "See `ft-dagster schema` for what the field takes"


def validate(
    model: type[T], content: dict[str, Any], file_of: Callable[[str], object], fix: str = SEE_SCHEMA
) -> T:
    """Return `content` as a model; `file_of`: the file that says a dotted field. Raises UserError, of all
    mistakes.

    `fix`: the way out where there is no nearer one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserErrors.of(mistakes_in(error, model, file_of, fix)) from None


def mistakes_in(
    error: ValidationError, model: type[BaseModel], file_of: Callable[[str], object], fix: str = SEE_SCHEMA
) -> list[UserError]:
    """Return the mistakes, one a field: of a value that none of several types takes, what each of them
    says; of a field whose name is misspelt, not also that it is missing.
    """
    by_field: dict[str, list[Any]] = {}
    found_all = error.errors(include_url=False)
    misspelt = {_meant(model, one) for one in found_all if one["type"] == "extra_forbidden"}
    for one in found_all:
        if one["type"] != "missing" or tuple(_path(one)) not in misspelt:
            by_field.setdefault(".".join(map(str, _path(one))), []).append(one)
    return [
        UserError(
            " or ".join(dict.fromkeys(map(_problem, found))),
            file=file_of(field),
            field=field or None,
            value=_value(found[0]),
            fix=_fix(model, _path(found[0]), found, fix),
        )
        for field, found in by_field.items()
        if not any(other.startswith(f"{field}.") for other in by_field)  # a union's other members
    ]


def _meant(model: type[BaseModel], error: Any) -> tuple[Any, ...]:
    """Return the path of the field that an unknown one stands for, as its way out says; its own without."""
    *above, _ = path = _path(error)
    said = re.fullmatch(r"Did you mean (\w+)\?", _fix(model, path, [error], ""))
    return (*above, said[1]) if said else tuple(path)


def nearest(name: str, known: list[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else otherwise


def _path(error: Any) -> list[Any]:
    """Return where the value stands; pydantic's names of unions' members and of validators are left out."""
    *above, last = error["loc"] or ("",)
    own = [part for part in above if not _of_pydantic(part)]
    return own if error["type"] != "extra_forbidden" and _of_pydantic(last) else [*own, last]


def _of_pydantic(part: Any) -> bool:
    return isinstance(part, str) and (part.startswith(("function-", "constrained-")) or "[" in part)


def _problem(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "needed, but not given"
    if error["input"] is None:
        return "no value stands there"
    message = str(error["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a list")
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping of fields", message)
    message = re.sub(r", (unable to parse string as|got) an? .*", "", message)
    message = re.sub(
        r"Tuple should have at least 1 item after validation, not 0", "The list is empty", message
    )
    return message[0].lower() + message[1:]


def _value(error: Any) -> object:
    """Return what to show of a value; nothing of fields that may not stand beside each other."""
    whole = error["type"] == "value_error" and isinstance(error["input"], dict)
    value = None if whole or error["type"] in ("missing", "extra_forbidden") else error["input"]
    return value.isoformat() if isinstance(value, date) else value


def _fix(model: type[BaseModel], path: list[Any], found: list[Any], otherwise: str) -> str:
    error = found[0]
    if error["type"] == "extra_forbidden":
        kind, name = _model_at(model, path[:-1]), str(path[-1])
        if name in getattr(kind, "gone", {}):
            return str(kind.gone[name])  # type: ignore[attr-defined]
        known = list(kind.model_fields)
        if (meant := _elsewhere(kind, CALLED.get(name, name))) is not None:
            return f"Did you mean {meant}?"
        if name in _texts_of(kind.model_fields[known[0]].annotation):
            return f"Write {known[0]}: {name}, and its settings beside it"
        return nearest(name, known, f"Known here: {', '.join(known)}")
    said = error.get("ctx", {}).get("fix") or _other_value(found) or _within_bounds(model, path, found)
    return str(said or _written_so(model, path, found) or otherwise)


def _within_bounds(model: type[BaseModel], path: list[Any], found: list[Any]) -> str | None:
    """Return the numbers that the field takes, with an example of its own, of one that is beyond them; of a
    share that was written in percent, the share.
    """
    if found[0]["type"] not in BEYOND_BOUNDS or not isinstance(path[-1], str):
        return None
    field = _model_at(model, path[:-1]).model_fields.get(path[-1])
    if field is None:
        return None
    least, most = _bound(field, "ge", "gt"), _bound(field, "le", "lt")
    number = float(found[0]["input"])  # also of a text
    share_of = most[1] if most and not field.examples else math.inf
    if share_of <= 1 < number <= 100 and (least[1] if least else 0) <= number / 100 <= share_of:
        percent = f"{number / 100:g} for {number:g} percent"
        return f"Write {percent}" if number >= 2 else f"Write a share of at most 1, such as {percent}"
    words = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    if least and most and (least[0], most[0]) == ("ge", "le"):
        bounds = f"from {least[1]:.15g} to {most[1]:.15g}"
    else:
        bounds = " and ".join(f"{words[kind]} {value:.15g}" for kind, value in filter(None, (least, most)))
    such = "".join(f", such as {each}" for each in field.examples or ())
    return f"Write a number {bounds}{such}" if bounds else None


def _bound(part: Any, *kinds: str) -> tuple[str, float] | None:
    """Return the bound of one of these kinds, by annotated_types' names, of a field or of what its type
    holds.
    """
    for each in (*getattr(part, "metadata", ()), *getattr(part, "__metadata__", ())):
        for kind in kinds:
            if (value := getattr(each, kind, None)) is not None:
                return kind, value
        if (inner := _bound(each, *kinds)) is not None:
            return inner
    parts = [part.annotation] if isinstance(part, FieldInfo) else get_args(part)
    return next((found for each in parts if (found := _bound(each, *kinds)) is not None), None)


def _written_so(model: type[BaseModel], path: list[Any], found: list[Any]) -> str | None:
    """Return how a value of another kind is written, by the names that the field takes or by an example."""
    if not any(one["type"] in OF_ANOTHER_KIND for one in found):
        return None
    names = [part for part in path if isinstance(part, str)]
    if examples := EXAMPLES.get(".".join(names)):
        return f"Write it so: {' or '.join(f'`{names[-1]}: {each}`' for each in examples)}"
    inner = _model_at(model, path)
    choices = _texts_of(next(iter(inner.model_fields.values())).annotation)
    if inner is _model_at(model, path[:-1]) or not choices:
        return "Write one text" if found[0]["type"] == "string_type" else None
    alone = " alone, without brackets or dashes," if isinstance(found[0]["input"], list | tuple) else ""
    return f"Name one{alone} of {', '.join(choices)}: `{names[-1]}: {choices[0]}`"


def _texts_of(annotation: Any) -> list[str]:
    """Return the words of which one may be written, of a type that takes such."""
    if get_origin(annotation) is Literal:
        return [each for each in get_args(annotation) if isinstance(each, str)]
    return [text for each in get_args(annotation) for text in _texts_of(each)]


def _elsewhere(kind: type[BaseModel], name: str) -> str | None:
    """Return the field of this name in the model, else in a part of it, with the part."""
    if name in kind.model_fields:
        return name
    parts = {part: _inner_model(field.annotation) for part, field in kind.model_fields.items()}
    having = [f"{part}.{name}" for part, inner in parts.items() if inner and name in inner.model_fields]
    return having[0] if len(having) == 1 else None


def _other_value(found: list[Any]) -> str | None:
    """Return how the value would be written right, where that can be told."""
    if found[0]["type"] == "missing":
        return None  # its input is all that stands beside it
    value = found[0]["input"]
    if value is None:
        return "Write one, or remove the line"
    if found[0]["type"] == "string_type" and isinstance(value, bool | int | float | date):
        return "Put it in quotes, so that it is a text"
    if isinstance(value, str) and re.fullmatch(r"\s*\d+,\d+\s*", value):
        return f"Write {value.strip().replace(',', '.')}, with a point"
    if found[0]["type"] == "tuple_type" and isinstance(value, str | dict):
        return f"Write it as a list: [{value}]" if isinstance(value, str) else "Begin each entry with a dash"
    if isinstance(value, str) and re.fullmatch(r"\s*[\d.]+\s*%", value):
        return f"Write {float(value.strip().rstrip('% ')) / 100:g}"
    texts = [
        text for one in found for text in re.findall("'([^']*)'", str(one.get("ctx", {}).get("expected")))
    ]
    if found[0]["type"] in KINDS and not found[1:]:
        return KINDS[found[0]["type"]]
    if not isinstance(value, str):
        return "Write one of these" if texts and found[0]["type"] == "literal_error" else None
    called = VALUES_CALLED.get(value.lower())
    if called in texts:
        return f"Did you mean {called}?"
    return nearest(value.lower(), texts, "Write one of these" if texts else "")


def is_default(model: type[BaseModel], field: str, value: Any) -> bool:
    """Say whether a dotted field of a model has this value where nobody declares it."""
    *above, last = field.split(".")
    info = _model_at(model, list(above)).model_fields.get(last)
    return (
        info is not None and not info.is_required() and info.get_default(call_default_factory=True) == value
    )


def _model_at(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = None if field is None else _inner_model(field.annotation)
        model = inner or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in get_args(annotation) if (m := _inner_model(arg))), None)
