"""Two merges of an adapter learned above a quantized base: the nearer to what was judged is the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.export import candidates
from ft_dagster.export.candidates import keep_nearer
from ft_dagster.export.certificate import certify, judge_export
from ft_dagster.export.merged import export_merged
from ft_dagster.export.run import export
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.evaluation.payloads import make_payload
from tests.export.exports import DIGEST, MakeRequest, parse

pytestmark = pytest.mark.slow


@pytest.fixture
def request_of(bf16_base: Path, make_request: MakeRequest, tmp_path: Path) -> Any:
    """A request to export an adapter learned above nf4, merged."""
    weights = make_payload("nf4", bf16_base, tmp_path / "weights", DIGEST)
    return parse(make_request(weights, base=bf16_base, format="merged"))


def digest_of(folder: Path) -> str:
    return payload_digest(hash_folder(folder))


def test_both_figures_are_recorded_and_the_nearer_is_kept(request_of: Any, tmp_path: Path) -> None:
    figures = export(request_of)

    certificate = json.loads((request_of.evidence / "certificate.json").read_text("utf-8"))["figures"]
    behind, original = certificate["kl_into_dequantized"], certificate["kl_into_original"]
    assert behind < original
    assert figures["merged_into"] == "dequantized"
    assert certificate["mean_kl"] == pytest.approx(behind, rel=0.1)  # the other is many times as far
    assert original > 2 * behind
    assert "nearer is kept" in (request_of.evidence / "README.md").read_text("utf-8")
    export_merged(request_of.base.folder, DIGEST, request_of.weights, tmp_path / "behind")
    assert digest_of(request_of.payload) == digest_of(tmp_path / "behind")
    assert not (request_of.output / "candidate").exists()


@pytest.mark.parametrize(
    ("measured", "kept"),
    [((0.1, 0.2), "dequantized"), ((0.2, 0.1), "original"), ((float("nan"), 0.3), "original")],
)
def test_the_payload_is_the_candidate_with_the_lower_kl(
    request_of: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: tuple[float, float],
    kept: str,
) -> None:
    base, weights = request_of.base.folder, request_of.weights
    export_merged(base, DIGEST, weights, request_of.payload)
    export_merged(base, DIGEST, weights, tmp_path / "expected", original=kept == "original")

    def mean_kl(_request: Any, _judged: Any, folder: Path) -> float:
        return measured[0] if folder == request_of.payload else measured[1]

    monkeypatch.setattr(candidates, "mean_kl", mean_kl)
    assert keep_nearer(request_of, judge_export(request_of))[0] == kept
    assert digest_of(request_of.payload) == digest_of(tmp_path / "expected")


def test_a_merge_into_the_original_weights_is_held_to_the_same_certificate(request_of: Any) -> None:
    """Its KL decides, whatever it was merged into."""
    base, weights = request_of.base.folder, request_of.weights
    export_merged(base, DIGEST, weights, request_of.payload, original=True)
    certificate = certify(request_of)

    assert certificate.figures["mean_kl"] > 0
    assert certificate.passed == (certificate.figures["mean_kl"] <= certificate.tolerance.mean_kl)
