"""Shows a few answers of base and tuned model side by side: those that became better, and those that became
worse, chosen by a hash of the question and so by nothing that favours a model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ft_dagster.evaluation.own_checks import shown
from ft_dagster.gate.samples import ANSWERS, FORMER, Answer, Role, Sample, read_answers, read_samples
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.report.figures import count, counted
from ft_dagster.report.sentences.result import metric_words

CHANGED = ("change", "asked", "expected", "base", "tuned")
SHOWN = 5  # answers
LONGEST = 240  # characters of a text that are shown
NONE = "(nothing)"
Change = Literal["gained", "lost", "same"]


class ChangedAnswer(NamedTuple):
    """Is one question with both answers; a row for `CHANGED`."""

    change: Change
    asked: str
    expected: str
    base: str
    tuned: str


@dataclass(frozen=True)
class ChangedAnswers:
    """Holds the answers that are shown, and of how many: `metric` says by what an answer is better."""

    metric: str
    gained: int
    lost: int
    same: int
    rows: tuple[ChangedAnswer, ...] = ()
    why_none: str = ""

    @property
    def sentence(self) -> str:
        """Say what changed, how the shown ones were chosen, or why none is shown; ends without a stop."""
        said = (
            f"By {metric_words(self.metric)}, {counted(self.gained, 'answer')} became better, "
            f"{count(self.lost)} became worse and {count(self.same)} stayed as good"
        )
        if not self.rows:
            return f"{said}; {self.why_none}"
        turns = ", better and worse in turn" if self.gained and self.lost else ""
        few = f"{counted(len(self.rows), 'answer')}{turns}"
        return f"{said}. Shown: {few}, in the order of a hash of the question"


def changed_answers(
    rules: Sequence[Rule],
    samples: tuple[Sequence[Sample], Sequence[Sample]],
    answers: tuple[Iterable[Answer], Iterable[Answer]],
    *,
    own_rows: bool,
    called: Mapping[str, Any] = MappingProxyType({}),
) -> ChangedAnswers | None:
    """Compare the answers of the first task that is judged. None where no task is.

    `samples`, `answers`: of base and tuned. `own_rows`: whether a tenant's own rows may be shown. `called`:
    figures of the evaluation, by which a tenant's own check has another name in the rules.
    """
    rule = next((rule for rule in rules if rule.rule == "task"), None)
    task = FORMER.get(rule.task, rule.task) if rule else ""
    before, after = (_of_task(side, task, called) for side in samples)
    metric = None if rule is None else _metric(rule, before, after)
    if metric is None:
        return None
    better: dict[Change, list[tuple[Role, str]]] = {"gained": [], "lost": [], "same": []}
    for question in sorted(before[metric].keys() & after[metric].keys(), key=_by_hash):
        better[_change(before[metric][question], after[metric][question])].append(question)
    found = ChangedAnswers(metric, len(better["gained"]), len(better["lost"]), len(better["same"]))
    if not own_rows:
        return replace(found, why_none="data.samples: metadata would show some")
    words = [{(one.role, one.question): one for one in side} for side in answers]
    known = [q for q in chain.from_iterable(better.values()) if all(q in side for side in words)]
    if not known:
        return replace(found, why_none="the answers are in the store no more")
    if not any(side[q].answered for q in known for side in words):
        return replace(found, why_none="no answer was written, for it is judged by its loss")
    frame = _Frame.of([words[1][q].asked for q in known])
    rows = [_row(name, q, words, frame) for name, q in _chosen(better) if q in words[0] and q in words[1]]
    return replace(found, rows=tuple(rows[:SHOWN]))


def changed_in(
    figures: Mapping[str, Any], folders: Sequence[tuple[Path, Path]], *, own_rows: bool
) -> ChangedAnswers | None:
    """Compare the answers in the folders of base and tuned, each a payload and its evidence. `figures`: of
    the evaluation, with its verdict.
    """
    rules = Verdict.from_json(figures["verdict"]).rules
    base, tuned = (read_samples(payload) for payload, _ in folders)
    kept = [read_answers(evidence) if (evidence / ANSWERS).is_file() else [] for _, evidence in folders]
    return changed_answers(rules, (base, tuned), (kept[0], kept[1]), own_rows=own_rows, called=figures)


Values = dict[tuple[Role, str], Sample]  # (role, question) -> its sample


def _of_task(samples: Iterable[Sample], task: str, called: Mapping[str, Any]) -> dict[str, Values]:
    """Return the samples of a task by metric and question."""
    found: dict[str, Values] = {}
    for one in samples:
        if one.role in ("task", "test_split_task") and shown(called, one.role, one.task) == task:
            found.setdefault(one.metric, {})[one.role, one.question] = one
    return found


def _metric(rule: Rule, before: dict[str, Values], after: dict[str, Values]) -> str | None:
    """Return by what an answer is better: what the gate judges by, of free text the words that it shares."""
    judged = [] if rule.metric.endswith("loss") else [rule.metric]
    wanted = (*judged, "token_f1", "exact_match", rule.metric)
    return next((metric for metric in wanted if metric in before and metric in after), None)


def _change(before: Sample, after: Sample) -> Change:
    risen = (after.value - before.value) * (1 if after.higher_is_better else -1)
    return "gained" if risen > 0 else "lost" if risen < 0 else "same"


def _by_hash(question: tuple[Role, str]) -> str:
    return hashlib.sha256(question[1].encode()).hexdigest()


def _chosen(better: dict[Change, list[tuple[Role, str]]]) -> list[tuple[Change, tuple[Role, str]]]:
    """Take better and worse in turn, then those that stayed; whose first hash is smaller begins."""
    names: tuple[Change, Change] = ("gained", "lost")
    sides = [[(name, question) for question in better[name]] for name in names]
    sides.sort(key=lambda side: _by_hash(side[0][1]) if side else "g")  # after every hash
    turns = [one for pair in zip_longest(*sides) for one in pair if one is not None]
    turns += [("same", question) for question in better["same"]]
    return turns


class _Frame(NamedTuple):
    """Is what every question begins and ends with: the system message and marks of a template."""

    head: str
    tail: str

    @classmethod
    def of(cls, asked: Sequence[str]) -> _Frame:
        if len(asked) < 2:
            return cls("", "")
        head = _common_start(asked)
        tail = _common_start([text[len(head) :][::-1] for text in asked])[::-1]
        mark = re.search(r"[<\[\n]", tail)
        return cls(head[: head.rfind("\n") + 1], tail[mark.start() :] if mark else "")

    def without(self, text: str) -> str:
        return text.removeprefix(self.head).removesuffix(self.tail).strip() or text


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same)


def _row(
    change: Change,
    question: tuple[Role, str],
    words: Sequence[dict[tuple[Role, str], Answer]],
    frame: _Frame,
) -> ChangedAnswer:
    base, tuned = (side[question] for side in words)
    texts = (frame.without(tuned.asked), tuned.expected, base.answered, tuned.answered)
    return ChangedAnswer(change, *(_short(text.strip()) or NONE for text in texts))


def _short(text: str) -> str:
    """Cut a long text, and put a blank for what moves a terminal's cursor."""
    text = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
