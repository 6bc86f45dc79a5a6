"""The bench of decisions: what a regret is, what a probe would have found, and a cell trained for real."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from benchmarks import decisions
from benchmarks.decision_cell import train_cell
from benchmarks.decision_regret import (
    Cell,
    Known,
    Measured,
    Question,
    alarms,
    folk,
    interval,
    mean_of_tasks,
    regrets,
    tables,
    worst_task,
)
from benchmarks.decision_tasks import TOKENS, UNSEEN_LEAST, Task, drawn
from ft_dagster.planning.probe import ProbePlan
from ft_dagster.planning.trials import Arm
from ft_dagster.program import write_json
from tests.present import present
from tests.training.runs import LORA, TRAINING, write_mixture

LOW, HIGH, FULL = Arm("lora", 2e-4), Arm("lora", 6e-4), Arm("full", 2e-5)
GRID = [LOW, HIGH, FULL]
PLANS = {
    name: {"method": {**LORA} if name == "lora" else {"name": name}, "training": TRAINING}
    for name in ("lora", "full")
}


def question(task: str = "sql", **more: Any) -> Question:
    given: dict[str, Any] = {
        "task": task, "objective": "instruction", "seed": 0, "base": "b", "base_digest": "b" * 64,
        "mixture": "m", "mixture_digest": "m" * 64, "unseen": "u", "unseen_digest": "u" * 64,
        "plans": PLANS, "auto": LOW, "limit": 0.1,
        "probes": {"on": ProbePlan((LOW, HIGH, FULL), 20, 0.5, "", whole={"lora": 60, "full": 60})},
    }  # fmt: skip
    return Question(**{**given, **more})


def measured(
    cell: Cell, chosen: float, scored: float, general: float = 3.0, failed: str | None = None
) -> Measured:
    parts = {"validation": chosen, "chosen_on": chosen, "scored_on": scored, "general": general}
    losses = {} if failed else {part: (loss, 10) for part, loss in parts.items()}
    method, rate = cell.arm
    steps = 60 if cell.steps is None else cell.steps
    return Measured("sql", 0, method, rate, cell.steps, steps, losses, failed, 1e12, 10.0, 2.0)


def known(**probe: float) -> dict[Cell, Measured]:
    """The high rate is best on both halves; full is next. `probe`: losses of the short trainings."""
    whole = {LOW: (2.0, 2.2), HIGH: (1.0, 1.1), FULL: (1.5, 1.65)}
    found = {Cell(arm): measured(Cell(arm), *losses) for arm, losses in whole.items()}
    found[Cell(LOW, 0)] = measured(Cell(LOW, 0), 4.0, 4.4)
    for arm in GRID:
        for steps in (20, 40):
            cell = Cell(arm, steps)
            found[cell] = measured(cell, probe.get(arm.method, 3.0) + arm.learning_rate, 9.9)
    return found


def test_regret_is_the_excess_over_what_the_other_half_chose() -> None:
    found = regrets(question(), GRID, known())
    assert found.best == HIGH
    assert found.choices["auto"].regret == pytest.approx(1.0)
    assert found.choices[f"always {FULL}"].regret == pytest.approx(0.5)
    assert found.choices[f"always {HIGH}"].regret == 0


def test_the_best_is_chosen_on_one_half_even_where_it_scores_worse_on_the_other() -> None:
    lucky = {**known(), Cell(LOW): measured(Cell(LOW), 2.0, 0.55)}
    found = regrets(question(), GRID, lucky)
    assert found.best == HIGH
    assert found.choices["auto"].regret == pytest.approx(-0.5)


def test_what_forgets_more_than_the_gate_allows_is_not_the_best_and_is_counted() -> None:
    forgetful = {**known(), Cell(HIGH): measured(Cell(HIGH), 1.0, 1.1, general=3.2)}
    found = regrets(question(), GRID, forgetful)
    assert found.best == FULL
    assert found.choices[f"always {HIGH}"].over
    assert not found.choices["auto"].over


def test_a_training_that_diverged_leaves_its_team_the_base() -> None:
    broken: Known = {**known(), Cell(LOW): measured(Cell(LOW), 0, 0, failed="the loss became nan")}
    assert regrets(question(), GRID, broken).choices["auto"].regret == pytest.approx(4.4 / 1.1 - 1)


def test_a_probe_is_what_its_short_trainings_say_and_costs_their_time() -> None:
    found = regrets(question(), GRID, known(full=1.0))
    assert found.choices["auto, on"].arm == FULL
    assert (found.costs["auto, on"], found.once) == pytest.approx(((3 + 2) * 10, 10))
    assert "| 5.0, 0.8 |" in tables([found], 1)  # so many trainings like its own, CPU minutes


def test_each_task_counts_alike_however_many_of_its_seeds_there_are() -> None:
    one = regrets(question(), GRID, known())  # auto loses 100%
    best = one.choices["auto"]._replace(regret=0.0)
    another = replace(one, task="another", choices={**one.choices, "auto": best})
    every = [one, replace(one, seed=1), replace(one, seed=2), another]
    assert mean_of_tasks(every, "auto") == pytest.approx(0.5)


def test_a_probe_goes_by_validation_rows_alone() -> None:
    cells, planned = known(), ProbePlan((LOW, HIGH), 60, 2.2, "", whole={"lora": 60, "full": 60})
    for arm, loss in ((LOW, 0.5), (HIGH, 0.9)):
        one = cells[Cell(arm)]
        cells[Cell(arm)] = replace(one, losses={**one.losses, "validation": (loss, 10)})
    assert regrets(question(probes={"whole": planned}), GRID, cells).choices["auto, whole"].arm == LOW


def test_what_is_usual_holds_in_a_short_probe_where_rows_do_not_show_another_to_be_better() -> None:
    def with_rows(spread: float) -> dict[Cell, Measured]:
        cells = known(full=2.0)
        for arm, mean in ((LOW, 3.0), (HIGH, 2.8), (FULL, 2.0)):
            for steps in (20, 40):
                rows = [(mean + (-1) ** row * (spread if arm == FULL else 0), 1) for row in range(10)]
                cells[Cell(arm, steps)] = replace(cells[Cell(arm, steps)], examples={"validation": rows})
        return cells

    assert regrets(question(), GRID, with_rows(0.1)).choices["auto, on"].arm == FULL
    assert regrets(question(), GRID, with_rows(5.0)).choices["auto, on"].arm == LOW


def test_a_regret_has_the_interval_of_the_rows_that_it_is_scored_on() -> None:
    cells = known()
    for arm, mean in ((LOW, 2.2), (HIGH, 1.1)):
        rows = [(2 * mean + 0.1 * (-1) ** row * (arm == LOW), 2) for row in range(10)]
        cells[Cell(arm)] = replace(cells[Cell(arm)], examples={"scored_on": rows})
    choice = regrets(question(), GRID, cells).choices["auto"]
    half = t.ppf(0.975, 9) * 0.1 * (10 / 9) ** 0.5 / 10**0.5 / 2 / 1.1
    assert (present(choice.low), present(choice.high)) == pytest.approx((1 - half, 1 + half))
    assert regrets(question(), GRID, cells).choices[f"always {HIGH}"].low is None  # it is the best itself


def test_a_probe_leaves_out_what_forgot_more_than_its_part_of_the_steps_may() -> None:
    cells = known(full=1.0)
    for cell in (Cell(FULL, 20), Cell(FULL, 40)):
        cells[cell] = measured(cell, 1.0, 9.9, general=3.09)  # of 60 steps, and a limit of 0.1
    assert regrets(question(), GRID, cells).choices["auto, on"].arm == LOW


def test_the_folk_rule_takes_all_weights_for_facts_and_narrow_tasks() -> None:
    assert folk(question(objective="task_specific")) == folk(question(objective="domain_knowledge")) == FULL
    assert folk(question()) == LOW


def test_the_table_says_how_much_was_run_and_tasks_are_drawn_anew_for_its_interval() -> None:
    one, other = regrets(question(), GRID, known()), regrets(question("fields"), GRID, known(full=1.0))
    said = tables([one, other], 27)
    assert said.startswith("2 of 27 questions")
    assert f"| always {HIGH} | 2 | 0.0% (0.0% to 0.0%) |" in said
    low, high = interval([one, other], "auto, on")
    assert low <= (one.choices["auto, on"].regret + other.choices["auto, on"].regret) / 2 <= high


def test_the_worst_task_is_that_of_the_highest_mean_and_its_seeds_say_how_sure_that_is() -> None:
    one = regrets(question(), GRID, known())
    found = [replace(one, choices={"auto": one.choices["auto"]._replace(regret=each)}) for each in (0.1, 0.3)]
    other = replace(found[0], task="fields", choices={"auto": one.choices["auto"]._replace(regret=0.19)})
    assert worst_task([found[0], other], "auto") == ("fields", 0.19, "one seed")
    assert "| sql: 20.0% (-107.1% to 147.1%) |" in tables([*found, other], 27)


def test_alarms_are_held_against_how_a_training_ended() -> None:
    base = measured(Cell(LOW, 0), 3.0, 3.0)
    climbs = replace(measured(Cell(HIGH), 4.0, 4.0), curve=[3.0] * 3 + [6.0] * 57)
    comes_back = replace(climbs, losses={**climbs.losses, "chosen_on": (2.0, 10)})
    falls = replace(measured(Cell(LOW), 2.0, 2.0), curve=[3.0 - step / 60 for step in range(60)])
    said = alarms([(climbs, base), (comes_back, base), (falls, base)])
    assert f"| {HIGH} | 2 | 2 | 1 | 1 | 0 |" in said
    assert f"| {LOW} | 1 | 0 | 0 | 0 | 0 |" in said


def test_a_question_is_prepared_anew_where_its_rows_declaration_or_the_way_to_a_plan_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = decisions.Bench(tmp_path, tmp_path / "results")
    named = [bench.question_file("sql", 0)]
    both = ("sql-0", "sql-0-unseen")
    for name in (file for each in both for file in (f"data/{each}.jsonl", f"tenants/bench/{each}.yaml")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("changed", "utf-8")
        named.append(bench.question_file("sql", 0))
    monkeypatch.setattr("ft_dagster.provenance.code.source_digest", lambda: "c" * 64)
    named.append(bench.question_file("sql", 0))
    monkeypatch.setitem(decisions.PROBES, "probe: off", {})
    named.append(bench.question_file("sql", 0))
    assert len(set(named)) == 7
    assert bench.question_file("sql", 0) == named[-1]
    write_json(named[-1], question().to_json())
    assert bench.question("sql", 0) == question()


def test_rows_are_drawn_by_seed_distinct_and_within_their_tokens(tmp_path: Path) -> None:
    made = Task(
        "made",
        "instruction",
        lambda _: ({"prompt": f"q{n % 500}", "completion": "a" * 50} for n in range(900)),
    )
    (first, unseen), again, other = (drawn(made, tmp_path, seed, len) for seed in (0, 0, 1))
    assert (first, unseen) == again != other
    assert len(unseen) >= UNSEEN_LEAST
    assert not {row["prompt"] for row in first} & {row["prompt"] for row in unseen}
    assert len({row["prompt"] for row in unseen}) == len(unseen)
    assert len({row["prompt"] for row in first}) == len(first)
    assert TOKENS <= sum(12 + len(row["prompt"]) + 50 for row in first) < TOKENS + 80


@pytest.mark.slow
@pytest.mark.long
def test_a_cell_is_trained_in_a_process_of_its_own_and_named_by_what_it_is_made_from(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    mixture, unseen = (str(write_mixture(tmp_path / name, general=6)) for name in ("mixture", "unseen"))
    asked = question(base=str(tiny_model_folder), mixture=mixture, unseen=unseen)
    bench = decisions.Bench(tmp_path, tmp_path / "results")
    cells = [Cell(LOW, 0), Cell(LOW), Cell(LOW, 3), Cell(FULL)]
    assert len({bench.file(asked, cell) for cell in cells}) == len(cells)
    for cell in cells:
        made = trained(bench, asked, cell, tmp_path / "scratch")
        assert made.steps == {0: 0, None: made.steps, 3: 3}[cell.steps]
        of_all = {"validation", "general"}
        assert set(made.losses) == (of_all | {"chosen_on", "scored_on"} if cell.whole else of_all)
        for part, rows in made.examples.items():
            nats, tokens = (sum(each) for each in zip(*rows, strict=True))
            assert made.losses[part] == pytest.approx((nats / tokens, len(rows)))
        assert set(made.examples) == set(made.losses) - {"chosen_on", "general"}
    before, after = (bench.known(asked, cell) for cell in cells[:2])
    assert before is not None
    assert after is not None
    assert after.losses["scored_on"][0] < before.losses["scored_on"][0]


def trained(bench: decisions.Bench, asked: Question, cell: Cell, scratch: Path) -> Measured:
    arguments = (asked, cell, bench.file(asked, cell), scratch)
    process = decisions.forks().Process(target=train_cell, args=arguments)
    process.start()
    process.join()
    found = bench.known(asked, cell)
    assert found is not None, process.exitcode
    return found


def test_results_that_were_kept_are_known_elsewhere_and_replace_none(tmp_path: Path) -> None:
    asked, kept = question(), tmp_path / "kept.jsonl"
    here, there = (decisions.Bench(tmp_path, tmp_path / name) for name in ("here", "there"))
    for cell, loss in ((Cell(LOW), 2.0), (Cell(HIGH), 1.9)):
        write_json(here.file(asked, cell), asdict(measured(cell, loss, 2.2)))
    write_json(there.file(asked, Cell(LOW)), asdict(measured(Cell(LOW), 2.5, 2.2)))
    here.pack(kept)
    there.unpack(kept)
    assert [present(there.known(asked, Cell(arm))).losses["chosen_on"][0] for arm in (LOW, HIGH)] == [
        2.5,
        1.9,
    ]
