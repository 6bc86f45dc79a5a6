"""Shows experiments as tables: methods beside each other, and the runs of a sweep from best to worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft_dagster.gate.rule_figures import difference
from ft_dagster.gate.verdict_words import verdict_of, verdict_word
from ft_dagster.lineage.verdict import Rule, RuleName
from ft_dagster.report.figures import ABSENT, SIZES, TIMES, change, count, in_one_unit
from ft_dagster.stage_entries import FINE_TUNED_MODEL

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]


def bakeoff_table(runs: Sequence[Row], budget: str) -> Table:
    """Make a column for each method, a row for each figure. A row: `Run` of automation.experiments as a
    dict.
    """
    table = _table(f"{budget} for each method", ["", *(run["name"] for run in runs)])
    kind, _, amount = budget.partition("=")
    lines: dict[str, list[str]] = {
        "status": [run["status"] for run in runs],
        "steps": [count(_figure(run, "steps")) for run in runs],
        "learning rate": [_general(_figure(run, "learning_rate")) for run in runs],
        "FLOPs": _of_budget([_figure(run, "flops") for run in runs], "flops", kind, float(amount)),
        "time of the steps": _of_budget(_times(runs), "minutes", kind, float(amount)),
        "peak memory": in_one_unit([_figure(run, "peak_memory_bytes") for run in runs], SIZES),
        "trainable parameters": [count(_figure(run, "trainable_parameters")) for run in runs],
        "size of the artifact": in_one_unit([_figure(run, "size_bytes") for run in runs], SIZES),
        "validation loss": [_losses(run) for run in runs],
    }
    for kind_of_rule, task in _judged(runs):
        lines[f"{WORDS[kind_of_rule]} {task}"] = [_judgement(run, kind_of_rule, task) for run in runs]
    lines["gate"] = [_found(_rules(run)) for run in runs]
    for title, cells in lines.items():
        table.add_row(title, *cells)
    return table


def sweep_table(runs: Sequence[Row], by: str) -> Table:
    """Make a row for each run, in the order given."""
    table = _table(
        f"ranked by the {by}",
        [
            "", "run", "task base → tuned", "difference (interval)", "general", "validation loss",
            "time\nFLOPs", "weights",
        ],
    )  # fmt: skip
    times = in_one_unit(_times(runs), TIMES)
    for place, (run, time) in enumerate(zip(runs, times, strict=True), 1):
        rules = [rule for rule in _rules(run) if rule.rule == "task"]
        general = [rule for rule in _rules(run) if rule.rule != "task"]
        done = run["status"] == "done"
        table.add_row(
            str(place) if done else "",
            run["name"],
            "\n".join(change(rule.metric, rule.base, rule.tuned) for rule in rules) or run["status"],
            "\n".join(difference(rule) for rule in rules),
            _found(general),
            _losses(run),
            f"{time}\n{_general(_figure(run, 'flops'))}" if run["figures"] else "",
            run["digests"].get(FINE_TUNED_MODEL.name, "")[:12],
        )
    return table


WORDS: dict[RuleName, str] = {
    "task": "task",
    "general_benchmark": "general",
    "general_loss": "loss on general text,",
    "degeneration": "repetition in",
    "regurgitation": "repeated word for word,",
    "refusals": "refusals,",
    "membership": "training rows told from others,",
    "regression": "against production,",
    "reference": "against the reference,",
}


def _table(title: str, headers: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*headers, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _figure(run: Row, name: str) -> Any:
    return run["figures"].get(name)


def _rules(run: Row) -> list[Rule]:
    return [Rule.from_json(rule) for rule in run["figures"].get("rules", [])]


def _judged(runs: Sequence[Row]) -> list[tuple[RuleName, str]]:
    return list(dict.fromkeys((rule.rule, rule.task) for run in runs for rule in _rules(run)))


def _judgement(run: Row, rule: str, task: str) -> str:
    found = next((r for r in _rules(run) if (r.rule, r.task) == (rule, task)), None)
    if found is None:
        return ABSENT
    return f"{change(found.metric, found.base, found.tuned)}\n{difference(found)}"


def _losses(run: Row) -> str:
    """Return first → best, or how far the curve of a stopped run came."""
    first, best = (_figure(run, f"validation_loss_{which}") for which in ("first", "best"))
    if best is not None:
        sizes = [int(size) for size in _figure(run, "validation_loss_on") or () if size.isdigit()]
        begun = ABSENT if first is None else f"{first:.3f}"
        return f"{begun} → {best:.3f}" + (f" (of {max(sizes)})" if sizes else "")
    losses = run["curve"]
    if run["status"] == "stopped early" and losses and losses[-1] is not None:
        return f"{losses[-1]:.3f} when stopped"
    return "not finite" if losses and losses[-1] is None else ABSENT


def _times(runs: Sequence[Row]) -> list[float | None]:
    """Return the seconds of the steps of each."""
    return [_figure(run, "training_seconds") for run in runs]


def _of_budget(values: Sequence[float | None], figure: str, kind: str, amount: float) -> list[str]:
    """Return the figures; where they are what the budget is in, also which share of that each came to.
    `values`: of minutes in seconds.
    """
    in_minutes = figure == "minutes"
    shown = in_one_unit(values, TIMES) if in_minutes else [_general(value) for value in values]
    if figure != kind:
        return shown
    whole = 60 * amount if in_minutes else amount
    pairs = zip(values, shown, strict=True)
    return [text if value is None else f"{text} ({value / whole:.1%})" for value, text in pairs]


def _general(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}"


def _found(rules: Sequence[Rule]) -> str:
    """Return the word for what rules come to; a dash where nothing was judged."""
    return verdict_word(verdict_of(rules)) if rules else ABSENT
