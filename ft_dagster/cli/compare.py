"""Defines the command `compare`: base against tuned by every rule of the gate, for several variants too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from ft_dagster.automation.picture import picture
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    JUDGING,
    Json,
    SomeKeys,
    declarations_in,
    escape,
    keys_of,
    load_settings,
    print_json,
    show,
    tell,
)
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import BASE_MODEL, EVALUATION

if TYPE_CHECKING:
    from ft_dagster.lineage.verdict import Rule
    from ft_dagster.report.tables.variant_row import VariantRow
    from ft_dagster.settings import Settings
    from ft_dagster.versions.version_course import Course

ABREAST = 3  # variants in a table of 80 columns


@app.command(rich_help_panel=JUDGING)
def compare(context: typer.Context, variants: SomeKeys, as_json: Json = False) -> None:
    """Compare base and tuned model: the result, a few answers, every rule of the gate, and what to do next.

    Answers are shown if one variant is named and its declaration lets rows be shown (data.samples: metadata).
    """
    from ft_dagster.gate.memorization.memorization import memorization_figures, memorization_lines
    from ft_dagster.gate.prompted import prompted_sentences
    from ft_dagster.versions.summary import variant_row, with_examples_now
    from ft_dagster.versions.version_course import courses

    settings = load_settings(context.obj)
    store, declarations = settings.open_store(), declarations_in(settings)
    keys = keys_of(declarations, variants, every=False)
    rows = [variant_row(store, key) for key in keys]
    known = {row.variant: row for row in picture(settings, declarations, keys, exact=True).rows}
    bases = [_base_of(settings, key) for key in keys]
    prompted = [list(with_examples_now(store, key)) for key in keys]
    judged = [_judged(settings, key) for key in keys]
    descents = [courses(store, key.prefix) for key in keys]
    if as_json:
        more = [
            {
                "base": base,
                "result": known[row.variant].result,
                "next_step": known[row.variant].next_step,
                "with_examples": [each.to_json() for each in found],
                "memorization": memorization_figures(figures),
                "versions": [course.to_json() for course in descent],
            }
            for row, base, found, figures, descent in zip(
                rows, bases, prompted, judged, descents, strict=True
            )
        ]
        print_json({"variants": [{**row.to_json(), **one} for row, one in zip(rows, more, strict=True)]})
        return
    for row, base in zip(rows, bases, strict=True):
        tell(f"{row.variant}: {known[row.variant].result or 'not evaluated yet'}")
        if base:
            tell(f"  base: {base}")
    ruled = [row for row in rows if row.rules]
    if len(ruled) == 1:
        _show_answers(settings, VariantKey.parse(ruled[0].variant))
        show(_rules_table(ruled[0]))
        _show_courses(descents[rows.index(ruled[0])])
    else:
        for first in range(0, len(ruled), ABREAST):
            show(_side_by_side(ruled[first : first + ABREAST]))
    for row, found, figures in zip(rows, prompted, judged, strict=True):
        if row.sentence:
            tell(f"{row.variant}: {row.sentence}")
        for line in (line for each in found for line in prompted_sentences(each)):
            tell(f"  {line}")
        for line in memorization_lines(figures):
            tell(f"  {line}.")
        tell(f"Next for {row.variant}: {known[row.variant].next_step}")


def _base_of(settings: Settings, key: VariantKey) -> str:
    """Return the name of the variant's newest base; empty before the first."""
    from ft_dagster.report.sentences.base_name import base_name
    from ft_dagster.store import read_head

    store = settings.open_store()
    head = read_head(store, key.prefix, BASE_MODEL.name)
    return "" if head is None else base_name(store, head)


def _judged(settings: Settings, key: VariantKey) -> Mapping[str, Any]:
    """Return the figures of the variant's newest evaluation; none before the first."""
    from ft_dagster.store import read_head

    head = read_head(settings.open_store(), key.prefix, EVALUATION.name)
    return {} if head is None else head.figures


def _show_answers(settings: Settings, key: VariantKey) -> None:
    """Print a few answers of base and tuned model of the newest evaluation."""
    from ft_dagster.versions.results import newest_answers

    found = newest_answers(settings, key)
    if found is None:
        return
    tell(f"{found.sentence}.")
    table = Table("asked (expected)", "base", "tuned", "change", show_lines=True)
    for change, asked, expected, base, tuned in found.rows:
        table.add_row(*(Text(cell) for cell in (f"{asked}\n({expected})", base, tuned, change)))
    if found.rows:
        show(table)


def _show_courses(descent: Sequence[Course]) -> None:
    """Print what each version scored, through the releases that the variant starts from."""
    from ft_dagster.versions.version_course import COURSE, course_rows

    if descent:
        table = Table(*COURSE, title="versions over time")
        for row in (row for course in descent for row in course_rows(course)):
            table.add_row(*(Text(str(each)) for each in row))
        show(table)
        for course in (course for course in descent if course.limit is not None):
            limit = f"{course.limit:.4g}"
            tell(
                f"  {course.task} {course.metric}: {limit} is the largest fall from the reference that passes"
            )


def _rules_table(row: VariantRow) -> Table:
    from ft_dagster.gate.rule_figures import margin

    table = Table("task", "base → tuned", "difference (interval)", "margin", "result", title=row.variant)
    table.show_lines = True
    for rule in row.rules:
        changed, moved, word = _cells(rule)
        table.add_row(_task(rule), changed, f"{moved}, {100 * rule.confidence:.3g}%", margin(rule), word)
    return table


def _side_by_side(rows: Sequence[VariantRow]) -> Table:
    """Make a column a variant, a row a rule that any of them was judged by."""
    table = Table("task", *(escape(row.variant) for row in rows), show_lines=True)
    sides = [{(rule.rule, rule.task, rule.metric): rule for rule in row.rules} for row in rows]
    for name in dict.fromkeys(name for side in sides for name in side):
        found = [side.get(name) for side in sides]
        task = next(_task(rule) for rule in found if rule)
        table.add_row(task, *("not asked" if rule is None else "\n".join(_cells(rule)) for rule in found))
    return table


def _task(rule: Rule) -> str:
    from ft_dagster.gate.rule_figures import metric_name

    metric = metric_name(rule.metric, higher_is_better=rule.higher_is_better)
    return f"{escape(rule.task)}\n[dim]{escape(metric)}[/]"


def _cells(rule: Rule) -> tuple[str, str, str]:
    """Return base and tuned, the difference with its interval, the result of the rule."""
    from ft_dagster.gate.rule_figures import difference
    from ft_dagster.gate.verdict_words import rule_word
    from ft_dagster.report.figures import RULE_STYLE, change

    word = f"[{RULE_STYLE[rule.outcome]}]{rule_word(rule)}[/]"
    return change(rule.metric, rule.base, rule.tuned), difference(rule), word
