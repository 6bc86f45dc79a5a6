"""A training that is watched: what it writes, that watching changes nothing, and when it is stopped."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ft_dagster.errors import UserError
from ft_dagster.evaluation.degeneration import answer_general_prompts
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.training.__main__ import train_run
from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.contract import Base, method_settings, read_run
from ft_dagster.training.journal import Journal
from ft_dagster.training.progress import Console
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.watch import degeneration, flops
from ft_dagster.training.watch.falls import fall_of
from ft_dagster.training.watch.reporting import Reports
from tests.evaluation.questions import write_task
from tests.long import mostly_long
from tests.present import present
from tests.training.methods.taught import habit
from tests.training.runs import LORA, Runs, payload_bytes, result_of, write_mixture

pytestmark = pytest.mark.slow


def train(run_folder: Path) -> int:
    return train_run(read_run(run_folder), Console(), Stop())


def lines(run_folder: Path, name: str) -> list[Any]:
    log = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    return [line[name] for line in map(json.loads, log) if name in line]


def asked(runs: Runs, **watch: Any) -> dict[str, Any]:
    """What `prepare` needs for a benchmark of 8 questions."""
    project = runs.folder / "project"
    write_task(project, "forms")
    return {
        "benchmarks": {"tasks": tasks_digest(["forms.yaml"], project), "project": str(project)},
        "training": {"watch": {"questions": 8, **watch}, "num_train_epochs": 4.0},
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Path, str]:
    """A training with that benchmark, and what it said; not to be changed."""
    folder = tmp_path_factory.mktemp("watched")
    runs = Runs(folder, tiny_model_folder, write_mixture(folder / "mixture"))
    run_folder = runs.prepare(**asked(runs))
    with redirect_stdout(StringIO()) as said:
        assert train(run_folder) == 0
    return run_folder, said.getvalue()


PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm.out}


class Products(TorchDispatchMode):
    """Of which types matrices were multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.types.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def ledger(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "acme.support/evidence/ledger.json").read_text())


@pytest.mark.long
def test_a_benchmark_while_it_trains_changes_no_byte_of_the_adapter(
    runs: Runs, watched: tuple[Path, str]
) -> None:
    folder, said = watched
    plain = runs.prepare("plain", training={"num_train_epochs": 4.0})
    assert train(plain) == 0
    assert payload_bytes(plain) == payload_bytes(folder)
    assert lines(plain, "loss") == lines(folder, "loss")
    assert ledger(plain)["batches"] == ledger(folder)["batches"]
    assert lines(plain, "benchmark") == []
    assert len(lines(folder, "benchmark")) == 2  # of the base and of the exported model
    assert "general benchmark" in said
    assert "empty answers" in said
    assert "condition" in said
    assert "FLOPs" in said


def test_what_was_seen_is_reported(watched: tuple[Path, str]) -> None:
    folder, _ = watched
    figures = result_of(folder)["figures"]
    assert figures["method"] == "lora"
    assert figures["benchmark_first"] == lines(folder, "benchmark")[0]["mean"]
    assert figures["repeated_4grams_first"] == lines(folder, "degeneration")[0]["repeated"]
    assert len(lines(folder, "degeneration")) == len(lines(folder, "general_holdout_loss")) == 2
    assert figures["repeated_4grams_last"] == lines(folder, "degeneration")[-1]["repeated"]
    assert 1 <= figures["effective_rank"] <= 4
    assert figures["spectrum_condition"] >= 1
    assert isinstance(figures["advice"], list)
    assert figures["stopped"] is figures["stop_reason"] is None
    spectrum = json.loads((folder / "acme.support/evidence/spectrum.json").read_text())
    assert [len(layer["values"]) for layer in spectrum["layers"]] == [4] * 14


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("method", mostly_long([LORA, {"name": "full"}], every=2))
def test_a_look_answers_in_the_precision_of_the_steps(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any], precision: str, dtype: torch.dtype
) -> None:
    """A product of another type is one of weights that were cast for it, or of PEFT's detour over fp32."""
    seen: set[torch.dtype] = set()

    def noted(model: Any, *asked: Any) -> Any:
        with Products() as products:
            found = answer_general_prompts(model, *asked)
        seen.update(products.types)
        return found

    monkeypatch.setattr(degeneration, "answer_general_prompts", noted)
    folder = runs.prepare(method=method, training={"precision": precision, "num_train_epochs": 1.0})
    assert train(folder) == 0
    assert seen == {dtype}


def test_the_flops_are_those_of_the_shapes_that_were_computed(runs: Runs) -> None:
    folder = runs.prepare(training={"num_train_epochs": 1.0})
    train(folder)
    counted = flops.count_flops(
        Base(folder=runs.base, digest="b" * 64), method_settings(LORA), gradient_checkpointing=False
    )
    (last,) = sorted((folder / "acme.support/checkpoints").glob("checkpoint-*"))[-1:]
    journal = Journal.load(last)
    figures = result_of(folder)["figures"]
    assert counted is not None
    assert figures["flops"] == lines(folder, "flops")[-1] == counted.spent(journal)
    examples = open_split(runs.mixture, "train", folder)
    assert examples is not None
    assert journal.squares == (examples.lengths**2).sum()  # each once, and attending to itself alone
    assert journal.micro_batches == -(-journal.rows // 2)  # of two rows each
    assert figures["flops"] == pytest.approx(figures["flops_estimate"], rel=0.2)


def test_the_storage_of_checkpoints_is_shown_weights_and_optimizer_apart(trained: Path) -> None:
    figures = result_of(trained)["figures"]
    files = [file for file in (trained / "acme.support/checkpoints").rglob("*") if file.is_file()]
    sizes = {file: file.stat().st_size for file in files if file.name != "checkpoint.json"}
    weights = sum(size for file, size in sizes.items() if file.name == "adapter_model.safetensors")
    assert figures["checkpoint_weights_bytes"] == weights > 0
    assert figures["checkpoint_optimizer_bytes"] == sum(sizes.values()) - weights
    optimizer = sum(size for file, size in sizes.items() if file.name == "optimizer.pt")
    assert optimizer > 1.8 * weights  # two moments of each weight
    assert figures["checkpoints_kept"] == 3


def test_a_training_that_forgets_too_much_is_stopped_and_an_earlier_checkpoint_exported(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit is the rise between the second and the third evaluation of the same training unwatched."""
    settings = {"learning_rate": 0.05, "max_steps": 12, "evaluations": 6, "keep_best": 6}
    free = runs.prepare("free", training={**settings, "watch": {"budget": None}})
    train(free)
    first, *later = lines(free, "general_holdout_loss")[:7]
    rises = [loss - first for loss in later]
    over = next(n for n in range(1, 6) if rises[n] > max(rises[:n]) and rises[n] > 0)
    limit = max(1e-6, (max(rises[:over]) + rises[over]) / 2)
    folder = runs.prepare("limited", training={**settings, "watch": {"general_loss_limit": limit}})
    assert train(folder) == 0
    figures = result_of(folder)["figures"]
    assert figures["stopped"] == "forgetting"
    assert "held-out general text rose by" in figures["stop_reason"]
    assert figures["steps"] == 2 * (over + 1) < 12
    assert figures["best_step"] < figures["steps"]
    assert figures["general_holdout_loss_last"] - figures["general_holdout_loss_first"] <= limit
    assert "stopping at step" in capsys.readouterr().out


@pytest.mark.long
def test_the_last_checkpoint_within_a_limit_is_kept_though_a_later_one_is_better_on_the_task(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One best and one last are kept; the task is learned on, and general text forgotten, at every look."""
    forgetful = write_mixture(habit(tmp_path / "forgetful"), train=0, validation=0)
    settings = {"learning_rate": 0.01, "max_steps": 12, "evaluations": 4, "keep_best": 1, "keep_last": 1}
    free = runs.prepare("free", mixture=str(forgetful), training={**settings, "watch": {"budget": None}})
    train(free)
    general, task = (lines(free, f"{split}_loss") for split in ("general_holdout", "validation"))
    assert general[0] < general[1] < general[2]
    assert task[1] > task[2]
    limit = (general[1] + general[2]) / 2 - general[0]
    watch = {"budget": None, "general_loss_limit": limit}
    folder = runs.prepare("limited", mixture=str(forgetful), training={**settings, "watch": watch})
    assert train(folder) == 0, result_of(folder)
    figures = result_of(folder)["figures"]
    assert (figures["stopped"], figures["best_step"], figures["steps"]) == ("forgetting", 3, 6)
    going_on = {"watch": {**watch, "past_limit": "go_on"}}
    folder = runs.prepare("going-on", mixture=str(forgetful), training={**settings, **going_on})
    assert train(folder) == 0, result_of(folder)
    figures = result_of(folder)["figures"]
    within = [look for look in range(1, 5) if general[look] - general[0] <= limit]
    best = min(within, key=lambda look: task[look])
    assert (figures["stopped"], figures["best_step"], figures["steps"]) == (None, 3 * best, 12)
    assert capsys.readouterr().out.count("it goes on, as declared") == 1
    never = {"watch": {**watch, "past_limit": "go_on", "general_loss_limit": 1e-9}}
    folder = runs.prepare("never", mixture=str(forgetful), training={**settings, **never})
    assert train(folder) == 2
    said = result_of(folder)["error"]["problem"]
    assert "no checkpoint is within the limits of forgetting: the loss on held-out general text rose" in said


@pytest.mark.long
def test_a_fall_of_the_benchmark_stops_too(runs: Runs) -> None:
    """Four tasks, each right where one of four letters is preferred: when that changes, one of them falls."""
    for gold in range(4):
        letters: dict[str, Any] = {"doc_to_choice": ["a", "k", "x", "Q"], "target_delimiter": ""}
        write_task(runs.folder / "project", f"always_{gold}", doc_to_target=gold, **letters)

    def prepared(name: str, tasks: list[str], **watch: Any) -> Path:
        settings = {"learning_rate": 0.03, "max_steps": 8, "evaluations": 4}
        watch.setdefault("budget", None)
        return runs.prepare(
            name,
            benchmarks={
                "tasks": tasks_digest(tasks, runs.folder / "project"),
                "project": str(runs.folder / "project"),
            },
            training={**settings, "watch": {"questions": 30, **watch}},
        )

    free = prepared("free", [f"always_{gold}.yaml" for gold in range(4)])
    train(free)
    first, *later = lines(free, "benchmark")
    falls = {name: [first[name] - line[name] for line in later] for name in first["answers"]}
    task, fall = max(falls.items(), key=lambda item: max(item[1]))
    assert max(fall) > 0
    seen = [
        {"step": n, "benchmark": {"mean": line[task], "answers": {task: line["answers"][task]}}}
        for n, line in enumerate((first, *later))
    ]
    at = next(n for n, each in enumerate(fall) if each > 0 and present(fall_of(seen, n + 1)).shown(looks=4))
    limited = prepared("limited", [f"{task}.yaml"], benchmark_limit=fall[at] / 2)
    train(limited)
    assert max(lines(limited, "step")) == 2 * (at + 1)
    assert len(lines(limited, "benchmark")) == at + 2
    if at:
        assert result_of(limited)["figures"]["stopped"] == "forgetting"
        assert "accuracy on the general benchmark fell" in result_of(limited)["figures"]["stop_reason"]
    else:
        assert "no checkpoint is within the limits" in result_of(limited)["error"]["problem"]


def test_a_resumed_training_keeps_what_was_seen_before(runs: Runs) -> None:
    folder = runs.prepare(**asked(runs))
    train(folder)
    seen = {name: lines(folder, name) for name in ("benchmark", "degeneration", "spectrum")}
    figures = result_of(folder)["figures"]
    checkpoints = sorted(
        (folder / "acme.support/checkpoints").iterdir(), key=lambda each: int(each.name.split("-")[1])
    )
    shutil.rmtree(checkpoints[-1])
    (folder / "acme.support/result.json").unlink()
    train(folder)
    again = result_of(folder)["figures"]
    assert again["resumed_from"]
    assert {name: lines(folder, name) for name in seen} == seen
    same = ("flops", "benchmark_first", "benchmark_last", "repeated_4grams_first", "effective_rank", "advice")
    assert {name: again[name] for name in same} == {name: figures[name] for name in same}


def test_a_training_above_its_limit_is_given_up_without_an_export(runs: Runs) -> None:
    folder = runs.prepare(stop_above={"2": 0.5})
    train(folder)
    result = result_of(folder)
    assert result["status"] == "stopped"
    assert result["figures"]["stopped"] == "given up"
    assert "above the 0.500 of the runs before it" in result["figures"]["stop_reason"]
    assert len(lines(folder, "validation_loss")) == 3  # step 0 and two of the three evaluations
    assert not (folder / "acme.support/payload").exists()


def test_a_training_below_its_limit_goes_on(runs: Runs) -> None:
    folder = runs.prepare(stop_above={"1": 50.0, "2": 50.0})
    assert train(folder) == 0
    assert result_of(folder)["status"] == "done"


def test_curves_go_to_tensorboard(runs: Runs) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = runs.prepare(report_to=["tensorboard"])
    assert train(folder) == 0
    events = EventAccumulator(str(folder / "acme.support/evidence/tensorboard")).Reload()
    curves = {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curves["train/loss"] == pytest.approx(lines(folder, "loss"))
    assert curves["eval/validation_loss"] == pytest.approx(lines(folder, "validation_loss"))
    names = (
        "grad_norm",
        "learning_rate",
        "tokens_per_second",
        "trained_tokens",
        "flops",
        "peak_memory_bytes",
    )
    assert {f"train/{name}" for name in names} | {"eval/general_loss"} <= set(curves)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_missing_is_named_with_the_way_to_install_it(runs: Runs, name: str) -> None:
    folder = runs.prepare(report_to=[name])
    assert train(folder) == 2
    error = result_of(folder)["error"]
    assert (error["field"], error["value"]) == ("training.report_to", repr(name))
    assert f"pip install {name}" in error["fix"]


def test_an_unknown_reporter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reported to"):
        Reports(["abacus"], tmp_path, "acme.support")
