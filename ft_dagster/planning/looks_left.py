"""Computes what the next look at a variant takes, and how many looks are left before no question decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ft_dagster.gate.level import level_of
from ft_dagster.gate.power import (
    DISCORDANT,
    POWER,
    DeclaredRule,
    PairedTest,
    SinceReference,
    declared_rules,
    least_questions,
    rules_since_reference,
)
from ft_dagster.lineage.reserves import Reserve
from ft_dagster.spec.variant import VariantSpec

RESERVE = "reserve"  # of an evaluation's figures: which set of the test split was asked
ASKED_BEFORE = "rows of which were asked before: fresh are those alone that were added since"
MOST_SHOWN = 1000  # looks that are counted
NO_REFERENCE = SinceReference()


@dataclass(frozen=True)
class RuleLook:
    """Says of one rule what the next look takes. `there`: questions that it can be put to; `least`: below
    which nothing passes, `needed`: by which a model that lost nothing passes with the power of the formula in
    docs/gates-statistics.md (None: of a loss, and of what must get better); `left`: looks, the next among
    them, at which `there` are enough to pass. `of`: the rule that is asked the same, where it compares
    versions. `shown`: the least margin for which `there` are enough, None: they are for none.
    """

    rule: str
    field: str
    margin: float
    there: int
    least: int
    needed: int | None
    left: int
    of: str | None = None
    shown: float | None = None

    @property
    def missing(self) -> int:
        """Return how many questions more this look needs."""
        return max(0, (self.needed or self.least) - self.there)


@dataclass(frozen=True)
class NextLook:
    """Describes the next evaluation of a variant. `number`: which try it is since the last release; `level`:
    of each rule; `left`: see `RuleLook`, of the rule with the fewest, None where no number is known;
    `reserve`: the set of the test split that it is put to, where that is dealt into sets.
    """

    number: int
    level: float
    rules: tuple[RuleLook, ...]
    reserve: Reserve | None = None

    @property
    def left(self) -> int | None:
        return min((rule.left for rule in self.rules), default=None)

    def to_json(self) -> dict[str, object]:
        rules = [{**asdict(rule), "missing": rule.missing} for rule in self.rules]
        found: dict[str, Any] = {
            "try": self.number,
            "level": self.level,
            "looks_left": self.left,
            "rules": rules,
        }
        if self.reserve is not None:
            found |= {RESERVE: self.reserve.words}
        return found


def next_look(
    spec: VariantSpec,
    number: int,
    known: Mapping[str, int],
    there: Mapping[str, int] | None = None,
    *,
    successor: bool,
    release: SinceReference = NO_REFERENCE,
    reserve: Reserve | None = None,
) -> NextLook:
    """Return the look that is try `number`. `known`, `there`: see `power.hopeless_gates`; `successor`: a
    version is in production, which it will be held against; `release`: what it would be after the
    references that it will be held against; `reserve`: see `NextLook`.
    """
    alpha, rules = spec.gates.alpha, declared_rules(spec.gates, spec.evaluation, spec.data.held_out)
    acting = {"general_loss": spec.data.general is not None, "regression": successor}
    own = [(rule, alpha) for rule in rules if acting.get(rule.name, True)]
    since = rules_since_reference([rule for rule, _ in own], spec.gates, release)
    own += [(rule, level_of(alpha, after.release)) for rule, after in since]
    found = [
        RuleLook(
            rule.name,
            f"gates.{rule.field}",
            rule.margin,
            asked,
            least_questions(rule.margin, bound=rule.bound, alpha=level_of(shared, number)),
            _needed(rule, level_of(shared, number)),
            max(0, last_try(asked, rule.margin, bound=rule.bound, alpha=shared) - number + 1),
            rule.of,
            _margin_shown(rule, asked, level_of(shared, number)),
        )
        for rule, shared in own
        for asked in _asked(rule, known, there or {})
    ]
    return NextLook(number, level_of(alpha, number), tuple(found), reserve)


def last_try(questions: int, margin: float, *, bound: float = 1.0, alpha: float) -> int:
    """Return the last try at which so many questions can pass at all; 0: none."""
    tries = 0
    while tries < MOST_SHOWN and questions >= least_questions(
        margin, bound=bound, alpha=level_of(alpha, tries + 1)
    ):
        tries += 1
    return tries


def _asked(rule: DeclaredRule, known: Mapping[str, int], there: Mapping[str, int]) -> Iterator[int]:
    """Yield the number of questions of a rule; of a benchmark the smallest of its tasks'."""
    counts = [there[entry] for entry in rule.entries if entry in there]
    asked = rule.asked_of(known)
    if asked is not None or counts:
        yield min([*counts, *([] if asked is None else [asked])])


def _needed(rule: DeclaredRule, level: float) -> int | None:
    if not _is_paired(rule):
        return None
    return PairedTest(alpha=level).questions_needed(rule.margin)


def _is_paired(rule: DeclaredRule) -> bool:
    return bool(rule.margin) and rule.bound == 1.0 and not rule.field.endswith("loss_tail")


def _margin_shown(rule: DeclaredRule, questions: int, level: float) -> float | None:
    """Return the least margin, in hundredths, for which so many questions are enough; None: there is none."""
    if not rule.margin or not questions:
        return None
    paired = PairedTest(alpha=level)
    seen = paired.margin_seen(questions) if _is_paired(rule) else rule.bound * (1 - level ** (1 / questions))
    margin = math.ceil(100 * seen) / 100
    return margin if margin < 1 else None


def look_lines(look: NextLook, spec: VariantSpec) -> tuple[str, ...]:
    """Say in sentences which try the next look is, how many are left, what it needs and what there is, and
    how many rows to add where these are too few.
    """
    if look.left is None:
        left = "how many tries are left is known once the rows are split"
    elif not look.left:
        rule = min(look.rules, key=lambda each: each.left)
        takes = f"{rule.there:,} questions cannot decide {rule.field}, which takes {rule.least:,}"
        left = f"no try is left: {takes}"
        if spec.gates.undecided == "measured":
            left += ", and what is undecided passes as it was measured (gates.undecided)"
    else:
        few = f"{look.left:,} {'try' if look.left == 1 else 'tries'}"
        more = "1,000 or more tries" if look.left >= MOST_SHOWN else few
        left = f"with the questions there are, {more} can decide, this one among them"
    level = f"{100 * look.level:.2g}%"
    first = f"the next evaluation is try {look.number} since the last release, at a level of {level}"
    needed = [_takes(rule) for rule in look.rules if rule.margin]
    needs = f"of questions it needs {'; '.join(needed)}"
    if any(rule.needed for rule in look.rules):
        unlike = f"{DISCORDANT:.0%} of the answers differing"
        needs += f" (for a model that lost nothing to pass in {POWER:.0%} of cases, {unlike})"
    dealt = [] if look.reserve is None else [reserve_sentence(look.reserve)]
    return (f"{first}; {left}", *dealt, *([needs] if needed else []), *_rows_to_add(look, spec))


def short_lines(look: NextLook, spec: VariantSpec) -> tuple[str, ...]:
    """Say of `look_lines` which try the next look is and how many are left, which set of the test split it
    asks, and where none is left, how one comes back.
    """
    lines, dealt = look_lines(look, spec), look.reserve is not None
    way_out = () if look.left != 0 else tuple(_rows_to_add(look, spec))
    return (*lines[: 1 + dealt], *way_out)


def asked_of_reserve(figures: Mapping[str, Any]) -> str:
    """Say which set of the test split an evaluation asked, by its figures, and whether it was fresh; nothing
    where that is whole.
    """
    dealt = figures.get(RESERVE)
    if not dealt:
        return ""
    before = "" if dealt.get("fresh", True) else f", {ASKED_BEFORE}"
    left = f"{dealt['left']} {'is' if dealt['left'] == 1 else 'are'} unused"
    return f"set {dealt['set']} of {dealt['sets']} of the test split was asked{before}; {left}"


def reserve_sentence(reserve: Reserve) -> str:
    """Say which set of the test split is asked, whether it is fresh, and how many are left."""
    which = f"set {reserve.part} of {reserve.sets} of the test split is asked"
    others = f"{reserve.left} more {'is' if reserve.left == 1 else 'are'} unused"
    if not reserve.fresh:
        rest = others if reserve.left else "no other is unused: put new rows in place of the old ones"
        return f"{which}, {ASKED_BEFORE}; {rest} (evaluation.reserve)"
    return f"{which}; {others if reserve.left else 'it is the last that is unused'} (evaluation.reserve)"


def _takes(rule: RuleLook) -> str:
    needed = f"at least {rule.least:,}" if rule.needed is None else f"{rule.needed:,}"
    shared = rule.rule == "reference" or rule.field.endswith("loss_tail")  # several rules have the field
    of = f" ({rule.of or rule.rule})" if shared else ""
    enough = f", enough from {rule.shown:g} on" if rule.missing and rule.shown is not None else ""
    return f"{needed} for {rule.field}{of}, and there are {rule.there:,}{enough}"


def _rows_to_add(look: NextLook, spec: VariantSpec) -> Iterator[str]:
    """Yield how many rows would give the own rules what they lack, or the limit that keeps it from them."""
    share, most = spec.data.splits.test, spec.evaluation.most
    own = [rule for rule in look.rules if "task" in (rule.rule, rule.of) and rule.missing]
    if spec.evaluation.task or not share or not own:
        return
    worst = max(own, key=lambda rule: rule.missing)
    if most is not None and worst.there >= most:
        needed = worst.there + worst.missing
        yield f"evaluation.limit of {most:,} is too small: {worst.field} needs {needed:,}"
        return
    sets = spec.evaluation.sets
    rows, each = math.ceil(sets * worst.missing / share), f" in each of {sets} sets" if sets > 1 else ""
    yield (
        f"some {rows:,} more rows would give {worst.field} the {worst.missing:,} test rows it lacks{each} "
        f"({100 * share:.3g}% of the rows are test rows)"
    )
