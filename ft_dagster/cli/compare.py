"""Defines the command `compare`: base against tuned by every rule of the gate, for several variants too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from ft_dagster.cli.common import (
    JUDGING,
    Json,
    SomeKeys,
    app,
    declarations_in,
    escape,
    keys_of,
    load_settings,
    print_json,
    show,
    tell,
)
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.lineage.verdict import Rule
    from ft_dagster.report.variant_row import VariantRow

ABREAST = 3  # variants in a table of 80 columns


@app.command(rich_help_panel=JUDGING)
def compare(context: typer.Context, variants: SomeKeys, as_json: Json = False) -> None:
    """Compare base and tuned model by every rule of the gate, for one variant or several."""
    from ft_dagster.gate.prompted import prompted_sentences
    from ft_dagster.versions.summary import variant_row, with_examples_now

    settings = load_settings(context.obj)
    store = settings.open_store()
    rows = [variant_row(store, key) for key in keys_of(declarations_in(settings), variants, every=False)]
    prompted = [list(with_examples_now(store, VariantKey.parse(row.variant))) for row in rows]
    if as_json:
        found = [
            {**row.to_json(), "with_examples": [each.to_json() for each in asked]}
            for row, asked in zip(rows, prompted, strict=True)
        ]
        print_json({"variants": found})
        return
    judged = [row for row in rows if row.rules]
    if len(judged) == 1:
        show(_rules_table(judged[0]))
    else:
        for first in range(0, len(judged), ABREAST):
            show(_side_by_side(judged[first : first + ABREAST]))
    for row, asked in zip(rows, prompted, strict=True):
        said = row.sentence or "not evaluated yet"
        tell(f"{row.variant}: {said}")
        for line in (line for each in asked for line in prompted_sentences(each)):
            tell(f"  {line}")


def _rules_table(row: VariantRow) -> Table:
    from ft_dagster.gate.rule_figures import margin

    table = Table("task", "base → tuned", "difference (interval)", "margin", "found", title=row.variant)
    table.show_lines = True
    for rule in row.rules:
        changed, moved, found = _cells(rule)
        table.add_row(_task(rule), changed, f"{moved}, {100 * rule.confidence:.3g}%", margin(rule), found)
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
    """Return base and tuned, the difference with its interval, what was found."""
    from ft_dagster.gate.rule_figures import difference
    from ft_dagster.gate.verdict_words import rule_word
    from ft_dagster.report.tables import RULE_STYLE, change

    found = f"[{RULE_STYLE[rule.outcome]}]{rule_word(rule)}[/]"
    return change(rule.metric, rule.base, rule.tuned), difference(rule), found
