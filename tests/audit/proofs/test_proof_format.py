"""The published format of proofs: two programs and the command agree on vectors, the two on forgeries."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.errors import UserError
from tests.audit.vectors import FILE, RECORDS, written
from tests.forgeries import changed

EXAMPLES = FILE.parent
NODE = shutil.which("node")
PROGRAMS = {
    "python": [sys.executable, "-I", str(EXAMPLES / "check_proof.py")],
    "node": [str(NODE), str(EXAMPLES / "check_proof.mjs")],
}
PROOFS = json.loads(FILE.read_text("utf-8"))["proofs"]
both = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def answers(folder: Path, proof: str, record: str) -> dict[str, tuple[int, str, int]]:
    """By program: its exit code, what it printed, and how many lines it complained in."""
    proof_file, record_file = folder / "proof.json", folder / "record.json"
    proof_file.write_text(proof, "utf-8", errors="surrogatepass")
    record_file.write_text(record, "utf-8")
    found = {}
    for name, command in PROGRAMS.items():
        arguments = [*command, str(proof_file), str(record_file)]
        done = subprocess.run(arguments, capture_output=True, check=False, encoding="utf-8")
        found[name] = (done.returncode, done.stdout, len(done.stderr.splitlines()))
    return found


def holds(file: Path) -> bool:
    try:
        return check(file).shown
    except UserError:
        return False


def test_the_vectors_are_those_of_the_code() -> None:
    assert FILE.read_text("utf-8") == written()


@both
@pytest.mark.slow
@pytest.mark.parametrize("about", [each["about"] for each in PROOFS])
def test_each_program_finds_that_a_proof_of_the_vectors_holds(tmp_path: Path, about: str) -> None:
    [given] = [each for each in PROOFS if each["about"] == about]
    found = answers(tmp_path, json.dumps(given["proof"]), json.dumps(given["record"]))
    assert found["python"] == found["node"]
    code, said, complained = found["python"]
    assert (code, complained) == (0, 0)
    assert said.count("in: ") == given["proof"]["rows"]
    assert ("identity 1 does not tell" in said) == about.startswith("identity 1")
    assert holds(tmp_path / "proof.json")


@both
@pytest.mark.slow
@pytest.mark.parametrize("about", RECORDS)
def test_no_program_takes_another_record_for_that_of_a_proof(tmp_path: Path, about: str) -> None:
    [given] = [each for each in PROOFS if each["about"] == about]
    for other, record in RECORDS.items():
        found = answers(tmp_path, json.dumps(given["proof"]), json.dumps(record))
        assert found["python"] == found["node"]
        assert found["python"][0] == int(other != about)


HASHED = ("in: ", "manifest of the model: ")


def forged_and_judged(folder: Path, seed: int) -> tuple[bool, str]:
    """Whether all programs refused a forgery; else what was changed, where that is nothing that they show."""
    chance = random.Random(seed)
    given = chance.choice(PROOFS)
    forged = changed(given["proof"], chance)
    if chance.random() < 0.03:
        forged = forged.replace('"kind"', '"kind": "presence", "kind"', 1)
    found = answers(folder, forged, json.dumps(given["record"]))
    assert found["python"][:2] == found["node"][:2], (seed, found)
    assert found["python"][0] in (0, 1)
    assert found["python"][2] == found["node"][2] == found["python"][0], (seed, found)
    refused = found["python"][0] == 1
    if refused:
        return True, ""
    (folder / "proof.json").write_text(json.dumps(given["proof"]), "utf-8")
    whole = answers(folder, json.dumps(given["proof"]), json.dumps(given["record"]))["python"][1]
    return False, "" if shown(found["python"][1]) <= shown(whole) else f"{seed}: {found['python'][1]}"


def shown(said: str) -> set[str]:
    return {line for line in said.splitlines() if line.startswith(HASHED)}


def all_refused(folder: Path, seeds: range) -> int:
    """How many forgeries were refused; of the others each shows only what the whole proof shows."""
    judged = [forged_and_judged(folder, seed) for seed in seeds]
    assert not [wrong for _, wrong in judged if wrong]
    return sum(refused for refused, _ in judged)


@both
@pytest.mark.slow
def test_programs_agree_on_forgeries(tmp_path: Path) -> None:
    assert all_refused(tmp_path, range(12)) >= 8


@both
@pytest.mark.long
def test_programs_agree_on_two_hundred_forgeries(tmp_path: Path) -> None:
    assert all_refused(tmp_path, range(200)) >= 140
