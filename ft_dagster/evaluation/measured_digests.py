"""Names what an evaluation measured, by digest: the program says what it read, the stage what it asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import (
    BaseFiles,
    EvaluationRequest,
    JudgedModel,
    QuestionsFile,
    TunedWeights,
)
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.held import HeldFiles, HeldTree

FILE = "measured.json"  # in the evidence


@dataclass(frozen=True)
class Measured:
    """Names what was measured, and how. `weights`: digest of what training made, None for the base alone;
    `base`: digest over the base's files; `tasks`: digest of each declared task; `data`: sha256 of each file
    with questions; and how it was asked.
    """

    weights: str | None
    base: str
    tasks: dict[str, str]
    data: dict[str, str]
    limit: int | Literal["auto"] | None
    seed: int
    num_fewshot: int | None
    device: str
    dtype: str
    engine: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def expected_of(request: EvaluationRequest) -> Measured:
    """Return what an evaluation of this request has to measure."""
    tuned = request.model.tuned
    return _measured(
        request,
        None if tuned is None else tuned.digest,
        request.model.base.files,
        {name: file.sha256 for name, file in _data_files(request).items()},
    )


def hold(request: EvaluationRequest, held: HeldFiles) -> tuple[EvaluationRequest, Measured]:
    """Hold every file of the request (see `HeldFiles`); return the request on those files, and what they are.

    Raises UserError for a file that is not what the request says.
    """
    base = held.tree("base", request.model.base.folder, request.model.base.files)
    tuned = request.model.tuned
    weights = None if tuned is None else hold_weights(tuned, held)
    data = {name: _held(name, file, held) for name, file in _data_files(request).items()}
    model = JudgedModel(
        base=BaseFiles(folder=base.folder, files=request.model.base.files),
        tuned=None if weights is None else TunedWeights(folder=weights.folder, digest=weights.digest),
    )
    return (
        _reading(request, model, data),
        _measured(
            request,
            None if weights is None else weights.digest,
            base.sha256s,
            {name: file.sha256 for name, file in data.items()},
        ),
    )


def hold_base(base: BaseFiles, held: HeldFiles) -> Path:
    """Return the folder with the base's files, held. Raises UserError for one that is not what `base`
    says.
    """
    return held.tree("base", base.folder, base.files).folder


def base_digest(files: Mapping[str, str]) -> str:
    """Return the digest over a base's files: path -> sha256."""
    return sha256_json(dict(files))


def hold_weights(weights: TunedWeights, held: HeldFiles) -> HeldTree:
    """Hold every file of trained weights. Raises UserError where they are not those of the digest."""
    found = held.tree("weights", weights.folder)
    if found.digest != weights.digest:
        raise UserError(
            f"not the weights that were asked for: expected {weights.digest[:12]}",
            file=weights.folder,
            value=found.digest[:12],
            fix="Restore them from a backup, or train and evaluate the variant again",
        )
    return found


def _measured(
    request: EvaluationRequest, weights: str | None, base: Mapping[str, str], data: dict[str, str]
) -> Measured:
    return Measured(
        weights=weights,
        base=base_digest(base),
        tasks=dict(request.digests),
        data=data,
        limit=request.limit,
        seed=request.seed,
        num_fewshot=request.num_fewshot,
        device=request.device,
        dtype=request.dtype,
        engine="transformers" if request.vllm is None else "vllm",
    )


def _data_files(request: EvaluationRequest) -> dict[str, QuestionsFile]:
    own, probed, told = request.test_split_task, request.regurgitation, request.membership
    files = {
        "test": None if own is None else own.test,
        "database": None if own is None else own.database,
        "train": None if probed is None else probed.train,
        "rows_trained_on": None if told is None else told.train,
        "rows_held_out": None if told is None else told.held_out,
        "rows_mixed": None if told is None else told.mixed,
        "planted": request.planted,
        "examples": None if own is None or own.examples is None else own.examples.train,
        "general_holdout": request.general_holdout,
        "refusals": request.refusals,
        "before": None if request.until is None else request.until.before,
        "left_out": request.left_out,
    }
    return {name: file for name, file in files.items() if file is not None}


def _held(name: str, file: QuestionsFile, held: HeldFiles) -> QuestionsFile:
    """Hold a file with questions; SQLite opens the file behind a link by its own name, so it gets a copy."""
    keep = held.copy if name == "database" else held.file
    return QuestionsFile(path=keep(f"{name}{file.path.suffix}", file.path, file.sha256), sha256=file.sha256)


def _reading(
    request: EvaluationRequest, model: JudgedModel, data: Mapping[str, QuestionsFile]
) -> EvaluationRequest:
    """Return the request with these places of its files."""
    own, probed, told = request.test_split_task, request.regurgitation, request.membership
    if own is not None:
        own = own.model_copy(update={"test": data["test"], "database": data.get("database")})
        if own.examples is not None:
            examples = own.examples.model_copy(update={"train": data["examples"]})
            own = own.model_copy(update={"examples": examples})
    if probed is not None:
        probed = probed.model_copy(update={"train": data["train"]})
    if told is not None:
        files = {"train": data["rows_trained_on"], "held_out": data["rows_held_out"]}
        told = told.model_copy(update={**files, "mixed": data.get("rows_mixed")})
    until = request.until
    if until is not None:
        until = until.model_copy(update={"before": data["before"]})
    return request.model_copy(
        update={
            "model": model,
            "test_split_task": own,
            "regurgitation": probed,
            "membership": told,
            "planted": data.get("planted"),
            "general_holdout": data.get("general_holdout"),
            "refusals": data.get("refusals"),
            "until": until,
            "left_out": data.get("left_out"),
        }
    )
