"""What every command shares: the application, its options, what it prints and how it ends."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.strict_json import dumps

app = typer.Typer(
    help="Fine-tune language models for many tenants: declare, plan, run, compare, release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console(width=None if sys.stdout.isatty() else 120)
Key = Annotated[str, typer.Argument(help="A variant, as tenant.variant", metavar="VARIANT")]
Keys = Annotated[list[str] | None, typer.Argument(help="Variants, as tenant.variant", metavar="[VARIANT]...")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else")]


@app.callback()
def project(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--project", envvar="FT_DAGSTER_PROJECT", help="The folder with tenants/; else the current one"
        ),
    ] = None,
) -> None:
    context.obj = folder


def keys_of(settings: Settings, variants: list[str] | None, *, every: bool) -> list[VariantKey]:
    """The named variants, or with `every` all that are declared."""
    declarations = Declarations(settings.project)
    if variants:
        keys = [VariantKey.parse(text) for text in variants]
        for key in keys:
            declarations.file(key)
        return keys
    declared_keys = list(declarations) if every else []
    if not declared_keys:
        raise UserError(
            "no variant named", fix="Name one as tenant.variant, or use --all where it is offered"
        )
    return declared_keys


def quiet() -> None:
    """Libraries' talk at import, of no use to who asks."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def print_json(value: Any) -> None:
    text = dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")  # names of no encoding


def main(call: Callable[[], Any] = app) -> None:
    """Run the command line; a user's mistake is one message and exit code 2, an interrupt 130."""
    atexit.register(gc.freeze)  # nothing is left to collect at exit, which takes seconds to find out
    try:
        call()
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    except UserError as error:
        if "--json" in sys.argv:
            print_json({"error": error.as_dict(), "message": str(error)})
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)


def escape(text: str) -> str:
    """For the terminal: no markup, and what would move its cursor, or has no encoding, by its number."""
    from rich.markup import escape

    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
    return escape("".join(shown))
