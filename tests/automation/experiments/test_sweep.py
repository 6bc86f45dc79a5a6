"""Which runs a sweep makes, when it stops one, and how it ranks them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ft_dagster.automation.experiments import experiments
from ft_dagster.automation.experiments.bakeoff import for_method
from ft_dagster.automation.experiments.budget import Budget
from ft_dagster.automation.experiments.experiments import (
    Experiment,
    ExperimentRun,
    Limits,
    RunFigures,
    Status,
    carry_out,
    spent_by,
)
from ft_dagster.automation.experiments.sweep import draw_runs, parse_sets, rank, stop_above
from ft_dagster.errors import UserError
from ft_dagster.program import write_json
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declared, VariantKey, load_variant
from ft_dagster.spec.overrides import with_overrides
from ft_dagster.stages.chain import ChainOutcome
from ft_dagster.training.contract import TrainingResult
from tests.e2e.project import edit, write_lines, write_project
from tests.present import present
from tests.verdicts import stored_rule

KEY = VariantKey("acme", "places")


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    folder = write_project(tmp_path, tmp_path / "base")
    return load_variant(folder, KEY)


def test_a_grid_that_fits_is_run_whole_and_in_order(declared: Declared) -> None:
    values = parse_sets(["method.rank=8,16", "training.learning_rate=1e-4,3e-4"])
    runs = draw_runs(declared, values, 4, seed=0)
    assert [(r.overrides["method.rank"], r.overrides["training.learning_rate"]) for r in runs] == [
        (8, 1e-4), (8, 3e-4), (16, 1e-4), (16, 3e-4)
    ]  # fmt: skip
    assert [run.number for run in runs] == [1, 2, 3, 4]
    assert runs[0].name == "rank=8 learning_rate=0.0001"


def test_a_larger_grid_is_sampled_by_seed_without_replacement(declared: Declared) -> None:
    values = parse_sets(["training.seed=1,2,3,4,5,6,7,8,9,10", "method.rank=1,2,3,4,5,6,7,8"])
    runs = draw_runs(declared, values, 15, seed=1)
    points = [tuple(run.overrides.values()) for run in runs]
    assert len(set(points)) == 15
    assert points == [tuple(run.overrides.values()) for run in draw_runs(declared, values, 15, seed=1)]
    assert points != [tuple(run.overrides.values()) for run in draw_runs(declared, values, 15, seed=2)]


def test_ranks_of_a_method_without_one_are_one_run(declared: Declared) -> None:
    values = parse_sets(["method=lora,full", "method.rank=4,8"])
    runs = draw_runs(declared, values, 10, seed=0)
    assert [run.name for run in runs] == ["name=lora rank=4", "name=lora rank=8", "name=full"]
    assert runs[2].dropped == ["method.rank 4", "training.learning_rate 0.005"]
    assert with_overrides(declared, runs[2].overrides).spec.method.name == "full"


def test_values_are_written_as_in_yaml(declared: Declared) -> None:
    values = parse_sets(["method.target_modules=all-linear,[q_proj, v_proj]", "data.general=null"])
    assert values == {
        "method.target_modules": ["all-linear", ["q_proj", "v_proj"]],
        "data.general": [None],
    }
    assert len(draw_runs(declared, values, 10, seed=0)) == 2


@pytest.mark.parametrize(
    "sets",
    [
        [], ["method.rank"], ["method.rank="], ["method.rank=[1"], ["method.rank=1", "method.rank=2"],
        ["gates.task_margin=0,1"], ["evaluation.limit=1"], ["methods.rank=1"],
    ],
)  # fmt: skip
def test_what_is_no_list_of_values_of_a_field_that_may_vary_is_refused(sets: list[str]) -> None:
    with pytest.raises(UserError):
        parse_sets(sets)


@pytest.mark.parametrize("sets", [["method.rnk=1"], ["method.rank=4,0"], ["training.seed=a"]])
def test_a_value_that_the_declaration_refuses_is_refused_before_any_run(
    declared: Declared, sets: list[str]
) -> None:
    with pytest.raises(UserError):
        draw_runs(declared, parse_sets(sets), 15, seed=0)


@pytest.mark.parametrize("text", ["", "flops", "flops=", "flops=-1", "flops=nan", "minutes=inf", "steps=3"])
def test_a_budget_is_a_positive_number_of_flops_or_minutes(text: str) -> None:
    with pytest.raises(UserError):
        Budget.parse(text)


def test_a_budget_is_spent_in_its_own_unit() -> None:
    figures: RunFigures = {"flops": 3e12, "training_seconds": 90.0}
    assert Budget.parse("flops=2e14").spent(figures) == 3e12
    assert Budget.parse("minutes=2").spent(figures) == 1.5
    assert Budget.parse("minutes=2").spent({}) == 0


def test_a_budget_counts_what_a_training_spent_that_was_stopped_early(tmp_path: Path) -> None:
    figures: dict[str, object] = {"steps": 40, "flops": 3e12, "training_seconds": 90.0}
    result = TrainingResult(variant=str(KEY), status="stopped", recipe="0" * 64, figures=figures)
    write_json(tmp_path / "output/result.json", result.model_dump(mode="json", exclude_none=True))
    assert Budget.parse("flops=2e14").spent(spent_by(tmp_path)) == 3e12
    assert Budget.parse("minutes=2").spent(spent_by(tmp_path)) == 1.5


def test_a_budget_counts_what_a_training_spent_that_failed(
    declared: Declared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ({"step": n, "seconds": 30.0, "flops": n * 1e12} for n in (1, 2))
    log = [{"step": 0, "validation_loss": 3.0}, *steps]
    write_lines(tmp_path / "output/evidence/log.jsonl", log)
    with (tmp_path / "output/evidence/log.jsonl").open("a") as file:
        file.write('{"step": 3, "seco')  # as a killed program leaves it
    ends = iter([ChainOutcome({}, "memory ran out", broken=tmp_path), ChainOutcome({}, "no such GPU")])
    monkeypatch.setattr(experiments, "run_chain", lambda *_: next(ends))
    settings = load_settings(declared.file.parents[2])
    run = ExperimentRun(1, "rank 4", {})
    experiment = Experiment(settings, declared, "sweep-0", {}, [run])
    for _ in range(2):  # a try that trains nothing takes nothing back
        carry_out(experiment, run)
        assert run.status == "failed"
        assert Budget.parse("flops=2e14").spent(run.figures) == 2e12
        assert Budget.parse("minutes=2").spent(run.figures) == 1


def test_another_method_drops_what_it_has_not_and_the_rate_chosen_for_the_declared_one(
    declared: Declared,
) -> None:
    overrides, dropped = for_method(declared, "full")
    assert overrides == {
        "method.name": "full", "method.rank": None, "training.learning_rate": None, "export.format": "merged"
    }  # fmt: skip
    assert dropped == ["method.rank", "training.learning_rate"]
    assert for_method(declared, "lora") == ({"method.name": "lora"}, [])
    assert for_method(declared, "qlora") == ({"method.name": "qlora"}, [])  # its usual rate is that of lora
    assert "training.learning_rate" in for_method(declared, "prompt_tuning")[1]
    for method in ("full", "qlora", "lora_8bit", "prompt_tuning", "prefix_tuning"):
        assert with_overrides(declared, for_method(declared, method)[0]).spec.method.name == method


def test_a_soft_prompt_of_a_declaration_that_exports_merged_models_is_exported_as_it_is(
    tmp_path: Path,
) -> None:
    folder = write_project(tmp_path, tmp_path / "base")
    edit(folder / "tenants/acme/places.yaml", lambda c: c.update(export="merged"))
    overrides, _ = for_method(load_variant(folder, KEY), "prompt_tuning")
    assert overrides["export.format"] == "adapter"


def run(
    number: int,
    curve: Sequence[float | None] = (),
    *,
    status: Status = "done",
    gain: float = 0.0,
    loss: float = 1.0,
    general: bool = True,
) -> ExperimentRun:
    rules = [
        stored_rule(difference=gain),
        stored_rule(rule="general_loss", difference=0.0, higher_is_better=False, passed=general),
    ]
    done: RunFigures = {"rules": rules, "validation_loss_best": loss}
    figures: RunFigures = done if status == "done" else {}
    return ExperimentRun(number, str(number), {}, status=status, curve=list(curve), figures=figures)


def test_a_loss_that_was_not_finite_shifts_no_limit() -> None:
    curves: list[list[float | None]] = [[None, 2.0, 1.0], [5.0, 4.0, 3.0], [3.0, 3.0, 3.0]]
    assert stop_above([run(n, curve) for n, curve in enumerate(curves)]) == Limits({1: 4.0, 2: 3.0})


def test_a_training_is_held_against_the_median_of_three_finished_runs_but_not_at_its_end() -> None:
    finished = [run(1, [3.0, 2.0, 1.0]), run(2, [5.0, 4.0, 3.0])]
    stopped = run(3, [9.0], status="stopped early")
    assert stop_above([*finished, stopped]) == Limits()
    assert stop_above([*finished, stopped, run(4, [4.0, 1.0, 0.5])]) == Limits({1: 4.0, 2: 2.0})


def test_runs_that_sampled_differently_are_compared_on_what_all_measured() -> None:
    curve: list[float | None] = [3.0, 2.0]
    runs = [run(n, curve, loss=loss) for n, loss in enumerate((1.0, 2.0, 3.0))]
    for each, at_eight in zip(runs, (6.0, 5.0, 4.0), strict=True):
        each.curves = {"8": [at_eight, 1.0], "16": curve}
        each.figures["validation_loss_on"] = {"8": at_eight, "16": 1.0}
    del runs[2].curves["16"], runs[2].figures["validation_loss_on"]["16"]
    assert stop_above(runs) == Limits({1: 5.0}, 8)
    assert [r.number for r in rank(runs).runs] == [2, 1, 0]


def test_runs_are_ranked_by_the_task_among_those_that_keep_general_ability() -> None:
    forgetful = run(1, gain=0.9, loss=0.1, general=False)
    good, better, failed = run(2, gain=0.1), run(3, gain=0.2), run(4, status="failed")
    ranking = rank([forgetful, good, better, failed])
    assert [r.number for r in ranking.runs] == [3, 2, 1]
    assert ranking.by == "task"


def test_equal_on_the_task_the_lower_validation_loss_wins() -> None:
    assert present(rank([run(1, gain=0.1, loss=2.0), run(2, gain=0.1, loss=1.0)]).winner).number == 2


def test_where_none_keeps_general_ability_validation_loss_decides_and_it_is_said() -> None:
    ranking = rank([run(1, gain=0.9, loss=2.0, general=False), run(2, loss=1.0, general=False)])
    assert present(ranking.winner).number == 2
    assert ranking.by == "validation loss"
    assert rank([run(1, status="failed")]).winner is None
