"""Makes a base model that exists nowhere yet: `python -m ft_dagster.export.derived RUN_DIR`.

Reads RUN_DIR/run.json. Writes `<output>/payload/model/`, a plain transformers folder: the given base, a
parent's adapter merged into it where one is given, and its vocabulary extended by new tokens. The same
request gives the same bytes. result.json's figures name the ids of the new tokens. Exit: 0 done, 2 bad input.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.data.rendering.new_tokens import extend_tokenizer, pieces_of
from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import hold_weights
from ft_dagster.export.derivation_request import DerivationRequest
from ft_dagster.model_files.weights import CONFIG, INDEX, WEIGHTS, read_json, weight_files
from ft_dagster.program import run_program, start_program, write_json
from ft_dagster.provenance.held import FOLDER, held_files
from ft_dagster.strict_json import tagged

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 4_000_000_000
MODEL = "model"  # the folder of the payload that holds the base


def main(run_dir: Path) -> int:
    return run_program(run_dir, DerivationRequest, derive)


def derive(request: DerivationRequest) -> dict[str, Any]:
    """Write the folder; returns {"new_token_ids": [...]}.

    Raises UserError, also for a base or an adapter that is not what the request says, or changes meanwhile.
    """
    quiet()
    with held_files(request.output / FOLDER) as held:
        base = held.tree("base", request.base.folder, request.base.files).folder
        adapter = None if request.adapter is None else hold_weights(request.adapter, held).folder
        return {"new_token_ids": _derive(request, base, adapter)}


def _derive(request: DerivationRequest, base: Path, adapter: Path | None) -> list[int]:
    """Make the base out of these folders; the ids of its new tokens."""
    target, folded = request.output / "payload" / MODEL, request.output / "folded"
    for folder in (target, folded):  # of an earlier try that was cut off
        shutil.rmtree(folder, ignore_errors=True)
    start, ids = base, []
    if adapter is not None:
        start = folded if request.new_tokens else target
        _fold(base, request.base_digest, adapter, start)
    if request.new_tokens:
        ids = add_tokens(start, request.new_tokens, target, declared_in=request.declared_in)
    shutil.rmtree(folded, ignore_errors=True)
    for file in target.rglob("*.safetensors"):  # safetensors writes for the owner alone
        file.chmod((target / CONFIG).stat().st_mode)
    return ids


def add_tokens(source: Path, tokens: Sequence[str], target: Path, *, declared_in: object = None) -> list[int]:
    """Copy the model folder `source` to `target` with `tokens` in its vocabulary; returns their ids.

    A new row of the embeddings, and of the output head where it has weights of its own, is the mean of the
    rows of the pieces into which the token was split before. Rows that the base has beyond its tokens are
    used first. All other values stay as they are, bit for bit. Raises UserError.
    """
    from ft_dagster.data.rendering.render import load_tokenizer

    before = load_tokenizer(source)
    pieces = pieces_of(tokens, before, file=declared_in)
    known = max(before.get_vocab().values()) + 1
    print(f"base model: adding {len(tokens)} tokens to {known}", flush=True)
    target.mkdir(parents=True)
    ids = extend_tokenizer(source, tokens, target, file=declared_in)
    vocabulary = vocabulary_tensors(source)
    rows = 0

    def change(name: str, tensor: Tensor) -> Tensor:
        nonlocal rows
        if name not in vocabulary:
            return tensor
        if tensor.shape[0] < known:
            raise UserError(
                f"its tokenizer has {known} tokens, but {name} only {tensor.shape[0]} rows",
                file=source,
                fix="Give the base a row for each token once (resize_token_embeddings) and save it",
            )
        rows = max(tensor.shape[0], max(ids) + 1)
        return with_rows(tensor, rows, ids, pieces)

    write_weights(source, target, change)
    config = read_json(source / CONFIG)
    write_json(target / CONFIG, tagged(_with_vocabulary(config, rows)))
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
    return ids


def with_rows(tensor: Tensor, rows: int, ids: Sequence[int], pieces: Sequence[Sequence[int]]) -> Tensor:
    """Return `tensor` (rows first) with at least `rows` rows, row `ids[i]` the mean of the rows
    `pieces[i]`.
    """
    import torch

    extended = torch.zeros((rows, *tensor.shape[1:]), dtype=tensor.dtype)
    extended[: tensor.shape[0]] = tensor
    for id_, parts in zip(ids, pieces, strict=True):
        extended[id_] = tensor[list(parts)].double().mean(0).to(tensor.dtype)
    return extended


def vocabulary_tensors(folder: Path) -> set[str]:
    """Return the names, in the folder's files, of the tensors with a row for each token: embeddings, output
    head.

    The model is built without memory (meta device). Raises UserError where the embeddings are not found.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config)
    stored: set[str] = set()
    for file in weight_files(folder):
        with safe_open(folder / file, "pt") as opened:
            stored |= set(opened.keys())
    embeddings = _stored_as(model, model.get_input_embeddings(), stored)
    if not embeddings:
        raise UserError(
            "which tensor holds the embeddings of its tokens cannot be told",
            file=folder,
            field="base_model.new_tokens",
            fix="Load the base once with this transformers, save_pretrained it, and name that folder",
        )
    return embeddings | _stored_as(model, model.get_output_embeddings(), stored)


def write_weights(source: Path, target: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """Write every tensor of `source`, as `change(name, tensor)` gives it, in files of at most 4 GB."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    shards: list[tuple[Path, list[str]]] = []
    held: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        part = target / f"part-{len(shards)}"
        save_file(held, part, metadata={"format": "pt"})
        shards.append((part, list(held)))
        held.clear()

    for file in weight_files(source):
        with safe_open(source / file, "pt") as opened:
            for name in sorted(opened.keys()):
                tensor = change(name, opened.get_tensor(name))
                total += tensor.nbytes
                if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > SHARD_BYTES:
                    flush()
                held[name] = tensor.contiguous()
    flush()
    if len(shards) == 1:
        shards[0][0].rename(target / WEIGHTS)
        return
    weight_map: dict[str, str] = {}
    for number, (part, names) in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        part.rename(target / name)
        weight_map |= dict.fromkeys(names, name)
    write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _stored_as(model: Any, layer: Any, stored: set[str]) -> set[str]:
    """Return the stored names under which the weights of a layer lie; some files leave the model's prefix
    out.
    """
    if layer is None:
        return set()
    own = {id(parameter) for parameter in layer.parameters()}
    prefix = f"{model.base_model_prefix}."
    parameters = model.named_parameters(remove_duplicate=False)
    names = [name for name, parameter in parameters if id(parameter) in own]
    return {as_ for name in names for as_ in (name, name.removeprefix(prefix)) if as_ in stored}


def _fold(base: Path, digest: str, adapter: Path, target: Path) -> None:
    from ft_dagster.export.merged import KEPT, export_merged

    print("base model: merging the parent's adapter into its base", flush=True)
    export_merged(base, digest, adapter, target)
    shutil.rmtree(target / KEPT, ignore_errors=True)  # it stays with the parent's release


def _with_vocabulary(config: dict[str, object], rows: int) -> dict[str, object]:
    """Return config.json of a model with so many rows; a model of several parts keeps its vocabulary in
    one.
    """
    part = config.get("text_config")
    if isinstance(part, dict) and "vocab_size" in part:
        part["vocab_size"] = rows
    if not isinstance(part, dict) or "vocab_size" in config:
        config["vocab_size"] = rows
    return config


def quiet() -> None:
    """Silence progress bars, notes of libraries to each other in a log, and look-ups on a hub."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore", FutureWarning)
    from transformers.utils import logging

    logging.disable_progress_bar()


if __name__ == "__main__":
    start_program("ft_dagster.export.derived", main)
