"""Shares among commands the application, its options, what it prints and how it ends."""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ft_dagster.automation.patience import be_patient
from ft_dagster.cli.cells import Cell
from ft_dagster.cli.commands import PROJECT, app
from ft_dagster.errors import UserError, in_one_line
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, TRANSIENT
from ft_dagster.extras import left_out
from ft_dagster.spec import VariantKey
from ft_dagster.strict_json import dumps

if TYPE_CHECKING:
    from ft_dagster.settings import Settings
    from ft_dagster.spec import Declarations, Declared

GARBAGE = 200_000  # objects between two collections: importing makes many that stay
WIDEST = 10_000  # columns of a table that is piped
# Whether tables that are piped are as wide as COLUMNS says; else a row is a line. Sentences stay whole lines.
PIPED_AS_WIDE = (
    not sys.stdout.isatty() and re.fullmatch(r"[1-9]\d{1,4}", os.environ.get("COLUMNS", "")) is not None
)


class Screen(Console):
    """Prints what commands answer."""

    @property
    def is_as_wide(self) -> bool:
        """Say whether it is read by lines of a width, in a terminal or as COLUMNS says."""
        return self.is_terminal or PIPED_AS_WIDE


out = Screen(width=None if sys.stdout.isatty() or PIPED_AS_WIDE else 120)
DECLARING, PLANNING, RUNNING = "Declare", "Plan", "Run"  # the groups of --help
JUDGING, RELEASING, KEEPING = "Judge and compare", "Release and serve", "Keep"


def load_settings(project: Path | None) -> Settings:
    """Load the settings of a project, whose fields no `--help` waits for. Raises UserError."""
    from ft_dagster import settings

    return settings.load_settings(project)


def declarations_in(settings: Settings) -> Declarations:
    """Return the declarations of a project, in the same way."""
    from ft_dagster.spec import Declarations

    return Declarations(settings.project)


def load_variant(settings: Settings, key: VariantKey) -> Declared:
    """Load one variant's declaration, in the same way. Raises UserError."""
    from ft_dagster.spec.load import load_variant

    return load_variant(settings.project, key)


def declared_keys(context: typer.Context, incomplete: str) -> list[str]:
    """Return the declared variants that begin so, for the shell to complete; none where they cannot be
    listed.
    """
    folder = context.find_root().params.get("folder")
    try:
        return [str(key) for key in declarations_in(load_settings(folder)) if str(key).startswith(incomplete)]
    except UserError:
        return []


def declaring_tenants(context: typer.Context, incomplete: str) -> list[str]:
    """Return the tenants that declare anything, in the same way."""
    return sorted({key.partition(".")[0] for key in declared_keys(context, incomplete)})


Key = Annotated[
    str, typer.Argument(help="A variant, as tenant.variant", metavar="VARIANT", autocompletion=declared_keys)
]
Keys = Annotated[
    list[str] | None,
    typer.Argument(help="Variants, as tenant.variant", metavar="VARIANT", autocompletion=declared_keys),
]
SomeKeys = Annotated[
    list[str],
    typer.Argument(help="Variants, as tenant.variant", metavar="VARIANT", autocompletion=declared_keys),
]
MaybeKey = Annotated[
    str | None,
    typer.Argument(help="A variant, as tenant.variant", metavar="VARIANT", autocompletion=declared_keys),
]


def one_of(choices: Iterable[str]) -> str:
    """Return the values of an option as its help shows them: words, of which a narrow terminal cuts none."""
    return " | ".join(choices)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else")]


def _print_version(asked: bool) -> None:
    if asked:
        import ft_dagster

        sys.stdout.write(f"{ft_dagster.__version__}\n")
        raise typer.Exit


@app.callback()
def project(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            PROJECT, envvar="FT_DAGSTER_PROJECT", help="The folder with tenants/; else the current one"
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version, and end", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    context.obj = folder


def keys_of(declarations: Declarations, variants: list[str] | None, *, every: bool) -> list[VariantKey]:
    """Return the named variants, or with `every` all that are declared."""
    if variants:
        keys = list(dict.fromkeys(VariantKey.parse(text) for text in variants))
        for key in keys:
            declarations.file(key)
        return keys
    declared_keys = list(declarations) if every else []
    if every and not declared_keys:
        fix = "Begin with `ft-dagster init`, or write tenants/<tenant>/<variant>.yaml"
        raise UserError("no variant is declared", file=declarations.project / "tenants", fix=fix)
    if not declared_keys:
        raise UserError(
            "no variant named", fix="Name one as tenant.variant, or use --all where it is offered"
        )
    return declared_keys


def refuse_both(variants: list[str] | None, *, every: bool) -> None:
    """Raise UserError where variants are named beside --all: which of the two is meant is not known."""
    if variants and every:
        raise UserError(
            "variants are named, and all are asked for",
            field="--all",
            value=", ".join(variants),
            fix="Name variants, or give --all",
        )


def check_tenant(declarations: Declarations, tenant: str) -> None:
    """Raise UserError for a tenant that declares nothing, of whom nothing else is known either."""
    from ft_dagster.spec.validation import nearest

    known = sorted({key.tenant for key in declarations})
    if tenant not in known:
        fix = nearest(tenant, known, f"Known: {', '.join(known) or 'none'}")
        raise UserError("no such tenant", field="--tenant", value=tenant, fix=fix)


def quiet() -> None:
    """Silence libraries' talk at import, of no use to who asks."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def show(table: Table) -> None:
    """Print a table: in a terminal of any width no word is cut, plain and a line a row where it is piped and
    COLUMNS says no width.
    """
    if out.is_as_wide:
        for column in table.columns:
            column.header = Cell(column.header) if isinstance(column.header, str) else column.header
            column._cells = [Cell(cell) if isinstance(cell, str | Text) else cell for cell in column._cells]
        _fit(table, out.width)
        out.print(table)
        return
    table.box = None
    table.show_lines = False
    width, out.width = out.width, WIDEST
    out.width = max(width, Measurement.get(out, out.options, table).maximum)
    out.print(table)
    out.width = width


def _fit(table: Table, width: int) -> None:
    """Give each column at least its longest word where the table is wider than the terminal: Rich narrows the
    widest columns first, whatever their words. Where that is too much, padding goes first.
    """
    columns = [
        [Measurement.get(out, out.options, cell) for cell in (column.header, *column.cells)]
        for column in table.columns
    ]
    widest = [max(each.maximum for each in cells) for cells in columns]
    widths = [max(each.minimum for each in cells) for cells in columns]
    if sum(widest) <= width - _frame(table):
        return
    if sum(widths) > width - _frame(table):
        table.padding, table.pad_edge = (0, 0), False
    room = width - _frame(table) - sum(widths)
    if room < 0:
        return
    for _ in range(room):
        fullest = max(range(len(widths)), key=lambda at: widest[at] / max(widths[at], 1))
        widths[fullest] += 1
    for column, each in zip(table.columns, widths, strict=True):
        column.width = each


def _frame(table: Table) -> int:
    """Return the characters of a line that belong to no cell."""
    return table._extra_width + sum(table._get_padding_width(at) for at in range(len(table.columns)))


def show_rows(headers: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    """Print a table of plain text."""
    table = Table(*map(escape, headers), title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(escape, row))
    show(table)


def print_json(value: Any) -> None:
    print_whole(dumps(value, indent=2, ensure_ascii=False))


def print_whole(text: str) -> None:
    """Print what a program reads or a person copies, however wide the screen is: no line of it is broken."""
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")  # names of no encoding


def main(call: Callable[[], Any] = app) -> None:
    """Run the command line; a user's mistake, a file that this user may not read, and a full disk, is one
    message and exit code 2, a storage out of reach one and 75, an interrupt 130.
    """
    atexit.register(gc.freeze)  # nothing is left to collect at exit, which takes seconds to find out
    gc.set_threshold(GARBAGE)
    _end_in_order()
    be_patient(os.environ)
    try:
        call()
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    except UserError as error:
        _refuse(error, TRANSIENT if error.__cause__ and _is_out_of_reach(error) else BAD_INPUT)
    except ModuleNotFoundError as error:
        known = left_out(error)
        if known is None:
            raise
        _refuse(known)
    except Exception as error:
        if (not_let_in := _not_let_in(error)) is not None:
            _refuse(not_let_in)
        if not _is_out_of_reach(error):
            raise
        from ft_dagster.store import outage

        _refuse(outage(error), TRANSIENT)


def _end_in_order() -> None:
    """Let SIGTERM interrupt the command as Ctrl-C does. Dagster gives SIGTERM the handler of SIGINT, which a
    shell's background job ignores: so both have one handler, which tells them apart.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    def interrupt(number: int, _: object) -> None:
        if number == signal.SIGTERM or not ignored:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _not_let_in(error: Exception) -> UserError | None:
    from ft_dagster.store import closed, disk_full, refused

    return refused(error) or closed(error) or disk_full(error)


def _is_out_of_reach(error: Exception) -> bool:
    from ft_dagster.store import unreachable

    return unreachable(error) and not isinstance(error, BrokenPipeError)


def _refuse(error: UserError, code: int = BAD_INPUT) -> NoReturn:
    if "--json" in sys.argv:
        print_json({"error": error.as_dict(), "message": str(error)})
    Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    sys.exit(code)


def escape(text: str) -> str:
    """Escape text for the terminal: no markup, and what would move its cursor, or has no encoding, by its
    number.
    """
    from rich.markup import escape

    return escape("\n".join(map(in_one_line, text.split("\n"))))


def tell(text: str) -> None:
    """Print plain text on the terminal, its lines in one piece."""
    out.print("\n".join(map(in_one_line, text.split("\n"))), markup=False, highlight=False, soft_wrap=True)
