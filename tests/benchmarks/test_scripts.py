"""Benchmarks that build on the package's inside still run to their end, at toy size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS, PACKAGE = ROOT / "benchmarks", ROOT / "ft_dagster"


@pytest.mark.long
def test_the_step_is_measured_before_and_after(tiny_model_folder: Path) -> None:
    command = [sys.executable, BENCHMARKS / "step.py", "--model", tiny_model_folder, "--lengths", "64"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, _, *rows = done.stdout.splitlines()
    assert head.startswith("| method | tokens a row |")
    assert len(rows) >= 2
    assert all(len(row.split("|")) == len(head.split("|")) for row in rows)


@pytest.mark.long
def test_shared_beginnings_are_measured_against_whole_rows_and_trl(tiny_model_folder: Path) -> None:
    command = [
        sys.executable, BENCHMARKS / "beginnings.py", "--model", tiny_model_folder,
        "--rows", "8", "--rounds", "1",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    steps = {name.strip("| "): int(count) for name, count, *_ in rows[1:]}
    assert steps["shared beginnings"] == 2
    assert steps["each row whole"] == steps["TRL, packed"] == 4


def test_each_part_of_the_preparation_is_a_file_of_the_package_and_a_function_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    parts = importlib.import_module("preparation").PARTS
    for file, _, function in (name.partition(":") for name in parts if name != "jinja2"):
        found = [path.read_text("utf-8") for path in PACKAGE.rglob(file)]
        assert any(f"def {function}" in text for text in found), (file, function)


@pytest.mark.long
@pytest.mark.parametrize("variants", ["1", "2"])
def test_preparation_is_measured_beside_the_tokenizer(tiny_model_folder: Path, variants: str) -> None:
    command = [sys.executable, BENCHMARKS / "preparation.py", "--model", tiny_model_folder]
    command += ["--rows", "200", "--times", "1", "--variants", variants]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    programs = [line.split("|")[2].strip() for line in done.stdout.splitlines() if line.startswith("| 200 |")]
    assert programs[:5] == ["tokenizer", "datasets.map", "task_dataset", "training_mixture", "prepared"]
    parts = {line.split("|")[3].strip() for line in done.stdout.splitlines() if line.startswith("| 200 |")}
    assert "tokenizing" in parts  # samples of so few rows may miss another
    assert len({"rendering", "normalizing", "decontamination"} & parts) >= 2


@pytest.mark.long
@pytest.mark.slow
def test_an_audit_is_measured_at_toy_size(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "audit.py", "--records", "3000", "--models", "10", "--each", "50"]
    command += ["--rows", "200", "--commit", "500", "--results", tmp_path / "results"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, _, *rows = done.stdout.splitlines()
    assert head == "| what | measured | wanted |"
    assert "3,000 records, 10 models, 500 memberships" in rows[0]
    assert any(row.startswith("| a commit of 500 records followed |") for row in rows)
    assert (tmp_path / "results" / "audit_record.png").stat().st_size > 1000


@pytest.mark.long
def test_a_small_fleet_breaks_no_promise_but_for_its_few_starts_an_hour() -> None:
    command = [
        sys.executable,
        BENCHMARKS / "fleet_month.py",
        "--variants",
        "60",
        "--days",
        "6",
        "--seeds",
        "2",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    _, *rows = done.stdout.splitlines()
    assert [row.split()[:2] for row in rows[:4]] == [["0", "1.2"], ["1", "1.2"], ["2", "0.7"], ["3", "0.7"]]
    assert rows[3].endswith(" 100.0%")  # the budget was short
    assert [promise for promise in rows[4:] if "times the mean load" not in promise] == []


@pytest.mark.long
def test_ticks_of_a_fleet_are_measured() -> None:
    command = [sys.executable, BENCHMARKS / "fleet.py", "--sizes", "200"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split()[0] == "declarations"
    assert [float(figure) < 60 for figure in row.split()[1:]] == [True] * 6


@pytest.mark.long
def test_trainings_are_shown_side_by_side(tiny_model_folder: Path, tmp_path: Path) -> None:
    data, results = tmp_path / "rows.jsonl", tmp_path / "results"
    rows = [{"instruction": f"What is {n}?", "output": f"It is {n}."} for n in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, BENCHMARKS / "bench.py", "--quick", "--only", "one"]
    command += ["--contenders", "ft_dagster, warm", "ft_dagster, cold", "--model", tiny_model_folder]
    command += ["--data", data, "--folder", tmp_path / "kept", "--results", results]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = (results / "one.md").read_text()
    assert "ft_dagster, warm" in table
    assert "ft_dagster, cold" in table
    cells = json.loads((results / "one.json").read_text())["cells"]
    warm, cold = (cell["rounds"][0] for cell in cells)
    assert warm["loss"] == cold["loss"]
    assert warm["trained_tokens"] == cold["trained_tokens"] > 0
    assert (results / "one.svg").read_text().startswith("<?xml")


@pytest.mark.long
def test_variants_are_judged_too_and_a_call_goes_on_from_the_one_before(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    data, results = tmp_path / "rows.jsonl", tmp_path / "results"
    rows = [{"instruction": f"What is {n}?", "output": f"It is {n}."} for n in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    name = "ft_dagster, warm, two at once"
    command = [sys.executable, BENCHMARKS / "bench.py", "--quick", "--only", "variants", "--contenders", name]
    command += ["--model", tiny_model_folder, "--data", data, "--folder", tmp_path / "kept"]
    asked = list(map(str, [*command, "--results", results]))
    paused = subprocess.run([*asked, "--minutes", "0"], capture_output=True, text=True, check=False)
    assert paused.returncode == 75, paused.stderr
    assert "the same call goes on from here" in paused.stdout
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads((results / "variants.json").read_text())["cells"]
    (figures,) = cell["rounds"]
    assert 0 < figures["judging_seconds"] < figures["whole_seconds"]
    kept = subprocess.run([*asked, "--minutes", "0"], capture_output=True, text=True, check=False)
    assert kept.returncode == 0, kept.stderr
    assert json.loads((results / "variants.json").read_text())["cells"] == [cell]


@pytest.mark.slow
def test_costs_are_measured_at_toy_size() -> None:
    command = [sys.executable, BENCHMARKS / "costs.py", "--variants", "3"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("15 manifests, 3 trainings, $")


@pytest.mark.long
@pytest.mark.slow
def test_the_demo_elsewhere_has_the_digests_of_a_folder_at_toy_size(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.demo_elsewhere", "--quick", "--folder", str(tmp_path)]
    command += ["--variants", "acme.places", "--ways", "killed", "slow", "--latency", "0.01", "--down", "0.3"]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ways = {line.split("**")[1]: line for line in done.stdout.splitlines() if line.startswith("**")}
    assert list(ways) == ["folder", "killed", "slow"]
    assert all("other digests than on a folder: none" in ways[name] for name in ("killed", "slow"))
    assert "the server was killed: 0" not in ways["killed"]
    assert "refused with 503: 0" not in ways["slow"]
    assert len([line for line in done.stdout.splitlines() if line.startswith("| fine_tuned_model |")]) == 2


@pytest.mark.long
@pytest.mark.slow
def test_qlora_keeps_less_for_its_backward_pass_in_bf16_than_in_fp32_as_its_plan_says(tmp_path: Path) -> None:
    file = tmp_path / "activations.json"
    command = [
        sys.executable,
        BENCHMARKS / "activations.py",
        "--width",
        "256",
        "--length",
        "64",
        "--file",
        file,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text("utf-8"))["bytes"]
    older, newer = (found[f"qlora, {kind}"] for kind in ("fp32", "bf16"))
    for how in ("measured", "planned"):
        assert 1.4 < older[how] / newer[how] < 1.6
