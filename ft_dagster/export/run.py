"""Runs one export from request to figures: check what was judged, write the payload, certify it, add the
card.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import base_digest, hold_weights
from ft_dagster.evaluation.request import TunedWeights
from ft_dagster.export.adapter import export_adapter
from ft_dagster.export.candidates import keep_nearer
from ft_dagster.export.card import write_card
from ft_dagster.export.certificate import certify, judge_export
from ft_dagster.export.derived import quiet
from ft_dagster.export.merged import export_merged
from ft_dagster.export.request import ExportRequest
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.model_files.weights import GENERATION_CONFIG
from ft_dagster.models.quantize import quantization_of
from ft_dagster.program import write_json
from ft_dagster.provenance.held import FOLDER, HeldFiles, held_files

WRITERS = {"adapter": export_adapter, "merged": export_merged}


def export(request: ExportRequest) -> dict[str, object]:
    """Fill `payload/` and `evidence/` of the request's output; returns the figures of result.json.

    Raises UserError: weights that are not those judged, a format the method cannot have, a certificate
    that does not hold (its figures are in evidence/certificate.json all the same). A merge whose certificate
    fails by drift alone is left to be evaluated by itself: `certified` is false.
    """
    if os.environ.get("FT_DAGSTER_LEASE"):
        from ft_dagster.launch.leases import hold_as_rank

        hold_as_rank()
    quiet()
    with held_files(request.output / FOLDER) as held:
        holding, measured = hold(request, held)
        figures = _export(holding)
    return {**figures, "measured": measured}


def hold(request: ExportRequest, held: HeldFiles) -> tuple[ExportRequest, dict[str, str]]:
    """Hold base and weights (see `HeldFiles`); return the request on them, and the digests of what they are.

    Raises UserError for files that are not those of the request.
    """
    base = held.tree("base", request.base.folder, request.base.files)
    weights = hold_weights(TunedWeights(folder=request.weights, digest=request.weights_digest), held)
    holding = request.model_copy(
        update={
            "base": request.base.model_copy(update={"folder": base.folder}), "weights": weights.folder
        }
    )  # fmt: skip
    return holding, {"weights": weights.digest, "base": base_digest(base.sha256s)}


def _export(request: ExportRequest) -> dict[str, object]:
    started = time.monotonic()
    _empty(request.payload)
    _say(f"export: writing the {request.format} export")
    figures = WRITERS[request.format](
        request.base.folder, request.base.digest, request.weights, request.payload
    )
    written = time.monotonic()
    _say("export: comparing it, reloaded from disk, with the weights that were judged")
    judged = judge_export(request)
    compared: dict[str, float] = {}
    if request.format == "merged" and quantization_of(request.weights):
        figures["merged_into"], compared = keep_nearer(request, judged)
        _say(f"export: the merge into the {figures['merged_into']} weights is the nearer one")
    _share(request.payload)
    certificate = certify(request, judged, **compared)
    write_json(request.evidence / "certificate.json", certificate.to_json())
    _demand(certificate)
    write_card(request, certificate)
    return {
        "format": request.format,
        **figures,
        "size_bytes": sum(file.stat().st_size for file in request.payload.rglob("*") if file.is_file()),
        "seconds_writing": round(written - started, 2),
        "seconds_certifying": round(time.monotonic() - written, 2),
        "certified": certificate.passed,
        "certificate": dict(certificate.figures),
    }


def _demand(certificate: Certificate) -> None:
    if not certificate.passed and not (certificate.format == "merged" and certificate.drifted):
        raise UserError(
            f"the certificate does not hold: {'; '.join(certificate.failures)}",
            field="export.format",
            value=certificate.format,
            fix="Declare `export: adapter`, which is served exactly as judged, or a base stored in float32",
        )


def _empty(folder: Path) -> None:
    """Leave nothing of an earlier try that was cut off."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _share(payload: Path) -> None:
    """Make the weights as readable as the files beside them: safetensors writes for the owner alone."""
    mode = (payload / GENERATION_CONFIG).stat().st_mode
    for file in payload.rglob("*.safetensors"):
        file.chmod(mode)


def _say(line: str) -> None:
    print(line, flush=True)
