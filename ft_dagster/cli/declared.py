"""Defines commands about what is declared: check it, its schema, show each value and its origin."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    DECLARING,
    Json,
    Key,
    Keys,
    declarations_in,
    escape,
    keys_of,
    load_settings,
    load_variant,
    out,
    print_json,
    tell,
)
from ft_dagster.cli.common import (
    show as show_table,
)
from ft_dagster.errors import UserError, UserErrors, all_of, in_one_line
from ft_dagster.exit_codes import BAD_INPUT, FAILED
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.planning.reasons import Reason
    from ft_dagster.settings import Settings
    from ft_dagster.store import Store


STYLES = {"trained": "green", "context": "dim", "cut": "red strike"}
# Control characters but tabs and line breaks: in a terminal they may move the cursor, or turn a line around.
TURNS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
UNPRINTED = dict.fromkeys([*range(9), *range(11, 32), 127, *range(128, 160), *TURNS], "�")


@app.command(rich_help_panel=DECLARING)
def check(
    context: typer.Context,
    variants: Keys = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Read all rows, not only the first 20,000 of each source")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read declarations, their sources, corpora, tasks and base models, and report all mistakes at once.

    A wrong declaration does not stop the others; the wrong ones are named at the end. The exit code is 1 if
    some declarations are wrong, and 2 if all are.
    """
    from ft_dagster.versions.check import Looks, check_variant

    found: list[dict[str, Any]] = []
    try:
        settings = load_settings(context.obj)
        store = settings.open_store()
        settings.policies()
        declarations = declarations_in(settings)
        found += [] if variants else [_wrong(None, error) for error in declarations.misnamed.values()]
        keys = keys_of(declarations, variants, every=True) if variants or not found else list(declarations)
        found += _unwritable(store)
    except UserErrors as errors:
        found, keys = [_wrong(None, errors)], []
    looks = Looks(most=None) if all_rows else Looks()
    for key in keys:
        try:
            found.append(
                {"variant": str(key), "ok": True, **check_variant(settings, key, declarations, looks)}
            )
        except UserError as error:
            found.append(_wrong(key, error))
    if as_json:
        print_json({"variants": found})
    else:
        _print_checked(found)
    if not all(one["ok"] for one in found):
        raise typer.Exit(FAILED if any(one["ok"] for one in found) else BAD_INPUT)


def _unwritable(store: Store) -> list[dict[str, Any]]:
    try:
        store.check_writable()
    except UserError as error:
        return [_wrong(None, error)]
    return []


def _wrong(key: VariantKey | None, error: UserError) -> dict[str, Any]:
    """Describe a declaration with its mistakes; `error` and `message`: the first. No key: a misnamed file."""
    return {
        "variant": None if key is None else str(key),
        "ok": False,
        "error": all_of(error)[0].as_dict(),
        "message": str(all_of(error)[0]),
        "errors": [{**one.as_dict(), "message": str(one)} for one in all_of(error)],
    }


def _print_checked(found: list[dict[str, Any]]) -> None:
    for one in found:
        mark = "[green]ok[/]" if one["ok"] else "[red]wrong[/]"
        said = [one["summary"]] if one["ok"] else [error["message"] for error in one["errors"]]
        lines = [in_one_line(_named(one)), *map(in_one_line, said)]
        shown = ("  " if len(said) == 1 else "\n  ").join(lines)
        out.print(f"{mark} {escape(shown)}", highlight=False, soft_wrap=True)
        for line in one.get("next_look", ()):
            tell(f"  {line}")
        for line in one.get("warnings", ()):
            tell(f"  ! {line}")
    if any(not file["whole"] for one in found for file in one.get("files", ())):
        tell("Rows that were not read may be wrong: `ft-dagster check --all-rows` reads them too")
    wrong = [_named(one) for one in found if not one["ok"]]
    if wrong and len(found) > 1:
        are = "is" if len(wrong) == 1 else "are"
        tell(f"{len(wrong)} of {len(found)} {are} wrong: {in_one_line(', '.join(wrong))}")


def _named(one: dict[str, Any]) -> str:
    """Return the variant, or the file, or the field of the settings, that is none."""
    if one["variant"] is not None or one["error"]["field"] == "store":
        return one["variant"] or "store"
    return Path(one["error"]["file"]).name


@app.command(rich_help_panel=DECLARING)
def schema(
    corpus: Annotated[
        bool, typer.Option("--corpus", help="The schema of corpora/<name>.yaml instead")
    ] = False,
    installation: Annotated[
        bool, typer.Option("--settings", help="The schema of ft_dagster.yaml instead")
    ] = False,
    policy: Annotated[bool, typer.Option("--policy", help="The schema of policy.yaml instead")] = False,
) -> None:
    """Print the JSON Schema of a declaration, with which an editor completes and checks the file."""
    from ft_dagster.settings import Settings
    from ft_dagster.spec import CorpusSpec, VariantSpec
    from ft_dagster.spec.policy import PolicyFile

    others = ((policy, PolicyFile), (installation, Settings), (corpus, CorpusSpec))
    model = next((model for asked, model in others if asked), VariantSpec)
    print_json(model.model_json_schema())


@app.command(rich_help_panel=DECLARING)
def show(
    context: typer.Context,
    variant: Key,
    changed: Annotated[bool, typer.Option("--changed", help="Only values that differ from built in")] = False,
    row: Annotated[
        int | None, typer.Option(min=1, help="Show this row of the sources instead, as it is trained")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every value of a declaration and where it comes from: the file, the defaults, or built in.

    With --row, show a row as the base's template renders it: trained text is green (« » without colours),
    context is dim, and text that is cut off is red (✂ ✂).
    """
    if row is not None:
        _show_row(context, variant, row, as_json)
        return
    from ft_dagster.spec.validation import is_default
    from ft_dagster.spec.variant import VariantSpec

    settings = load_settings(context.obj)
    declared = load_variant(settings, VariantKey.parse(variant))
    values = _flat(declared.spec.model_dump(mode="json"))
    if changed:
        values = {
            name: value
            for name, value in values.items()
            if declared.origins[name] != "built-in" and not is_default(VariantSpec, name, value)
        }
    planned = () if changed else _planned(settings, declared.key)
    if as_json:
        fields = {name: {"value": value, "from": declared.origins[name]} for name, value in values.items()}
        reasons = [asdict(reason) for reason in planned]
        print_json({"variant": variant, "file": str(declared.file), "fields": fields, "plan": reasons})
        return
    table = Table("field", "value", "from", title=f"{variant} ({declared.file})")
    for name, value in values.items():
        table.add_row(name, _shown(name, value), declared.origins[name])
    show_table(table)
    if planned:
        plan = Table("field", "value", "from", "why", title="newest plan")
        for reason in planned:
            plan.add_row(reason.field, json.dumps(reason.value), reason.origin, reason.reason)
        show_table(plan)


def _show_row(context: typer.Context, variant: str, row: int, as_json: bool) -> None:
    from ft_dagster.data.rendering.pieces import MARKS
    from ft_dagster.versions.shown_row import shown_row
    from ft_dagster.workspace.workspace import Workspace

    workspace = Workspace(load_settings(context.obj), VariantKey.parse(variant), looking=True)
    shown = shown_row(workspace, row)
    if as_json:
        pieces = [piece._asdict() for piece in shown.pieces]
        print_json({"variant": variant, "row": row, **shown._asdict(), "pieces": pieces})
        return
    marks = (
        {}
        if out.is_terminal
        else {part: f" ({left} {right})" for part, (left, right) in MARKS.items() if left}
    )
    counts = ", ".join(
        f"{count:,} {part}{marks.get(part, '')}" for part, count in shown.tokens.items() if count
    )
    said = {"left out": shown.left_out, "tokens": counts, "read": shown.read}
    tell(
        "; ".join([f"row {row} ({shown.place})", *(f"{name}: {each}" for name, each in said.items() if each)])
    )
    text = Text()
    for piece in shown.pieces:
        shown_text = piece.text if out.is_terminal else piece.marked
        text.append(shown_text.translate(UNPRINTED), STYLES[piece.part])
    out.print(text, soft_wrap=True)


def _shown(field: str, value: Any) -> str:
    if value is None:
        return "[dim]the plan decides[/]" if field.startswith(("method.", "training.")) else "[dim]-[/]"
    return escape(json.dumps(value, ensure_ascii=False))


def _planned(settings: Settings, key: VariantKey) -> tuple[Reason, ...]:
    """Return the reasons of the variant's newest plan; none before the first."""
    from ft_dagster.versions.newest_plan import newest_plan

    plan = newest_plan(settings.open_store(), key)
    return () if plan is None else plan.plan.reasons


def _flat(tree: Any, prefix: str = "") -> dict[str, object]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat
