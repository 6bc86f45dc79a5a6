"""Checks whether the files of a base hold what its class needs: transformers' own load report, on shapes
alone.

transformers draws at random what a file lacks, and says so in a log. Its report is made here from headers,
after its own renamings and conversions (experts that lie one by one are stacked) and with its own lists of
what may be missing; no weight is read. What was found whole is remembered by content.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError, in_one_line
from ft_dagster.model_files.weights import (
    CONFIG,
    DTYPES,
    LAYERS,
    read_header,
    read_json,
    size_of,
    weight_files,
)
from ft_dagster.models.stored import IN_16_BITS, QUANTIZED, is_plain, lacking
from ft_dagster.provenance.digest import FileDigest, sha256_json
from ft_dagster.provenance.findings import remembered

if TYPE_CHECKING:
    from torch import Tensor

HOW = 2  # raised where the report is made otherwise
SIZES = ("hidden_size", LAYERS, "num_attention_heads", "vocab_size")
REACHED = "num_experts_per_tok"
STACK = 3  # dimensions of a tensor that holds all experts of a layer
SPARE_LAYERS = 1_000  # beyond as many as there are tensors: what no model has is not built
SHOWN = 120  # letters of a tensor's name
WHOLE = "Download the model whole, with the config.json that belongs to its weights"
MEND = "Take the config.json that belongs to the model's weights"


def unused_tensors(folder: Path, files: Sequence[FileDigest], cache: Path | None) -> tuple[str, ...]:
    """Return the names of stored tensors that the class of a base has no place for. `files`: all that loading
    reads.

    Raises UserError where the files lack a tensor or have one of another shape, and for a config.json that
    makes no sense.
    Nothing is known of a base that is stored quantized, or where transformers is not installed. A base whose
    config.json names a quantization, and whose files hold plain floats alone, is looked at as a plain one.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        return ()
    said = read_json(folder / CONFIG).get(QUANTIZED)
    if said and isinstance(said, dict) and not is_plain(folder):
        read, lacks = _known_method(said, cache)
        if lacks:
            raise UserError(
                f"is stored quantized, and cannot be loaded here: {lacks}",
                file=folder / CONFIG,
                field=QUANTIZED,
                value=said.get("quant_method"),
                fix=f"Install what it names, or {IN_16_BITS}",
            )
        if read:
            return ()
    question = {"load report": HOW, "files": [list(file) for file in files]}
    question["transformers"] = version("transformers")
    return tuple(remembered(cache, question, lambda: _unused(folder)))


def _known_method(said: dict[str, Any], cache: Path | None) -> tuple[bool, str | None]:
    """Say whether transformers knows the method of a quantization, and what this host lacks to load a base
    that is stored so. Remembered: to ask imports all its methods.
    """
    libraries = {each.metadata["Name"]: each.version for each in distributions()}
    question = {"stored": HOW, "said": said, "libraries": sha256_json(libraries)}

    def find() -> list[Any]:
        read = _is_read_quantized(said)
        with _told_by_transformers():
            return [read, lacking(said) if read else None]

    read, lacks = remembered(cache, question, find)
    return read, lacks


def _is_read_quantized(said: Any) -> bool:
    """Say whether transformers reads files as quantized: where config.json says a method that it knows."""
    if not said or not isinstance(said, dict):
        return False
    from transformers.quantizers.auto import AutoHfQuantizer

    with _told_by_transformers():
        try:
            return bool(AutoHfQuantizer.supports_quant_method(said))
        except ValueError:  # without a method
            return False


def unused_words(names: Sequence[str]) -> str:
    """Say in a line that a base has stored tensors which take no part."""
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"its class has no place for {in_one_line(names[0])[:SHOWN]}{more} of its files: left out"


def stored_shapes(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a model folder by name, on the meta device: of their shape, and without numbers.
    Raises UserError for a shape that no tensor has.
    """
    import torch

    def empty(file: Path, name: str, tensor: Mapping[str, Any]) -> Tensor:
        dtype = getattr(torch, DTYPES.get(tensor["dtype"], "float32"))
        try:
            return torch.empty(tensor["shape"], dtype=dtype, device="meta")
        except (RuntimeError, TypeError):  # numbers beyond those of a machine
            raise UserError("has a shape that no tensor has", file=file, value=name, fix=WHOLE) from None

    files = [folder / name for name in weight_files(folder)]
    return {name: empty(file, name, tensor) for file in files for name, tensor in read_header(file).items()}


def _unused(folder: Path) -> list[str]:
    stored = stored_shapes(folder)
    file = folder / CONFIG
    _check_sizes(file, read_json(file), len(stored))
    with _told_by_transformers() as lines:
        try:
            kind, config = _class_of(folder)
            named = _is_read_quantized(getattr(config, QUANTIZED, None))
            if named:
                delattr(config, QUANTIZED)
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=stored,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                attn_implementation="eager",  # which every class has; the weights are the same
                dtype="float32",
                output_loading_info=True,
            )
        except UserError:
            raise
        except Exception as error:  # whatever a class raises on what a tenant's file says
            raise _not_built(file, error, lines) from None
    _check_vocabulary(folder, model)
    _check_experts(file, model)
    _check_report(folder, kind.__name__, report)
    return [] if named else sorted(report["unexpected_keys"])  # its method may have a place for them


def _class_of(folder: Path) -> tuple[Any, Any]:
    """Return the class that a training loads, and its configuration. Raises UserError where there is none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    classes = AutoModelForCausalLM._model_mapping
    if type(config) not in classes:
        raise UserError(
            "transformers has no causal language model of this type",
            file=folder / CONFIG,
            field="model_type",
            value=config.model_type,
            fix="Take a base that writes text",
        )
    return classes[type(config)], config


def _check_sizes(file: Path, written: Mapping[str, Any], tensors: int) -> None:
    """Raises UserError for a size that is none, and for more layers than anyone has."""
    from transformers import CONFIG_MAPPING

    for name in SIZES:
        own, value = size_of(written, CONFIG_MAPPING[written["model_type"]], name)
        if value is not None and (type(value) is not int or value < 1):
            raise UserError("is no size", file=file, field=own, value=value, fix=MEND)
    for name, value in _numbers_of(written):
        if name.endswith(("layers", "layer", "depth")) and value > tensors + SPARE_LAYERS:
            problem = f"cannot be: the files hold {tensors:,} tensors in all"
            raise UserError(problem, file=file, field=name, value=value, fix=MEND)


def _numbers_of(written: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield each number of a configuration and of its parts, by its name."""
    for name, value in written.items():
        if isinstance(value, dict):
            yield from _numbers_of(value)
        elif isinstance(value, int | float):
            yield name, value


def _check_vocabulary(folder: Path, model: Any) -> None:
    """Raises UserError where the base has no row for a token of its tokenizer. A token that was added to that
    and ends nothing may lack one: no plain text has it.
    """
    from ft_dagster.data.rendering.render import load_tokenizer

    rows, tokenizer = model.get_input_embeddings().weight.shape[0], load_tokenizer(folder)
    ends = [id_ for id_ in (tokenizer.bos_token_id, tokenizer.eos_token_id) if id_ is not None]
    largest = max([tokenizer.vocab_size - 1, *ends])
    if largest >= rows:
        raise UserError(
            f"gives the base no row for a token of its tokenizer, whose largest is {largest}",
            file=folder / CONFIG,
            field="vocab_size",
            value=rows,
            fix="Take the tokenizer that belongs to the model",
        )


def _check_experts(file: Path, model: Any) -> None:
    """Raises UserError where a token goes to no expert of a layer, or to more than there are."""
    reached = getattr(model.config.get_text_config(), REACHED, None)
    held = [w.shape[0] for name, w in model.named_parameters() if ".experts." in name and w.ndim == STACK]
    if held and isinstance(reached, int) and not 1 <= reached <= min(held):
        raise UserError(
            f"sends each token to so many of the {min(held)} experts of a layer",
            file=file,
            field=REACHED,
            value=reached,
            fix=MEND,
        )


def _check_report(folder: Path, name: str, report: Mapping[str, Any]) -> None:
    missing = sorted(report["missing_keys"], key=_in_order)
    if missing:
        problem = (
            f"the files hold nothing for {len(missing):,} of the tensors of {name}: "
            "they would be drawn at random"
        )
        raise UserError(problem, file=folder, field="base_model.source", value=missing[0], fix=WHOLE)
    if report["mismatched_keys"]:
        other = sorted(report["mismatched_keys"], key=lambda each: _in_order(each[0]))
        key, had, meant = other[0]
        count = f"{len(other):,} tensors have" if len(other) > 1 else "a tensor has"
        problem = f"{count} another shape than by config.json: {tuple(had)}, not {tuple(meant)}"
        raise UserError(problem, file=folder, field="base_model.source", value=key, fix=WHOLE)


def _in_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which layer 2 comes before layer 10."""
    return [(int(part) if part.isdigit() else -1, part) for part in name.split(".")]


def _not_built(file: Path, error: Exception, lines: Sequence[str]) -> UserError:
    """Return the error for what a class raised, in one line; of tensors that could not be put together, the
    first.
    """
    parted = [line.split("|")[0].strip() for line in lines if "CONVERSION" in line and "|" in line]
    if parted:
        problem = "the files do not hold all that a tensor is put together from"
        return UserError(problem, file=file.parent, field="base_model.source", value=parted[0], fix=WHOLE)
    why = next(
        (line.strip() for line in str(error.__cause__ or error).splitlines()[::-1] if line.strip()), ""
    )
    problem = f"no model can be made by it ({type(error).__name__}: {why[:160]})"
    return UserError(problem, file=file, fix=MEND)


@contextmanager
def _told_by_transformers() -> Iterator[list[str]]:
    """Yield the lines that transformers logs within this context, which are not shown."""
    from transformers.utils import logging as told

    lines: list[str] = []

    class ReportLines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()).splitlines())

    logger, kept, bars = logging.getLogger("transformers"), ReportLines(), told.is_progress_bar_enabled()
    before = logger.handlers, logger.propagate, logger.level
    unheard = logging.root.manager.disable  # by which a command keeps libraries quiet
    told.disable_progress_bar()
    logging.disable(logging.NOTSET)
    logger.handlers, logger.propagate = [kept], False
    logger.setLevel(logging.WARNING)
    try:
        yield lines
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
        logging.disable(unheard)
        if bars:
            told.enable_progress_bar()
