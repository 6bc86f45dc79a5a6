"""Reads what a model folder holds from its headers alone: weights, tokenizer, and what may not be loaded."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, payload_digest
from ft_dagster.provenance.hash_cache import cached_sha256
from ft_dagster.strict_json import JsonObject

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"
GENERATION_CONFIG = "generation_config.json"
LAYERS = "num_hidden_layers"
COMPRESSED = "compressed-tensors"
UNCOUNTED = (".compressed", ".bitmask", ".meta", ".row_offsets")  # of sparse weights
SETTINGS = (CONFIG, GENERATION_CONFIG)
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I8": "int8",
    "U8": "uint8",
}


class Weights(NamedTuple):
    """Counts a model's weights from the safetensors headers. `parameters` as stored: tied weights count
    once.
    """

    parameters: int
    nbytes: int
    dtype: str


def used_files(names: list[str]) -> list[str]:
    """Return those of the files of a model folder (POSIX paths in it) that loading it reads, without
    weights.
    """
    return sorted(
        name
        for name in names
        if name in TOKENIZER
        or name in SETTINGS
        or (name.endswith(".jinja") and name.rpartition("/")[0] == TEMPLATES)
    )


def weight_files(folder: Path) -> list[str]:
    """Return the names of the safetensors files that make up the model. Raises UserError where some are
    missing.
    """
    index = folder / INDEX
    if index.is_file():
        said = read_json(index).get("weight_map")
        files = list(said.values()) if isinstance(said, dict) else []
        if not files or not all(isinstance(name, str) and Path(name).name == name for name in files):
            fix = "Download the model whole"
            raise UserError("names no weight files of its folder", file=index, field="weight_map", fix=fix)
        names = sorted(set(files))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            problem = f"{len(missing)} of {len(names)} weight files are missing"
            raise UserError(problem, file=index, value=missing[0], fix="Download the model whole")
        return names
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    raise no_weights(folder, [path.name for path in folder.iterdir()])


def no_weights(where: object, names: list[str]) -> UserError:
    """Return the error for a model without safetensors, by what it has instead."""
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        fix = (
            "A pickle can run code when loaded: convert it once, in a sandbox, with "
            "save_pretrained (safetensors), or take a revision that has safetensors"
        )
        return UserError(
            "the weights are pickles only", file=where, field="base_model.source", value=pickles[0], fix=fix
        )
    if "adapter_config.json" in names:
        fix = "Merge it into its base first, and name the merged folder"
        return UserError("an adapter, not a base model", file=where, fix=fix)
    if any(name.endswith(".gguf") for name in names):
        fix = "Load it once with transformers (gguf_file=...) and save_pretrained it"
        return UserError("a GGUF file, not safetensors", file=where, fix=fix)
    return UserError(
        "a base model without weights", file=where, field="base_model.source", fix=f"Put {WEIGHTS} into it"
    )


def measure_weights(folder: Path, names: list[str]) -> Weights:
    """Count the parameters in the headers of safetensors files; of MXFP4, two in a byte, of compressed
    tensors as many as their bits say. Raises UserError for a damaged file, and for compressed tensors that
    cannot be counted.
    """
    parameters, nbytes, kinds = 0, 0, Counter[str]()
    said = read_json(folder / CONFIG).get("quantization_config") if (folder / CONFIG).is_file() else None
    method = said.get("quant_method") if isinstance(said, dict) else None
    in_4_bits = method == "mxfp4"
    for name in names:
        for each, tensor in read_header(folder / name).items():
            start, end = tensor["data_offsets"]
            scale = in_4_bits and each.endswith("_scales")
            values = 2 if in_4_bits and each.endswith("_blocks") else 1
            count = values * math.prod(tensor["shape"])
            if isinstance(said, dict) and method == COMPRESSED:
                count = _compressed(folder, said, each, 8 * (end - start), count)
            parameters += 0 if scale else count
            nbytes += end - start
            kinds[tensor["dtype"]] += end - start
    most = kinds.most_common(1)[0][0]
    return Weights(parameters, nbytes, DTYPES.get(most, most.lower()))


def _compressed(folder: Path, said: JsonObject, name: str, bits: int, numbers: int) -> int:
    """Count the parameters in a tensor of so many bits and numbers, by its name: none of a scale or a shape,
    of a packed one as many as its bits hold. Raises UserError for one that tells no count.
    """
    if name.endswith(("_scale", "_zero_point", "_shape", "_g_idx")):
        return 0
    if not name.endswith((".weight_packed", *UNCOUNTED)):
        return numbers
    with suppress(TypeError, KeyError, AttributeError):  # a file that says something else
        widths = {str(group["weights"]["num_bits"]) for group in said["config_groups"].values()}
        if len(widths) == 1 and widths <= {"2", "4", "8"} and not name.endswith(UNCOUNTED):
            return bits // int(widths.pop())
    raise UserError(
        f"says no one number of bits by which the parameters in {name} could be counted",
        file=folder / CONFIG,
        field="quantization_config",
        value=COMPRESSED,
        fix="Take the base in 16 bits",
    )


def read_header(path: Path) -> JsonObject:
    """Return dtype, shape and data_offsets of each tensor of a safetensors file. Raises UserError for a
    damaged one.
    """
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > 100_000_000:
                raise ValueError
            tensors: JsonObject = json.loads(file.read(length))
        tensors.pop("__metadata__", None)
        if not all(map(_is_described, tensors.values())):
            raise ValueError
        end = max(tensor["data_offsets"][1] for tensor in tensors.values())
        if path.stat().st_size != 8 + length + end:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
        what, fix = _what_it_is(path)
        raise UserError(f"not a whole safetensors file: it {what}", file=path, fix=fix) from None
    return tensors


def _what_it_is(path: Path) -> tuple[str, str]:
    """Return what a file is that is no whole safetensors file, and the way out."""
    with path.open("rb") as file:
        begins = file.read(64)
    if not begins:
        return "is empty", "Download it again"
    if begins.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, in place of the weights", "Fetch them by `git lfs pull`"
    return f"is damaged, or was cut off at {path.stat().st_size:,} bytes", "Download it again"


def _is_described(tensor: Any) -> bool:
    """Say whether a tensor of a header has its dtype, shape and place, and none of its numbers is
    negative.
    """
    numbers = [*tensor["shape"], *tensor["data_offsets"]]
    whole = all(isinstance(number, int) and number >= 0 for number in numbers)
    return isinstance(tensor["dtype"], str) and len(tensor["data_offsets"]) == 2 and whole


def read_config(folder: Path) -> JsonObject:
    """Read config.json of a model that transformers itself implements. Raises UserError."""
    config = read_json(folder / CONFIG)
    tokenizer = folder / "tokenizer_config.json"
    settings = read_json(tokenizer) if tokenizer.is_file() else {}
    kind = config.get("model_type")
    fix = "Take a base that transformers implements itself"
    if not isinstance(kind, str):
        raise UserError("does not say its model_type", file=folder / CONFIG, field="model_type", fix=fix)
    if not _is_implemented(kind):
        what = "needs code of its own (auto_map)" if "auto_map" in config else "unknown architecture"
        raise UserError(what, file=folder / CONFIG, field="model_type", value=kind, fix=fix)
    if "auto_map" in settings and not (folder / "tokenizer.json").is_file():
        raise UserError("the tokenizer needs code of its own (auto_map)", file=tokenizer, fix=fix)
    return config


def _is_implemented(kind: str) -> bool:
    """Say whether transformers has models of this type; without it nobody knows, and nothing is trained. Its
    list is read where it lies: an import takes seconds, too much for who finds an unchanged base again.
    """
    if kind in _listed_kinds() or find_spec("transformers") is None:
        return True
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


@cache
def _listed_kinds() -> frozenset[str]:
    """Return the model types of the list that transformers generates; none where its version has no such
    file.
    """
    package = find_spec("transformers")
    if package is None or package.origin is None:
        return frozenset()
    file = Path(package.origin).parent / "models" / "auto" / "auto_mappings.py"
    return frozenset(run_path(str(file))["CONFIG_MAPPING_NAMES"]) if file.is_file() else frozenset()


def size_of(config: Mapping[str, Any], kind: Any, name: str) -> tuple[str, Any]:
    """Return what a config.json calls a size, and its value, None where it is not written; that of a language
    model inside goes before. `kind`: transformers' class of the configuration.
    """
    own = (getattr(kind, "attribute_map", None) or {}).get(name, name)
    inner = next((part for part in config.values() if isinstance(part, dict) and LAYERS in part), {})
    return next(
        ((each, part[each]) for part in (inner, config) for each in (name, own) if each in part), (own, None)
    )


def architecture_of(config: JsonObject) -> str:
    """Return the first architecture that a configuration names, else its model_type."""
    named = config.get("architectures")
    return str(named[0] if isinstance(named, list) and named else config["model_type"])


def read_json(path: Path) -> JsonObject:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise UserError("not JSON", file=path, fix="Download it again") from None
    if not isinstance(content, dict):
        raise UserError("not a JSON object", file=path, fix="Download it again")
    return content


def declared_ends(folder: Path) -> list[int]:
    """Return the tokens that end an answer by a model folder's generation_config.json. Raises UserError."""
    file = folder / GENERATION_CONFIG
    ends = read_json(file).get("eos_token_id") if file.is_file() else None
    found = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(id_) is int and id_ >= 0 for id_ in found):
        fix = "Give the number of a token, or a list of some"
        raise UserError("names no tokens", file=file, field="eos_token_id", value=ends, fix=fix)
    return found


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def tokenizer_files(folder: Path) -> list[str]:
    """Return the names of the tokenizer's files, its chat templates among them. Raises UserError where it has
    none.
    """
    files = (*folder.iterdir(), *(folder / TEMPLATES).glob("*"))
    inside = [path.relative_to(folder).as_posix() for path in files if path.is_file()]
    names = [name for name in used_files(inside) if name not in SETTINGS]
    if not any(name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt") for name in names):
        raise UserError(
            "a model folder without a tokenizer", file=folder, fix="Put its tokenizer.json into it"
        )
    return names


def tokenizer_digest(folder: Path) -> str:
    """Return the digest over the tokenizer's files: what changes it, changes what is trained."""
    return payload_digest(
        [
            FileDigest(name, (folder / name).stat().st_size, cached_sha256(folder / name, None))
            for name in tokenizer_files(folder)
        ]
    )
