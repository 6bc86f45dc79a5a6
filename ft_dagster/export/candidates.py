"""Merges an adapter learned above a quantized base in two ways, and keeps the one nearer to what was
judged.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from ft_dagster.export.certificate import Judged, mean_kl
from ft_dagster.export.merged import export_merged

if TYPE_CHECKING:
    from ft_dagster.export.request import ExportRequest

ORIGINAL, DEQUANTIZED = "original", "dequantized"  # weights that the adapter is merged into


def keep_nearer(request: ExportRequest, judged: Judged) -> tuple[str, dict[str, float]]:
    """Merge into the base's original weights too, beside a payload merged into those behind quantization.

    Leaves the candidate with the lower mean KL from the judged model (quantized base + adapter) on the probes
    in `payload/`; returns which that is, and both figures in nats a token.
    """
    other = request.output / "candidate"
    shutil.rmtree(other, ignore_errors=True)
    base = request.base
    export_merged(base.folder, base.digest, request.weights, other, original=True)
    found = {
        DEQUANTIZED: mean_kl(request, judged, request.payload),
        ORIGINAL: mean_kl(request, judged, other),
    }
    kept = min(found, key=lambda name: found[name] if math.isfinite(found[name]) else math.inf)
    if kept == ORIGINAL:
        shutil.rmtree(request.payload)
        other.rename(request.payload)
    shutil.rmtree(other, ignore_errors=True)
    return kept, {f"kl_into_{name}": value for name, value in found.items()}
