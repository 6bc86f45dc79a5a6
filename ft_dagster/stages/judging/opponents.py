"""Holds new weights against the versions before them: the one in production, and the references.

One way for all of them: by stored answers where both were asked alike, else the version is asked today's
questions, under a lease of its own; and where questions are asked batch after batch, both are asked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.evaluation.own_checks import as_called
from ft_dagster.gate.gates import Since, descent, regression
from ft_dagster.gate.judged_by import with_largest
from ft_dagster.gate.samples import Sample, read_samples
from ft_dagster.gate.sequential_looks import Order
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import made_in, released_evaluation
from ft_dagster.lineage.release import history
from ft_dagster.lineage.served import served_in
from ft_dagster.lineage.verdict import Rule
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import GatesSpec
from ft_dagster.stage_entries import BASE_EVALUATION, FINE_TUNED_MODEL, PRODUCTION_EVALUATION
from ft_dagster.stages import candidate_evaluation, production_evaluation
from ft_dagster.stages.evaluation import own_of, tries_of
from ft_dagster.stages.judging.declared_now import DeclaredWorkspace
from ft_dagster.stages.judging.verdicts import BY_BASE, HOW, PARTS, asked_alike, asked_by_its_rules
from ft_dagster.store import Artifact, find_artifact
from ft_dagster.store.removal import keep
from ft_dagster.workspace.past import ProductionGone, Released
from ft_dagster.workspace.questions import own_checks
from ft_dagster.workspace.references import ROLE, Reference, references
from ft_dagster.workspace.stage_version import is_of_now
from ft_dagster.workspace.workspace import Workspace

WHICH = (
    "task",
    "general",
    "limit",
    "seed",
    "probed_rows",
    "canaries",
)  # questions, and not how they are asked
WHICH_PARTS = (
    *("task.test", "task.train", "task.part", "task.members", "task.others", "task.mixed_rows"),
    *("task.planted", "task.left_out", "general.general_holdout", "general.left_out"),
)
WAY_OUT = (
    "restore it from a backup, ask some of the questions again that it was asked, or let gates.reference "
    "name a later version (gates.reference in policy.yaml)"
)


class Predecessor(NamedTuple):
    """Names the release in production that new weights are to be held against; None where they are held
    against none, and then why. `log`: that says what is in production (None: it was not asked).
    """

    entry: ReleaseEntry | None
    why_none: str = ""
    log: list[ReleaseEntry] | None = None


class Held(NamedTuple):
    """Says how new weights hold against the versions before: the one in production (`against`) and the
    `references`. The rules, the answers that decided them beside the evaluation's, and why they could not be
    held against production, where they could not.
    """

    against: Predecessor
    rules: tuple[Rule, ...] = ()
    answers: tuple[Artifact, ...] = ()
    unmeasured: str | None = None
    references: tuple[Reference, ...] = ()

    @property
    def nothing(self) -> bool:
        """Say whether there is no version to be held against."""
        return self.against.entry is None and not self.references

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """Return the name of each version that it is held against, and as what in words."""
        entry = self.against.entry
        standing = [] if entry is None else [(f"version {entry.version}", "which is in production")]
        weights = None if entry is None else entry.weights
        since = [(one.short, ROLE) for one in self.references if one.released.entry.weights != weights]
        return (*standing, *since)


class _Found(NamedTuple):
    """Holds the rules of one comparison, and the answers that decided them."""

    rules: tuple[Rule, ...]
    answers: tuple[Artifact, ...]


def opponents(workspace: Workspace, tuned: Artifact) -> Held:
    """Find what new weights are to be held against by the declaration of this workspace; nothing is judged
    yet.
    """
    against = _predecessor(workspace, tuned)
    standing = None if against.log is None else served_in(against.log)
    served = standing is not None and standing.weights == tuned.digest
    return Held(against, references=() if served else references(workspace, tuned))


def against_versions(workspace: DeclaredWorkspace, tuned: Artifact, evaluation: Artifact) -> Held:
    """Compare new weights with the versions before, all on today's questions; no rules at the first release.

    Derived here and kept in no key: production is another one tomorrow. The release logs name the versions
    before, and so from which evaluations the rules can be derived again.
    """
    held, desk = opponents(workspace, tuned), _Desk(workspace, evaluation)
    standing, rules, answers = held.against.entry, list[Rule](), dict[object, Artifact]()
    if standing is not None:
        try:
            found = desk.against(Released(workspace.prefix, standing))
        except ProductionGone as gone:
            held = held._replace(unmeasured=gone.problem)
        else:
            rules, answers = [*found.rules], {each.place: each for each in found.answers}
    asked_on = tuple(answers.values())
    for reference in held.references:
        same = standing is not None and standing.weights == reference.released.entry.weights
        found = desk.since(reference, asked_on if same else ())
        rules += _not_said(found.rules, rules, held.unmeasured) if same else found.rules
        for each in found.answers:
            answers.setdefault(each.place, each)  # the first says whether it was asked now
    return held._replace(rules=tuple(rules), answers=tuple(answers.values()))


def _predecessor(workspace: Workspace, tuned: Artifact) -> Predecessor:
    gates = workspace.spec.gates
    if gates.regression_margin is None and not gates.has_reference:
        return Predecessor(None, "gates.regression_margin is null, so versions are not compared")
    log = history(workspace.store, workspace.prefix)
    standing = served_in(log)
    if standing is None:
        return Predecessor(None, "nothing is in production", log)
    if standing.weights == tuned.digest:
        return Predecessor(None, f"these weights are in production, as version {standing.version}", log)
    if gates.regression_margin is None:
        return Predecessor(None, "gates.regression_margin is null, so it is held against the reference", log)
    return Predecessor(standing, log=log)


def _not_said(since: Iterable[Rule], against: Sequence[Rule], unmeasured: str | None) -> list[Rule]:
    """Return what the comparison with the reference says beyond the one with production, where they are the
    same weights: that it does not pass where the other does. Where that is `unmeasured`, on which an approver
    decides, a fall alone.
    """
    if unmeasured:
        return [rule for rule in since if rule.outcome == "fail"]
    refused = {rule.task for rule in against if not rule.passed}
    return [rule for rule in since if not rule.passed and rule.task not in refused]


Judge = Callable[[Sequence[Sample], Sequence[Sample], Order | None], tuple[Rule, ...]]


@dataclass(frozen=True)
class _Desk:
    """Holds the answers of new weights, an `evaluation`, beside those of versions before."""

    workspace: DeclaredWorkspace
    evaluation: Artifact

    def against(self, released: Released) -> _Found:
        """Compare with the version in production. Raises ProductionGone."""

        def judge(old: Sequence[Sample], new: Sequence[Sample], order: Order | None) -> tuple[Rule, ...]:
            version = released.entry.version
            return regression(old, new, self._gates, version=version, tries=tries, order=order, own=own)

        tries, own = tries_of(self.evaluation), own_of(self.evaluation)
        return self._compared(judge, released, [self._asked(released)], None)

    def since(self, reference: Reference, asked_on: Sequence[Artifact] = ()) -> _Found:
        """Compare with a reference: where it can no longer be asked, by the answers of it that are kept.
        `asked_on`: the answers by which the same weights were compared before, in production.
        """
        released, gone, asked = reference.released, "", list[Artifact]()
        try:
            asked = [self._asked(released)]
        except ProductionGone as error:
            gone = f"{error.problem}; {WAY_OUT}"
        if gone or not reference.whole:
            asked += [one for one in self._kept(released) if one.place not in {each.place for each in asked}]

        since = Since(reference.named, reference.release, reference.whole, gone)

        def judge(old: Sequence[Sample], new: Sequence[Sample], order: Order | None) -> tuple[Rule, ...]:
            return descent(old, new, self._gates, since, tries=tries, order=order, own=own)

        tries, own = tries_of(self.evaluation), own_of(self.evaluation)
        if len(asked_on) > 1:
            rules = judge(self._samples(asked_on[:1]), self._samples(asked_on[1:2]), self._order)
            if not any(rule.unfinished for rule in rules):
                return _Found(self._called(rules), tuple(asked_on))
        return self._compared(judge, released, asked, reference.release, ask_on=not gone)

    def _called(self, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return as_called(rules, own_checks(self.workspace.context, self._spec.evaluation))

    def _compared(
        self,
        judge: Judge,
        released: Released,
        before: Sequence[Artifact],
        release: int | None,
        *,
        ask_on: bool = True,
    ) -> _Found:
        """Judge by the answers of a version `before`; both are asked on where that decides."""
        make, answers = self.workspace.make, tuple(before)
        rules = judge(self._samples(before), self._samples([self.evaluation]), self._order)
        if ask_on and any(rule.unfinished for rule in rules):
            asked = make(production_evaluation.asking(released))
            after = make(candidate_evaluation.asking(released, release))
            kept = [each for each in before[1:] if each.place != asked.place]
            new = [after] if released.prefix == self.workspace.prefix else [after, self.evaluation]
            rules = judge(self._samples([asked, *kept]), self._samples(new), self._order)
            answers = (asked, after, *kept)
        return _Found(self._called(rules), answers)

    def _asked(self, released: Released) -> Artifact:
        """Return a version's answers to today's questions. Raises ProductionGone where it has none, and can
        no longer be asked.
        """
        workspace = self.workspace
        before = released_evaluation(workspace.store, released.prefix, released.entry)
        parts = PARTS if released.prefix == workspace.prefix else ("general.",)
        alike = before is not None and asked_alike(before, self.evaluation, parts)
        if before is not None and alike and asked_by_its_rules(workspace, before):
            return before
        return workspace.make(production_evaluation.asking(released))

    def _kept(self, released: Released) -> Iterator[Artifact]:
        """Yield the answers of a version that stand, as they are scored today; what is damaged is left
        out.
        """
        workspace, entry = self.workspace, released.entry
        store, made = workspace.store, {FINE_TUNED_MODEL.name: entry.weights}
        judged = released_evaluation(store, released.prefix, entry)
        prefixes = dict.fromkeys((released.prefix, workspace.prefix))
        again = chain.from_iterable(made_in(store, p, PRODUCTION_EVALUATION.name, made) for p in prefixes)
        for each in (*([] if judged is None else [judged]), *again):
            with suppress(UserError):
                found = find_artifact(store, each.place) if is_of_now(each) else None
                if found is not None and (workspace.looking or keep(store, found)):
                    workspace.verify(found)
                    yield found

    def _samples(self, answers: Iterable[Artifact]) -> list[Sample]:
        """Return the samples that were asked as today, each question once: of the first that has it."""
        found = dict[tuple[object, ...], Sample]()
        for each in answers:
            self.workspace.verify(each)
            parts = [part for part in PARTS if _asked_so(each, self.evaluation, part)]
            for sample in read_samples(self.workspace.payload(each)):
                if _part_of(sample) in parts:
                    found.setdefault(sample[:4], sample)
        return list(found.values())

    @cached_property
    def _order(self) -> Order | None:
        if self._spec.evaluation.limit != "auto":
            return None
        base = self.workspace.upstream(BASE_EVALUATION.name)
        self.workspace.verify(base)
        return Order.of(read_samples(self.workspace.payload(base)), self._spec.evaluation.seed)

    @property
    def _gates(self) -> GatesSpec:
        return with_largest(self._spec.gates, self.evaluation.spec.get("rules"))

    @property
    def _spec(self) -> VariantSpec:
        return self.workspace.spec


def _part_of(sample: Sample) -> str:
    return "general." if sample.role.startswith("general") else "task."


def _asked_so(one: Artifact, other: Artifact, part: str) -> bool:
    """Say whether what two evaluations both asked of a part was asked and scored in the same way: then their
    answers can be compared, whichever other questions each was asked.
    """
    sides = [{**each.inputs, **each.spec} for each in (one, other)]
    if any(sides[0].get(name) != sides[1].get(name) for name in HOW):
        return False
    tasks = [side.get(f"{part}tasks") or {} for side in sides]
    if any(tasks[0][name] != tasks[1][name] for name in tasks[0].keys() & tasks[1].keys()):
        return False
    left, right = (_how(side, part) for side in sides)
    return left == right


def _how(key: dict[str, Any], part: str) -> dict[str, Any]:
    """Return what the key of an evaluation says of how a part of its questions was asked."""
    others = (*BY_BASE, *WHICH_PARTS, f"{part}tasks", f"{part}spec")
    known = {name: value for name, value in key.items() if name.startswith(part) and name not in others}
    spec = dict(key.get(f"{part}spec") or {})
    asked = {name: value for name, value in spec.pop("evaluation", {}).items() if name not in WHICH}
    return {**known, **spec, "evaluation": asked}
