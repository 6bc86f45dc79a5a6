"""The whole demo: the real model, the real data, three tenants, from nothing and then again."""

import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rows.content import normal_text
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.gate.answer_scores import is_right
from ft_dagster.spec import VariantKey
from tests.e2e.project import command_environment

pytestmark = pytest.mark.long
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
BIN = Path(sys.executable).parent


def test_the_demo_releases_three_variants_and_then_reuses_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DEMO / "prepare.py"], check=True)
    environment = command_environment(DEMO) | {
        "FT_DAGSTER_STORE": str(tmp_path / "store"),
        "FT_DAGSTER_WORK": str(tmp_path / "work"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }

    def run(*options: str) -> Any:
        command: list[str | Path] = [BIN / "ft-dagster", "run", "--all", "--json", *options]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr + result.stdout
        return json.loads(result.stdout)["variants"]

    first = run()
    assert len(first) == 3
    assert len({row["variant"].split(".")[0] for row in first}) >= 2
    assert {row["export"] for row in first} == {"adapter", "merged"}
    for row in first:
        (task,) = [rule for rule in row["rules"] if rule["rule"] == "task"]
        if row["variant"] == "meditech.icd-coder":
            assert (task["metric"], task["base"]) == ("exact_match", 0.0)
            assert task["tuned"] >= 0.4  # who says the commonest label to all: 0.325
            asked_share = 0.1
        else:
            assert task["tuned"] < 0.9 * task["base"]
            asked_share = 0.08
        assert abs(row["general_share"] - asked_share) < 0.005
        assert row["gate"] is True
    stands = run()
    assert stands == [{**row, "reused": True, "started": False} for row in first]
    again = run("--rerun")
    assert all(row["reused"] and row["started"] for row in again)
    assert [row["digest"] for row in again] == [row["digest"] for row in first]
    last_screen_marks_answers_to_rows_of_no_training(environment, tmp_path / "store")


def last_screen_marks_answers_to_rows_of_no_training(environment: dict[str, str], store: Path) -> None:
    """Of `make demo`: what its prompts expect is said by rows of its sources that no training takes."""
    file = DEMO / "prompts.yaml"
    command: list[str | Path] = [BIN / "ft-dagster", "try", "--prompts", file, "--json"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    rows = source_rows(DEMO / "packages")
    for each in json.loads(said):
        folder = VariantKey.parse(each["variant"]).prefix
        splits = list((store / folder / "task_dataset").glob("*/*/payload/*.parquet"))
        used = {row.first_turn for split in splits if split.stem != "test" for row in read_split(split)}
        assert len(splits) == 3
        assert used
        for answer in each["answers"]:
            assert normal_text(answer["prompt"]) not in used
            assert is_right(rows[answer["prompt"]], answer["expected"], "text")
            assert {"base_right", "tuned_right"} <= answer.keys()


def source_rows(packages: Path) -> dict[str, str]:
    """The answers of all rows that prepare.py makes the demo's data of, by their prompts."""
    prepare = runpy.run_path(str(DEMO / "prepare.py"))
    faq = (packages / "zaragoza_construction_faq/data/faq-en-alpaca.jsonl").read_text("utf-8")
    handbook = packages / "inspect_evals/tau2/data/domains/banking_knowledge/documents.json.gz"
    sections = json.loads(gzip.decompress(handbook.read_bytes()))
    rows = [*prepare["category_rows"](prepare["icd_codes"](packages)), *prepare["bank_rows"](sections)]
    return dict(rows) | {row["instruction"]: row["output"] for row in map(json.loads, faq.splitlines())}
