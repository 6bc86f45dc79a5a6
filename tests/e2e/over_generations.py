"""Two stories of really trained models that a gate has to refuse at their end, though a single verdict would
not: generations that erode a little each, and the best of five retrains that all fell by the margin.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from ft_dagster.gate.gates import regression
from ft_dagster.gate.samples import Sample, read_samples
from ft_dagster.gate.sampling import order_of_asking
from ft_dagster.spec.variant import GatesSpec
from ft_dagster.store import read_head
from tests.e2e.project import PLACES, THINGS, UP_TO_PLAN, edit, write_lines, write_project, write_yaml
from tests.e2e.workshop import Workshop
from tests.present import present

KEY, PREFIX = "acme.places", "tenants/acme/places"
FILE = f"{PREFIX}.yaml"
POLICY = {
    "gates": {"degeneration": "optional", "regression_margin": 0.5},
    "evaluation": {"general": "none", "decontaminate": "optional"},
}
TRAINED = (*UP_TO_PLAN, "fine_tuned_model")
EVALUATED = (*TRAINED, "base_evaluation", "evaluation")
STEADY = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "precision": "fp32", "evaluations": 1}
Change = Callable[[dict[str, Any]], None]


def train_as(project: Path, **settings: Any) -> None:
    edit(project / FILE, lambda content: content["training"].update(settings))


def materialize(project: Path, *assets: str) -> None:
    """Make assets of the variant (all if none) in an instance that is not kept."""
    with dg.DagsterInstance.ephemeral() as instance:
        assert Workshop(project, instance).materialize(KEY, *assets).success


def made(project: Path, stage: str) -> Path:
    """The folder of a stage's newest artifact."""
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(project, instance)
    artifact = present(read_head(shop.store, PREFIX, stage))
    return artifact.folder(shop.store, shop.settings.cache_folder)


def _project(folder: Path, base: Path, rows: Iterable[dict[str, Any]], change: Change) -> Path:
    """A project of one variant, most of whose rows are asked, so that its gate decides."""
    project = write_project(folder, base)
    write_lines(project / "data" / "rows.jsonl", list(rows))

    def declare(content: dict[str, Any]) -> None:
        content["data"].update(
            splits={"validation": 0.1, "test": 0.6, "minimum": 4},
            deduplicate="off",
            decontaminate={"enabled": False},
            general=None,
        )
        content["evaluation"] = {"general": [], "limit": None}
        content["gates"] = {"degeneration_margin": None}
        content["training"] = {**STEADY, "gradient_accumulation_steps": 1}
        change(content)

    edit(project / FILE, declare)
    write_yaml(project / "policy.yaml", POLICY)
    (project / "tenants/globex/places.yaml").unlink()
    return project


# Nats by which the generations are worse than the first: by less than `PRODUCTION` than the one before, so
# that this is shown; the last by more than the reference allows.
RISES = (0.09, 0.18, 0.30)
PRODUCTION, REFERENCE = 0.22, 0.25
STEPS, LOOKS = 100, 25  # of the first version; the others are trained more briefly


def eroding(folder: Path, base: Path) -> Path:
    """A project with three versions released, whose fourth is declared and not run. Each has learned less of
    the task than the one before, by less than the margin; the fourth has lost more than `REFERENCE`.
    """
    rows = (
        {"instruction": f"Where is the {thing} of the {place} in house {n}?", "input": "",
         "output": f"The {thing} is {place}."}
        for thing in THINGS for place in PLACES for n in range(6)
    )  # fmt: skip

    def first(content: dict[str, Any]) -> None:
        content["training"].update(learning_rate=2e-3, max_length=128, max_steps=STEPS)
        content["gates"].update(regression_loss_margin=PRODUCTION, reference_loss_margin=REFERENCE)
        content["training"].update(evaluations=LOOKS, watch={"budget": None}, keep_best=1)

    project = _project(folder, base, rows, first)
    materialize(project)
    curve = _curve(made(project, "fine_tuned_model"))
    for rise in RISES:
        worse = curve[STEPS] + rise
        steps = min((step for step in curve if step), key=lambda step, at=worse: abs(curve[step] - at))  # type: ignore[misc]
        train_as(project, max_steps=steps, evaluations=1)
        if rise != RISES[-1]:
            materialize(project)
    return project


def _curve(trained: Path) -> dict[int, float]:
    """Step -> validation loss."""
    lines = map(json.loads, (trained / "evidence/log.jsonl").read_text().splitlines())
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


LABELS = ("town", "bank", "ship")
ASKED = 120  # questions of a look, of some 360 rows
SEEDS = (1, 2, 3, 4, 5)  # of the retrains


class Retrains(NamedTuple):
    """A project with one version released, and five retrains of it trained and not evaluated. `seeds`: of
    each, the best at last. `falls`: as a share of all rows there are; none is below `margin`.
    """

    project: Path
    seeds: tuple[int, ...]
    falls: tuple[float, ...]
    margin: float


def retrain_as(project: Path, seed: int) -> None:
    """Declare one of the five."""
    train_as(project, seed=seed, max_steps=200)


def retrains(folder: Path, base: Path) -> Retrains:
    """Five retrains that fell by the margin, or further, and questions by which the best of them seems not to
    have: in one of many worlds chance draws these, here they are looked for.
    """
    project = _project(folder / "project", base, _labelled(), _labels)
    materialize(project)
    for seed in SEEDS:
        retrain_as(project, seed)
        materialize(project, *TRAINED)
    everything = shutil.copytree(project, folder / "everything")
    standing, found = _answers(everything), dict[int, list[Sample]]()
    for seed in SEEDS:
        retrain_as(everything, seed)
        materialize(everything, *EVALUATED)
        found[seed] = _answers(everything)
    falls = {seed: _right(standing) - _right(each) for seed, each in found.items()}
    margin = round(min(falls.values()) - 0.0005, 3)
    questions, best = _lucky(standing, found, margin)

    def declare(content: dict[str, Any]) -> None:
        content["evaluation"].update(limit=ASKED, seed=questions)
        content["gates"].update(regression_margin=margin)

    edit(project / FILE, declare)
    order = (*(seed for seed in SEEDS if seed != best), best)
    return Retrains(project, order, tuple(falls[seed] for seed in order), margin)


def _labelled() -> Iterable[dict[str, Any]]:
    """Rows whose label is that of thing and place, to be learned by heart."""
    for thing in THINGS:
        for place in PLACES:
            label = LABELS[int(hashlib.sha256(f"{thing} {place}".encode()).hexdigest(), 16) % len(LABELS)]
            for n in range(6):
                yield {"instruction": f"{thing} {place}, case {n}", "input": "", "output": label}


def _labels(content: dict[str, Any]) -> None:
    content.update(objective="task_specific", method={"name": "full"}, export="merged")
    content["training"].update(
        learning_rate=3e-3, max_length=64, per_device_train_batch_size=8, max_steps=250
    )
    content["evaluation"].update(kind="label", max_new_tokens=4)


def _answers(project: Path) -> list[Sample]:
    """Whether each row of the test split was answered rightly."""
    samples = read_samples(made(project, "evaluation") / "payload")
    return [each for each in samples if (each.role, each.metric) == ("test_split_task", "exact_match")]


def _right(samples: Sequence[Sample]) -> float:
    return sum(each.value for each in samples) / len(samples)


def _lucky(
    standing: Sequence[Sample], found: Mapping[int, Sequence[Sample]], margin: float
) -> tuple[int, int]:
    """(seed of the questions, seed of the best retrain) by which that passes as a first try, and not as the
    second.
    """
    gates, names = GatesSpec(regression_margin=margin), sorted(each.question for each in standing)
    for questions in range(5000):
        drawn = {*order_of_asking(names, questions)[:ASKED]}
        asked = {seed: [each for each in side if each.question in drawn] for seed, side in found.items()}
        before = [each for each in standing if each.question in drawn]
        best = max(asked, key=lambda seed, asked=asked: _right(asked[seed]))  # type: ignore[misc]
        if _right(before) - _right(asked[best]) > margin / 2:
            continue
        passed = [
            all(rule.passed for rule in regression(before, asked[best], gates, version=1, tries=number))
            for number in (1, 2)
        ]
        if passed == [True, False]:
            return questions, best
    raise AssertionError("by no questions does any of the five seem to hold the margin")
