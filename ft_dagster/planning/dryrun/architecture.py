"""Reads a model's shapes from its config.json alone: given, checked, or taken from those shipped here."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import LAYERS, size_of
from ft_dagster.strict_json import loads, untagged

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SHIPPED = Path(__file__).with_name("architectures")  # config.json files as published, by name
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
DROPPED = ("auto_map", "quantization_config")  # code of the model's own; how its weights were stored
WAY_OUT = "Give the config.json of a causal language model that transformers knows, as its hub page has it"


def shipped() -> dict[str, Path]:
    """Return the architectures that come with this package, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.json"))}


def architecture_file(given: str | Path) -> Path:
    """Return the config.json of a folder, a file, or a shipped name. Raises UserError with the nearest
    names.
    """
    path = Path(given)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return path
    known = {name.lower(): file for name, file in shipped().items()}
    if str(given).lower() in known:
        return known[str(given).lower()]
    near = difflib.get_close_matches(str(given).lower(), known, n=3, cutoff=0.3) or list(known)
    raise UserError(
        "is no config.json, no folder with one, and no architecture that is known here",
        field="model",
        value=str(given),
        fix=f"{WAY_OUT}; or one of {', '.join(known[name].stem for name in near)}",
    )


def configuration(given: str | Path) -> PreTrainedConfig:
    """Return transformers' own configuration, every size of it written in the file.

    Where a file leaves a size out, transformers takes a default: that of another model. Raises UserError.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    file = architecture_file(given)
    written = _read(file)
    model_type = written.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        known = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=3)
        raise UserError(
            "is no architecture that transformers knows",
            file=file,
            field="model_type",
            value=model_type,
            fix=f"{WAY_OUT}{'; near it: ' if known else ''}{', '.join(known)}",
        )
    kind = CONFIG_MAPPING[model_type]
    _check_sizes(file, written, kind)
    try:
        config: PreTrainedConfig = kind.from_dict({n: v for n, v in written.items() if n not in DROPPED})
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = str(error.__cause__ or error).strip().splitlines()[-1][:200]
        raise UserError(f"is not consistent: {why}", file=file, fix=WAY_OUT) from None
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        written = untagged(loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot be read as JSON: {error}", file=file, fix=WAY_OUT) from None
    if not isinstance(written, dict):
        raise UserError("is no JSON object", file=file, value=written, fix=WAY_OUT)
    return written


def _check_sizes(file: Path, written: dict[str, Any], kind: type[PreTrainedConfig]) -> None:
    nested = any(isinstance(part, dict) and LAYERS in part for part in written.values())
    required = SIZES[:2] if nested else SIZES  # a nested text model may leave out what its class has
    if not nested and isinstance(getattr(kind, "intermediate_size", None), int):
        required = (*required, "intermediate_size")
    for name in required:
        value = size_of(written, kind, name)[1]
        if value is None:
            raise UserError("is not written, and no size is guessed", file=file, field=name, fix=WAY_OUT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError("is no size", file=file, field=name, value=value, fix=WAY_OUT)
