"""Says by what the answers of a task are judged: its rule, what that allows, and what of it is in keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ft_dagster.gate.level import level_after_reference, level_of
from ft_dagster.gate.paired import Allowed
from ft_dagster.gate.pairing import Paired, TaskKey, is_loss, judged_metric
from ft_dagster.gate.refusals.matcher import MATCHER
from ft_dagster.gate.samples import Role, main_metric
from ft_dagster.lineage.verdict import RuleName
from ft_dagster.objectives import DEFAULT, objective_of
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec.narrow import shown
from ft_dagster.spec.variant import GatesSpec

Against = Literal["base", "production", "reference"]
RULES_VERSION = 3  # of all rules; one that changes is in `later_rules`, so that no other key moves
GROUPS = "groups"
RULE_OF: dict[Role, RuleName] = {
    "task": "task",
    "test_split_task": "task",
    "general": "general_benchmark",
    "general_loss": "general_loss",
    "general_prompts": "degeneration",
    "refusals": "refusals",
}


def gates_digest(gates: GatesSpec) -> str:
    """Return the digest of what a verdict depends on beside the samples: the margins, and what this version
    makes of them; see `later_rules`.
    """
    return sha256_json({"rules": RULES_VERSION, "gates": shown(gates)})


def later_rules(
    gates: GatesSpec,
    objective: str,
    scores: Iterable[Mapping[str, Any]],
    largest: int | None = None,
) -> dict[str, int]:
    """Return the rules that judge otherwise than under RULES_VERSION, each with its version, where they act:
    a verdict depends on them too. `scores`: those of the base, as its evaluation's figures have them.
    `largest`: see `with_largest`.
    """
    losses = any(is_loss(judged_metric(key, metrics, gates)) for key, metrics in _measured(scores).items())
    facts = is_of_facts(objective) and gates.task_margin
    return {
        **({"facts": 1} if facts else {}),
        **({"loss": 1} if losses else {}),
        **({} if gates.refusals is None else {"refusals": MATCHER}),
        **({} if largest is None else {GROUPS: largest}),
    }


def scores_digest(gates: GatesSpec, scores: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of which values the gates compare, and of how they count. `scores`: of an evaluation,
    as its figures have them. A metric that is declared and judges the task anyway changes nothing.
    """
    judged = {
        "/".join(key): metric
        for key, metrics in _measured(scores).items()
        if (metric := judged_metric(key, metrics, gates)) != main_metric(metrics)
    }
    return sha256_json({"metrics": judged, "weights": gates.weights, "loss_bound": gates.loss_bound})


def _measured(scores: Iterable[Mapping[str, Any]]) -> dict[TaskKey, list[str]]:
    """Return the metrics by task, of those that are judged."""
    tasks: dict[TaskKey, list[str]] = {}
    for score in scores:
        if score["role"] in RULE_OF:
            tasks.setdefault((score["role"], score["task"]), []).append(score["metric"])
    return tasks


def with_largest(gates: GatesSpec, rules: Mapping[str, int] | None) -> GatesSpec:
    """Return the gates by which answers are judged where the largest group of all rows is known: it is among
    the `later_rules` of their key, with the number of its questions. A larger one may be declared.
    """
    known = (rules or {}).get(GROUPS)
    if known is None:
        return gates
    return gates.model_copy(update={"largest_group": max(known, gates.largest_group or 1)})


def is_of_facts(objective: str) -> bool:
    """Say whether a model is to know facts: none may be measured to fall, whatever `gates.task_margin` is."""
    return objective_of(objective).judged_by == "questions"


@dataclass(frozen=True)
class Opponent:
    """Says against what a model of this objective is judged: its base, the version in production, or the
    reference, after which it would be release number `release`.
    """

    objective: str = DEFAULT
    against: Against = "base"
    release: int = 1

    def level(self, gates: GatesSpec, tries: int) -> float:
        """Return the level of each rule in this try."""
        if self.against == "reference":
            return level_after_reference(gates.alpha, self.release, tries)
        return level_of(gates.alpha, tries)

    def allowed(self, key: TaskKey, metric: str, gates: GatesSpec) -> Allowed | None:
        """Return by how much a task may fall in this metric; None: it is not judged."""
        name, loss = RULE_OF[key[0]], is_loss(metric)
        margin = {
            "task": self._of_task(gates, loss=loss),
            "general_benchmark": gates.general_margin,
            "general_loss": gates.general_loss_margin,
            "degeneration": gates.degeneration_margin,
            "refusals": _of_refusals(gates, key[1]),
        }[name]
        tail = gates.loss_tail if loss else None
        if self.against == "reference":  # 32 prompts decide nothing at its level
            margin = (
                None if name in ("degeneration", "refusals") else gates.after_reference(margin, loss=loss)
            )
            tail = gates.tail_after_reference if loss else None
        if margin is None:
            return None
        facts = name == "task" and self.against == "base" and is_of_facts(self.objective)
        return Allowed(margin, 0.0 if facts and not loss else margin, tail)

    def decides(self, paired: Paired, gates: GatesSpec, level: float) -> bool:
        """Say whether so many questions could show that nothing fell."""
        allowed = self.allowed((paired.role, paired.task), paired.metric, gates)
        if allowed is None or paired.bound is None:
            return False
        return len(paired.asked) >= allowed.least(paired.bound, level)

    def _of_task(self, gates: GatesSpec, *, loss: bool) -> float | None:
        if self.against == "base":
            return gates.task_margin
        return gates.regression_loss_margin if loss else gates.regression_margin


BASE = Opponent()


def _of_refusals(gates: GatesSpec, kind: str) -> float | None:
    if gates.refusals is None:
        return None
    return gates.refusals.margin if kind == "must_refuse" else gates.refusals.over_margin
