"""What is stored of a certificate is read back, and what it says of itself is not trusted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.strict_json import dumps
from tests.certificates import stored_certificate

STORED = stored_certificate()
FAR = {"failures": ["mean KL 0.2 nats a token, 0.001 allowed"], "passed": False}


def with_figures(**figures: float | None) -> dict[str, Any]:
    return {**FAR, "figures": {**STORED["figures"], **figures}}


def test_what_is_written_is_read_back_and_written_alike() -> None:
    read = Certificate.from_json(STORED)
    assert read.passed
    assert json.loads(dumps(read.to_json())) == STORED
    assert Certificate.from_json(read.to_json()) == read


def test_a_figure_that_is_not_a_number_is_null_and_comes_back_as_none_that_holds() -> None:
    lost = replace(
        Certificate.from_json(stored_certificate(**FAR)), figures={**STORED["figures"], "mean_kl": math.nan}
    )
    stored = lost.to_json()
    assert stored["figures"]["mean_kl"] is None
    assert math.isnan(Certificate.from_json(stored).figures["mean_kl"])
    assert not Certificate.from_json(stored).drifted


@pytest.mark.parametrize(
    ("changes", "drifted"),
    [
        (FAR, True),
        ({}, False),
        (with_figures(mean_kl=None), False),
        (with_figures(chat_ids_equal=0.0), False),
        ({**FAR, "figures": {"mean_kl": 0.2}}, False),
    ],
    ids=["far", "near", "no number", "misread", "unsaid"],
)
@pytest.mark.parametrize("said", [True, False])
def test_a_drift_is_derived_from_the_figures_whatever_the_file_says(
    changes: dict[str, Any], drifted: bool, said: bool
) -> None:
    assert Certificate.from_json(stored_certificate(**changes, drifted=said)).drifted is drifted


BEYOND: list[dict[str, float | None]] = [
    {"mean_kl": 0.2}, {"mean_kl": 5e-4, "base_kl": 4e-3}, {"mean_kl": None}, {"max_logit_difference": 3.1},
    {"top1_lost": 0.1}, {"greedy_parted": 0.125}, {"token_ids_equal": 0.5}, {"template_equal": 0.0},
]  # fmt: skip


def test_of_an_older_one_the_figures_that_it_has_are_held() -> None:
    for name in ("base_kl", "greedy_parted", "chat_ids_equal"):
        figures = {other: value for other, value in STORED["figures"].items() if other != name}
        assert Certificate.from_json(stored_certificate(figures=figures)).passed
        with pytest.raises(UserError, match="not the certificate of an export"):
            Certificate.from_json(stored_certificate(figures={**figures, "mean_kl": 0.2}))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {**STORED, "figures": None},
        {**STORED, "tolerance": {"mean_kl": 1.0}},
        {**STORED, "figures": {"mean_kl": "low"}},
        {**STORED, "passed": 1},
        {**STORED, "failures": ["another token is likeliest"]},
        {**STORED, "passed": False},
        *({**STORED, "figures": {**STORED["figures"], **figure}} for figure in BEYOND),
    ],
    ids=str,
)
def test_what_is_no_certificate_or_contradicts_itself_is_refused(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not the certificate of an export") as error:
        Certificate.read(file)
    assert error.value.file == str(file)


def test_a_file_that_is_gone_or_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    for damage in (lambda: None, lambda: file.write_text("{")):
        damage()
        with pytest.raises(UserError, match="not the certificate of an export"):
            Certificate.read(file)


def test_one_of_a_newer_version_is_refused() -> None:
    with pytest.raises(UserError, match="newer ft-dagster"):
        Certificate.from_json(stored_certificate(schema_version=2), file="certificate.json")
