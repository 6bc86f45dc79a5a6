"""A proof as a stranger gets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ft_dagster.audit.proofs.proof_check import check, proof_readings
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.records.record_keys import keys_of
from ft_dagster.strict_json import dumps
from tests.audit.histories import History

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "examples/check_proof.py"


def ran(proof: Path, record: object) -> subprocess.CompletedProcess[str]:
    """The program for a stranger, with a record as JSON, or a file of one."""
    given = record if isinstance(record, Path) else proof.with_name("record.json")
    if given != record:
        given.write_text(json.dumps(record), "utf-8")
    command = [sys.executable, "-I", str(PROGRAM), str(proof), str(given)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=given.parent)


def proof(history: History, given: str) -> dict[str, Any]:
    """Of the one model, checked by itself with the record."""
    audit = history.audit()
    [weights] = audit.index.of_stage("fine_tuned_model")
    asked, file = parse_record(given, audit.readings(weights)), history.folder / "proof.json"
    made = prove(audit, asked, weights)
    file.write_text(dumps(made), "utf-8")
    key = keys_of(history.settings.keys_folder, "acme").current
    assert check(file, parse_record(given, proof_readings(file)), key).kind == made["kind"]
    return made
