"""Decides which method, and why: all methods ranked, each with its figures and every rule that fired or was
outvoted.

Order of reasons: the objective (with the data and new tokens), what fits, the number of variants, budget and
deadline, serving. An earlier reason outvotes a later one: more variants or less money never turn a knowledge
objective into one that an adapter serves. Nothing that does not fit is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS, method_of
from ft_dagster.planning.methods.cautions import cautions
from ft_dagster.planning.methods.question import (
    Candidate,
    Figures,
    Question,
    figures_of,
    shown_epochs,
)
from ft_dagster.planning.methods.rules import FULL_WINS, MATCHES_FULL, Verdict, Vote, votes
from ft_dagster.program import of_hours


@dataclass(frozen=True)
class MethodRule:
    """Says what a rule found of a method. `outvoted_by`: the rule that counted more, where this one lost."""

    rule: str
    verdict: Verdict
    sentence: str
    outvoted_by: str | None = None


@dataclass(frozen=True)
class RankedMethod:
    """Says one method's place in the ranking."""

    figures: Figures
    rules: tuple[MethodRule, ...]
    warnings: tuple[str, ...]

    @property
    def method(self) -> str:
        return self.figures.candidate.method

    @property
    def fits(self) -> bool:
        return self.figures.candidate.fits


@dataclass(frozen=True)
class Decision:
    """Holds a decision. `recommended`: the top one that fits, None where nothing does. `method`: what is
    trained, which is the declared one where one is declared. `bake_off`: nobody can say beforehand.
    """

    method: str | None
    recommended: str | None
    ranking: tuple[RankedMethod, ...]
    bake_off: bool
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Say whether what is to be trained can be."""
        return self.method is not None and self.row(self.method).fits

    def row(self, method: str) -> RankedMethod:
        return next(row for row in self.ranking if row.method == method)


def decide(question: Question, candidates: Iterable[Candidate]) -> Decision:
    """Rank the candidates, one for each method. Raises UserError where the declared one is not among them."""
    given = list(candidates)
    _check(question, given)
    all_figures = {candidate.method: figures_of(question, candidate) for candidate in given}
    cast = {
        name: votes(question, figures, all_figures.get(_plain(name))) for name, figures in all_figures.items()
    }
    order = sorted(cast, key=lambda name: [vote.tier for vote in cast[name]])
    best = order[0]
    ranking = tuple(
        RankedMethod(all_figures[name], _rules(name, best, cast), cautions(question, all_figures[name]))
        for name in order
    )
    recommended = best if all_figures[best].candidate.fits else None
    unsure = MATCHES_FULL <= question.examples <= FULL_WINS and not question.teaches_facts
    method = question.method or recommended
    notes = _notes(question, ranking, cast, recommended, unsure)
    return Decision(method, recommended, ranking, unsure, notes)


def _plain(name: str) -> str:
    """Return the unquantized counterpart of a method above a quantized base; else the method itself."""
    quantized = method_of(name).quantized
    return quantized.plain if quantized else name


def _check(question: Question, given: list[Candidate]) -> None:
    names = [candidate.method for candidate in given]
    if not names or len(set(names)) != len(names) or not set(names) <= set(METHODS):
        raise ValueError(f"one candidate for each method, not {names}")
    memory = question.hardware.memory_bytes
    for candidate in given:
        if memory is not None and candidate.fits and candidate.memory_bytes > memory:
            raise ValueError(f"{candidate.method} is said to fit {memory} bytes and needs more")
    if question.method is not None and question.method not in names:
        raise UserError(
            "this method was not planned", field="method", value=question.method, fix=f"Take {names[0]}"
        )


def _rules(name: str, best: str, cast: dict[str, tuple[Vote, ...]]) -> tuple[MethodRule, ...]:
    """Return the votes on `name`, with the rule that outvoted each vote that lost.

    A vote lost if it liked `name` better than the best, or, for the best, liked another one better.
    """
    rules = []
    for place, vote in enumerate(cast[name]):
        others_ranked = [best] if name != best else [other for other in cast if other != best]
        by = None
        for ranked in others_ranked:
            winner, loser = (best, name) if name != best else (best, ranked)
            liked = cast[loser][place].tier < cast[winner][place].tier
            heard = vote.verdict == ("for" if name != best else "against")
            if liked and heard:
                by = by or _deciding(cast[winner], cast[loser])
        rules.append(MethodRule(vote.rule, vote.verdict, vote.sentence, by))
    return tuple(rules)


def _deciding(winner: tuple[Vote, ...], loser: tuple[Vote, ...]) -> str | None:
    """Return the first rule that liked `winner` better."""
    return next((a.rule for a, b in zip(winner, loser, strict=True) if a.tier < b.tier), None)


def _notes(
    question: Question,
    ranking: tuple[RankedMethod, ...],
    cast: dict[str, tuple[Vote, ...]],
    recommended: str | None,
    unsure: bool,
) -> tuple[str, ...]:
    notes = []
    if recommended is None:
        nearest = min(ranking, key=lambda row: row.figures.candidate.memory_bytes)
        notes.append(
            f"nothing fits {question.hardware}: {nearest.method} needs least, "
            f"{nearest.figures.candidate.memory_bytes / 1e9:,.1f} GB"
        )
    if unsure:
        notes.append(
            f"{question.examples:,} examples, 1M to 10M: nobody can say beforehand whether full or lora is "
            "better; run `ft-dagster bakeoff` on a share of them, at equal FLOPs"
        )
    if question.method is not None and recommended is not None and question.method != recommended:
        notes.append(_difference(question.method, ranking, cast))
    notes += _limits(ranking, recommended)
    if shared := _shared_base(question, ranking):
        notes.append(shared)
    if question.questions is None:
        notes.append(
            "time and cost are not known: evaluation.limit is null, and nobody counted yet how many "
            "questions there are"
        )
    elif question.beside:
        beside = ", ".join(f"{asked:,} {what}" for what, asked in question.beside.items())
        notes.append(
            f"the evaluation is taken to ask {question.questions:,} questions, of these beside its tasks: "
            f"{beside}"
        )
    epochs = ", ".join(f"{row.method} {shown_epochs(row.figures.epochs)}" for row in ranking)
    notes.append(
        f"time and cost are of each method's own epochs ({epochs}); compare quality at equal FLOPs or equal "
        "time, not at equal epochs"
    )
    return tuple(notes)


def _difference(declared: str, ranking: tuple[RankedMethod, ...], cast: dict[str, tuple[Vote, ...]]) -> str:
    """Say what obeying the declaration costs against the top one."""
    best = ranking[0]
    own = next(row for row in ranking if row.method == declared)
    rule = _deciding(cast[best.method], cast[declared])
    why = next(vote.sentence for vote in cast[declared] if vote.rule == rule)
    said = f"{declared} is declared and obeyed; {best.method} ranks first by {rule}: {why}"
    memory = (row.figures.candidate.memory_bytes / 1e9 for row in (own, best))
    said += "; memory a device {:,.1f} GB against {:,.1f}".format(*memory)
    if own.figures.usd is not None and best.figures.usd is not None:
        said += f"; ${own.figures.usd:,.2f} against ${best.figures.usd:,.2f}"
    if own.figures.hours is not None and best.figures.hours is not None:
        said += f"; {of_hours(own.figures.hours)} against {of_hours(best.figures.hours)} to train and judge"
    return said


def _shared_base(question: Question, ranking: tuple[RankedMethod, ...]) -> str | None:
    """Say what variants that train beside each other save: on a CPU an adapter's base is read from its file,
    of whose pages the host holds one copy.
    """
    name = question.method or ranking[0].method
    frozen = next(row for row in ranking if row.method == name).figures.candidate.frozen_bytes
    as_stored = frozen is None or math.isclose(frozen, question.stored_bytes, rel_tol=0.1)
    known = method_of(name)
    mapped = known.trains == "layers" and known.quantized is None and as_stored
    if question.hardware.kind != "cpu" or question.variants == 1 or not mapped:
        return None
    size = question.stored_bytes / 1e9
    return (
        f"{question.variants} variants on this base: those that train at once hold its {size:,.1f} GB once, "
        f"{size:,.1f} GB less for each but the first"
    )


def _limits(ranking: tuple[RankedMethod, ...], recommended: str | None) -> list[str]:
    """Say what exceeds budget or deadline although it is recommended, and who keeps within."""
    notes = []
    for limit in ("budget", "deadline"):
        against = {row.method: rule for row in ranking for rule in row.rules if _over(row, rule, limit)}
        if recommended not in against:
            continue
        within = [row.method for row in ranking if row.fits and row.method not in against]
        who = f"within it: {', '.join(within)}" if within else "and so is every method that fits"
        notes.append(f"{recommended} is beyond the {limit}: {against[recommended].sentence}; {who}")
    return notes


def _over(row: RankedMethod, rule: MethodRule, limit: str) -> bool:
    return row.fits and rule.rule == limit and rule.verdict == "against"
