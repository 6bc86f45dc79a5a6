"""What a plan resolves to by default really trains, by every method."""

from pathlib import Path

import pytest

from ft_dagster.planning.facts import Facts
from tests.long import mostly_long
from tests.planning.llama import METHODS, plan
from tests.training.runs import Runs, made_rows, result_of, train, write_shard

SHORT = {"evaluations": 1, "max_steps": 50, "gradient_accumulation_steps": 2}


@pytest.fixture
def habit(tmp_path: Path) -> Path:
    """A mixture whose rows all end in the same answer: learned within few steps, held-out rows too."""
    for split, count, seed in (("train", 60, 1), ("validation", 6, 2)):
        rows = [([*ids[:8], 100, 101, 102], [8, 11]) for ids, _ in made_rows(count, seed)]
        write_shard(tmp_path / "habit" / split / "shard-00000.parquet", split, 0, rows)
    return tmp_path / "habit"


@pytest.mark.slow
@pytest.mark.parametrize("method", mostly_long(METHODS, ["lora"]))
def test_the_defaults_of_a_method_lower_the_held_out_loss(
    method: str, runs: Runs, tiny_facts: Facts, habit: Path
) -> None:
    made = plan(method, tiny_facts, training=SHORT)
    folder = runs.prepare(method=made["method"], training=made["training"], mixture=str(habit))
    assert train(folder) == 0
    figures = result_of(folder)["figures"]
    assert figures["validation_loss_best"] < 0.985 * figures["validation_loss_first"]
