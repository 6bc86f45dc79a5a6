"""The gate: a tuned model against its base, question by question, by the margins a tenant declared.

First rules, on the measured differences: the task may not be worse than the base's by more than
`task_margin`, no general benchmark may fall by more than `general_margin`, and the loss on held-out general
text may not rise by more than `general_loss_margin`. Every rule says how much of its difference is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.errors import UserError
from ft_dagster.evaluation.samples import Role, Sample, main_metric, read_samples, write_samples
from ft_dagster.lineage.digest import sha256_json
from ft_dagster.spec.variant import GatesSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Rule",
    "Verdict",
    "gates_digest",
    "judge",
    "read_samples",
    "to_json",
    "verdict_from_json",
    "write_samples",
]

SCHEMA_VERSION = 1
RULES_VERSION = 1  # raise it when the same samples and margins may give another verdict
RESAMPLES = 2000
SEED = 20240229
RuleName = Literal["task", "general_benchmark", "general_loss"]
_RULE_OF: dict[Role, RuleName] = {
    "task": "task",
    "own_task": "task",
    "general": "general_benchmark",
    "general_loss": "general_loss",
}


@dataclass(frozen=True)
class Rule:
    """One rule on one task. `difference` = tuned - base, in the metric's unit (a share, or nats a token).

    `interval`: 95% paired bootstrap of the difference. `margin`: largest worsening that passes. A value
    that is not a number (a loss that overflowed) never passes.
    """

    rule: RuleName
    task: str
    metric: str
    base: float
    tuned: float
    difference: float
    interval: tuple[float, float]
    margin: float
    questions: int
    higher_is_better: bool
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Passed only if every rule passed."""

    passed: bool
    rules: tuple[Rule, ...]


def judge(base: Sequence[Sample], tuned: Sequence[Sample], gates: GatesSpec) -> Verdict:
    """Apply `gates` to the paired samples of base and tuned model. Pure: same input, same verdict.

    Raises UserError when a question was asked of one model only, or nothing was asked of the task.
    """
    before, after = _by_task(base), _by_task(tuned)
    for key in before.keys() ^ after.keys():
        which = "base" if key in before else "tuned model"
        raise UserError(f"{key[1]} was asked of the {which} only", field=key[0], fix=_AGAIN)
    rules = [_rule(key, before[key], after[key], gates) for key in after]
    if not any(rule.rule == "task" for rule in rules):
        raise UserError(
            "nothing was asked of the task",
            field="evaluation.task",
            fix="Declare a task, or leave it out so that the test split is asked",
        )
    order = list(dict.fromkeys(_RULE_OF.values()))
    rules.sort(key=lambda rule: order.index(rule.rule))
    return Verdict(all(rule.passed for rule in rules), tuple(rules))


def gates_digest(gates: GatesSpec) -> str:
    """What a verdict depends on beside the samples: the margins, and what this version makes of them."""
    return sha256_json({"rules": RULES_VERSION, "gates": gates.model_dump(mode="json")})


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON; a figure that is not a number becomes null."""
    rules = [
        {name: _plain(value) for name, value in asdict(rule).items()}
        | {"interval": [_plain(bound) for bound in rule.interval]}
        for rule in verdict.rules
    ]
    return {"schema_version": SCHEMA_VERSION, "passed": verdict.passed, "rules": rules}


def verdict_from_json(content: dict[str, Any]) -> Verdict:
    """The verdict that `to_json` wrote. A newer schema raises UserError."""
    if int(content.get("schema_version", 0)) > SCHEMA_VERSION:
        raise UserError(
            "written by a newer ft-dagster",
            field="schema_version",
            value=content["schema_version"],
            fix=f"Upgrade ft-dagster (this one reads up to {SCHEMA_VERSION})",
        )
    figures = ("base", "tuned", "difference", "margin")
    rules = tuple(
        Rule(
            **{
                **rule,
                **{name: _number(rule[name]) for name in figures},
                "interval": (_number(rule["interval"][0]), _number(rule["interval"][1])),
            }
        )
        for rule in content["rules"]
    )
    return Verdict(bool(content["passed"]), rules)


_AGAIN = "Evaluate both with the same tasks, limit and seed"


def _by_task(samples: Sequence[Sample]) -> dict[tuple[Role, str], dict[str, dict[str, Sample]]]:
    """(role, task) -> metric -> question -> sample."""
    found: dict[tuple[Role, str], dict[str, dict[str, Sample]]] = {}
    for sample in samples:
        metrics = found.setdefault((sample.role, sample.task), {})
        metrics.setdefault(sample.metric, {})[sample.question] = sample
    return found


def _rule(
    key: tuple[Role, str],
    before: dict[str, dict[str, Sample]],
    after: dict[str, dict[str, Sample]],
    gates: GatesSpec,
) -> Rule:
    import numpy as np

    role, task = key
    metric = main_metric(list(after))
    asked, answered = before.get(metric, {}), after[metric]
    missing = len(asked.keys() ^ answered.keys())
    if missing:
        raise UserError(
            f"{missing} questions of {task} ({metric}) were not asked of both models", field=role, fix=_AGAIN
        )
    questions = sorted(answered)
    first = answered[questions[0]]
    base = np.array([asked[q].value for q in questions])
    tuned = np.array([answered[q].value for q in questions])
    weights = np.array([answered[q].weight for q in questions])
    difference = float(np.average(tuned - base, weights=weights))
    name = _RULE_OF[role]
    margin = _margin(name, gates)
    worsening = -difference if first.higher_is_better else difference
    # A hair of tolerance, since a mean of shares is rarely the decimal the margin was written as.
    passed = math.isfinite(worsening) and worsening <= margin + 1e-9
    means = float(np.average(base, weights=weights)), float(np.average(tuned, weights=weights))
    low, high, noise = _spread(tuned - base, weights)
    return Rule(
        rule=name,
        task=task,
        metric=metric,
        base=means[0],
        tuned=means[1],
        difference=difference,
        interval=(low, high),
        margin=margin,
        questions=len(questions),
        higher_is_better=first.higher_is_better,
        passed=passed,
        sentence=_sentence(
            name, task, metric, means=means, margin=margin, known=(len(questions), noise), passed=passed
        ),
    )


def _margin(rule: RuleName, gates: GatesSpec) -> float:
    margins = {
        "task": gates.task_margin,
        "general_benchmark": gates.general_margin,
        "general_loss": gates.general_loss_margin,
    }
    return margins[rule]


def _spread(differences: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float]:
    """(low, high, noise): 95% percentile bootstrap over questions, and 1.96 paired standard errors."""
    import numpy as np

    if not np.isfinite(differences).all():
        return math.nan, math.nan, math.nan
    draw, count = np.random.default_rng(SEED), len(differences)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = draw.integers(0, count, count)
        means[number] = np.average(differences[chosen], weights=weights[chosen])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high), 1.96 * _standard_error(differences, weights)


def _standard_error(differences: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Of the weighted mean of paired differences (Cochran's ratio estimate); infinite for one question."""
    import numpy as np

    count = len(differences)
    if count < 2:
        return math.inf
    mean = np.average(differences, weights=weights)
    residuals = weights * (differences - mean)
    return float(np.sqrt(count / (count - 1) * np.sum(residuals**2)) / np.sum(weights))


def _sentence(
    rule: RuleName,
    task: str,
    metric: str,
    *,
    means: tuple[float, float],
    margin: float,
    known: tuple[int, float],
    passed: bool,
) -> str:
    """What happened and what can be known of it; `known`: questions, and the difference that is noise."""
    unit, show = _units(metric, means)
    what = {"task": "the task", "general_benchmark": "the benchmark", "general_loss": "the loss on"}[rule]
    verdict = "within" if passed else "worse than allowed:"
    questions, noise = known
    if not math.isfinite(noise):
        power = f"{questions} questions cannot tell change from noise"
    elif noise == 0:
        power = f"not one of {questions} questions was answered differently"
    else:
        power = f"with {questions} questions a difference below about {unit(noise)} is noise"
    return (
        f"{what} {task} ({metric}) went from {show(means[0])} to {show(means[1])}, {verdict} the margin of "
        f"{unit(margin)}; {power}"
    )


def _units(metric: str, means: tuple[float, float]) -> tuple[Callable[[float], str], Callable[[float], str]]:
    """How a difference and a value of `metric` are said: nats a token, points of a share, or bare numbers."""
    if metric.endswith("_loss"):
        return (lambda x: f"{x:.3f} nats a token"), (lambda x: f"{x:.3f}")
    if max(map(abs, means)) > 1:
        return (lambda x: f"{x:.3g}"), (lambda x: f"{x:.3f}")
    return (lambda x: f"{100 * x:.1f} points"), (lambda x: f"{100 * x:.1f}%")


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
