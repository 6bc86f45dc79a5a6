"""A model's shapes from its config.json alone: read, checked, or taken from those shipped here."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SHIPPED = Path(__file__).with_name("architectures")  # config.json files as published, by name
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
WAY_OUT = "Give the config.json of a causal language model that transformers knows, as its hub page has it"


def shipped() -> dict[str, Path]:
    """The architectures that come with this package, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.json"))}


def architecture_file(given: str | Path) -> Path:
    """The config.json of a folder, a file, or a shipped name. Raises UserError with the nearest names."""
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
    """transformers' own configuration, every size of it written in the file.

    Where a file leaves a size out, transformers takes a default: that of another model. Raises UserError.
    """
    from transformers import AutoConfig

    file = architecture_file(given)
    written = _read(file)
    try:
        config: PreTrainedConfig = AutoConfig.for_model(**_plain(written))
    except KeyError:
        raise UserError("has no model_type", file=file, field="model_type", fix=WAY_OUT) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"is no architecture that transformers knows ({_first_line(error)})",
            file=file,
            field="model_type",
            value=written.get("model_type"),
            fix=WAY_OUT,
        ) from None
    _check_sizes(file, written, config)
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        written = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as JSON: {_first_line(error)}", file=file, fix=WAY_OUT) from None
    if not isinstance(written, dict):
        raise UserError("is no JSON object", file=file, value=written, fix=WAY_OUT)
    return written


def _plain(written: dict[str, Any]) -> dict[str, Any]:
    """Without what names code of the model's own, which is never run, and how its weights were stored."""
    dropped = ("auto_map", "quantization_config", "transformers_version")
    kept = {name: value for name, value in written.items() if name not in dropped}
    return {"model_type": kept.pop("model_type"), **kept}


def _check_sizes(file: Path, written: dict[str, Any], config: PreTrainedConfig) -> None:
    text = config.get_text_config()
    nested = next(
        (part for part in written.values() if isinstance(part, dict) and "num_hidden_layers" in part), {}
    )
    names = dict(getattr(text, "attribute_map", None) or {})
    required = SIZES[:2] if nested else SIZES  # a nested text model may leave out what its class has
    if not nested and isinstance(getattr(type(text), "intermediate_size", None), int):
        required = (*required, "intermediate_size")
    for name in required:
        value = next(
            (at[n] for at in (nested, written) for n in (name, names.get(name, name)) if n in at), None
        )
        if value is None:
            raise UserError("is not written, and no size is guessed", file=file, field=name, fix=WAY_OUT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError("is no size", file=file, field=name, value=value, fix=WAY_OUT)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
