"""Holds the verdict of the gate on one set of weights: what crosses rooms, and how it is stored.

`gate.gates` derives it; the release log, the card and the reports read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ft_dagster.schema_version import refuse_newer

# 6 has no `groups`; 5 no `parts`; 4 neither `tail` nor `counted`; 3 nothing asked batch after batch, too
SCHEMA_VERSION = 7
_IN_BATCHES = ("there", "look")  # of a rule that was asked batch after batch
Outcome = Literal["pass", "fail", "undecided"]
RuleName = Literal[
    "task",
    "general_benchmark",
    "general_loss",
    "degeneration",
    "regurgitation",
    "refusals",
    "membership",
    "regression",
    "reference",
]


@dataclass(frozen=True)
class Tail:
    """Counts how many of the texts of a loss rise by more than 2 nats; of groups (documents), how many have
    such a text.

    `share`: as measured; `high`: what the share is shown to be below, at the level of the rule; `allowed`: by
    `gates.loss_tail`; `harm`: one-sided p that no more than that rise.
    """

    share: float
    high: float
    allowed: float
    harm: float

    @property
    def shown(self) -> bool:
        """Say whether fewer than are allowed are shown to rise by more."""
        return self.high < self.allowed


@dataclass(frozen=True)
class Groups:
    """Says how groups of unlike size count. `weights`: each question alike (`size`), or each group (`group`).

    `largest`: questions of the largest, as many as the added worst group has by size. `least`: of groups of
    these sizes, the number from which on the rule can pass at all (None: it is as of single questions).
    """

    weights: Literal["size", "group"]
    largest: int
    least: int | None = None


@dataclass(frozen=True)
class Part:
    """Compares base and tuned model by another metric of the same answers, on those `questions` that have it:
    means, and the `interval` of the difference (at the confidence of the rule). Nothing is decided by it.
    """

    metric: str
    base: float
    tuned: float
    interval: tuple[float, float]
    questions: int


@dataclass(frozen=True)
class Rule:
    """Judges one task by one rule. `difference` = tuned - base, in the metric's unit (a share, or nats a
    token).

    `interval`: at `confidence` = 1 - 2 level, of the difference with each question's counted up to `bound`;
    `counted`: that difference, where some question's is larger (None: it is `difference`, or not known).
    `margin`: the largest worsening that passes. `p`: of no fall (None: the rule is no test); `harm`: the same
    after Holm. `seen`: the smallest fall that so many questions show with power 0.8. `needed`: about how many
    would decide an undecided rule. `outcome`: what was found; `passed`: what is enforced (see
    `gates.undecided`). `what`: the rule's object in words. `units`: the independent groups of its questions
    (None: not known, of an older verdict). `within`: whether the measured change is within the margin.
    `blocked`: why the rule cannot pass, whatever was measured; empty where it can. A value that is not a
    number (a loss that overflowed) never passes.

    `tail`: of a loss alone; both this and the mean have to hold (None: none is judged, or by an older rule).

    `groups`: how they count, where they are of unlike size and that acts.

    `parts`: what the metric comes to by others, where it is made of several (calls of tools).

    Of a rule that was asked batch after batch: `there`, how many questions it has; `look`, at which of its
    looks it was decided, and how many it has. All figures are of that look; p is over all until it.
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
    outcome: Outcome
    confidence: float
    harm: float
    seen: float
    needed: int | None
    what: str = ""
    p: float | None = None
    units: int | None = None
    bound: float | None = None
    counted: float | None = None
    within: bool = False
    blocked: str = ""
    there: int | None = None
    look: tuple[int, int] | None = None
    tail: Tail | None = None
    groups: Groups | None = None
    parts: tuple[Part, ...] = ()

    @property
    def estimate(self) -> float:
        """Return the value that `interval` is of."""
        return self.difference if self.counted is None else self.counted

    @property
    def level(self) -> float:
        """Return the level of the test, or of its look: how often chance alone lets a fall as large as the
        margin pass.
        """
        return (1 - self.confidence) / 2

    @property
    def unfinished(self) -> bool:
        """Say whether it is undecided, and questions are left that may decide it."""
        return self.outcome == "undecided" and self.look is not None and self.look[0] < self.look[1]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; a figure that is not a finite number becomes null."""
        content = {name: _plain(value) for name, value in asdict(self).items()}
        later = {
            *(_IN_BATCHES if self.there is None else ()),
            *(name for name in ("tail", "counted", "groups") if getattr(self, name) is None),
            *(() if self.parts else ("parts",)),
        }
        content = {name: value for name, value in content.items() if name not in later}  # as once written
        return content | {"interval": [_plain(bound) for bound in self.interval]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Rule:
        """Read a rule of any schema: the first had no more than pass and fail, 95% intervals, and neither p
        nor power; the second no unadjusted p.
        """
        first = {"outcome": "pass" if content["passed"] else "fail", "confidence": 0.95, "needed": None}
        figures = ("base", "tuned", "difference", "margin", "harm", "seen")
        numbers = {name: _number(content.get(name)) for name in figures}
        low, high = content["interval"]
        look = {"look": tuple(content["look"])} if content.get("look") else {}
        tail = {"tail": Tail(**content["tail"])} if content.get("tail") else {}
        groups = {"groups": Groups(**content["groups"])} if content.get("groups") else {}
        parts = (Part(**{**each, "interval": tuple(each["interval"])}) for each in content.get("parts", ()))
        whole = {"interval": (_number(low), _number(high)), "parts": tuple(parts)}
        return cls(**{**first, **content, **numbers, **look, **tail, **groups, **whole})


@dataclass(frozen=True)
class Verdict:
    """Holds a verdict, passed only if every rule passed. `outcome`: fail if any rule failed, else undecided
    if any was.

    `tries`: the ordinal of this evaluation since the last release. `policy`: digest of what the
    platform allowed when it was derived; None: before there was one.
    """

    passed: bool
    outcome: Outcome
    rules: tuple[Rule, ...]
    tries: int = 1
    policy: str | None = None

    @property
    def broken(self) -> tuple[Rule, ...]:
        """Return the rules that did not pass."""
        return tuple(rule for rule in self.rules if not rule.passed)

    @property
    def failures(self) -> str:
        """Return the sentences of the rules that did not pass; empty where all did."""
        return "; ".join(rule.sentence for rule in self.broken)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": _schema_version(self.rules),
            "passed": self.passed,
            "outcome": self.outcome,
            "tries": self.tries,
            "rules": [rule.to_json() for rule in self.rules],
            **({} if self.policy is None else {"policy": self.policy}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> Verdict:
        """Read what `to_json` wrote, now or in an older schema. UserError, naming `file`, for a newer one."""
        refuse_newer(content.get("schema_version", 0), SCHEMA_VERSION, file=file)
        passed = bool(content["passed"])
        rules = tuple(Rule.from_json(rule) for rule in content.get("rules", ()))
        outcome = content.get("outcome", "pass" if passed else "fail")
        return cls(passed, outcome, rules, content.get("tries", 1), content.get("policy"))


def _schema_version(rules: Sequence[Rule]) -> int:
    """Return the first schema that has all that these rules say."""
    if any(rule.groups is not None for rule in rules):
        return SCHEMA_VERSION
    if any(rule.parts for rule in rules):
        return 6
    if any(rule.tail is not None or rule.counted is not None for rule in rules):
        return 5
    return 3 if all(rule.there is None for rule in rules) else 4


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
