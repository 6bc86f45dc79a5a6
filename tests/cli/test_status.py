"""What `ft-dagster status` says of a variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.variant_row import VariantRow
from ft_dagster.stages import summary
from tests.verdicts import stored_rule


@pytest.mark.parametrize(
    ("outcome", "word"), [("pass", "passed"), ("fail", "failed"), ("undecided", "undecided")]
)
def test_the_gate_is_shown_as_it_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, word: str
) -> None:
    (tmp_path / "tenants" / "acme").mkdir(parents=True)
    (tmp_path / "tenants" / "acme" / "support.yaml").write_text("description: d\n")
    found: dict[str, Any] = {"outcome": outcome, "passed": outcome == "pass"}
    verdict = Verdict.from_json({**found, "rules": [stored_rule(**found)]})
    monkeypatch.setattr(summary, "_row", lambda store, key, heads: VariantRow(str(key), verdict=verdict))
    shown = CliRunner().invoke(app, ["--project", str(tmp_path), "status"]).output
    (line,) = [line for line in shown.splitlines() if line.strip(" │").startswith("acme.support")]
    assert word in line
