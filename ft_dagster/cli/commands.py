"""Finds the file of a command by its name: a command imports that file, and `--help` all of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import typer
from typer import main
from typer.core import TyperGroup

from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, DONE, FAILED, TRANSIENT

FILES = {  # with their commands, in the order in which --help shows them
    "project": ("init",),
    "imports": ("import",),
    "declared": ("check", "schema", "show"),
    "planning": ("plan", "recommend"),
    "runs": ("run", "try", "ui"),
    "cancelling": ("cancel",),
    "compare": ("compare",),
    "status": ("status",),
    "fleet": ("gpus", "fleet"),
    "costs": ("cost", "metrics", "upgrade"),
    "releases": ("release", "rollback", "history", "catalogue"),
    "publish": ("publish", "register"),
    "reports": ("report",),
    "experiments": ("bakeoff", "sweep"),
    "store": ("store",),
    "canaries": ("canaries",),
    "trust": ("trust",),
    "erasure.requests": ("erase",),
    "erasure.purge": ("erase",),
    "audit.questions": ("audit",),
    "audit.proofs": ("audit",),
    "audit.crossings": ("audit",),
    "audit.trace": ("trace",),
    "audit.replay": ("audit",),
    "audit.keys": ("audit",),
    "audit.forget": ("audit",),
}
PROJECT = "--project"  # the one option of all commands
CALLED = {  # what people call a command -> how it is called here
    "help": "--help",
    "version": "--version",
    "train": "run",
    "start": "run",
    "stop": "cancel",
    "kill": "cancel",
    "abort": "cancel",
    "list": "status",
    "ls": "status",
    "validate": "check",
    "lint": "check",
    "eval": "compare",
    "evaluate": "compare",
    "chat": "try",
    "predict": "try",
    "deploy": "release",
    "promote": "release",
    "serve": "catalogue",
    "push": "publish",
}


class Commands(TyperGroup):
    """Is the group of all commands; a command is known once its files are imported."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._imported = set[str]()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        files = [file for file, names in FILES.items() if cmd_name in names]
        self._import(files or FILES)  # of a misspelt name all: one of them may be meant
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, *others = args
        if name in CALLED and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{name}'. Did you mean '{CALLED[name]}'?")
        if any(each.partition("=")[0] == PROJECT for each in others) and not ctx.resilient_parsing:
            ctx.fail(f"{PROJECT} stands before the command: ft-dagster {PROJECT} FOLDER {name}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        self._import(FILES)
        return list(dict.fromkeys(name for names in FILES.values() for name in names))

    def _import(self, files: Iterable[str]) -> None:
        missing = [file for file in files if file not in self._imported]
        for file in missing:
            import_module(f"ft_dagster.cli.{file}")
        if missing:
            self._imported.update(missing)
            self.commands.update(main.get_group(app).commands)
            for command in self.commands.values():
                _unwrap(command)


def _unwrap(command: Any) -> None:
    """Let each paragraph of a command's help be one line, which any terminal wraps by its own width."""
    help_ = inspect.cleandoc(command.help or "")
    command.help = "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in help_.split("\n\n"))
    for child in getattr(command, "commands", {}).values():
        _unwrap(child)


EXIT_CODES = (
    f"Exit codes: {DONE} done; {FAILED} it ran, but failed (a run that failed, a plan "
    f"that does not fit, some of several declarations that are wrong); {BAD_INPUT} a mistake in what was "
    f"given, said in one line; {TRANSIENT} the storage could not be reached; {CANCELLED} cancelled."
)
app = typer.Typer(
    cls=Commands,
    help="Fine-tune language models for many tenants: declare, plan, run, compare, release.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def all_commands() -> Commands:
    """Return the group with every command in it, in the order of `--help`."""
    group = main.get_command(app)
    assert isinstance(group, Commands)
    group.commands = {name: group.commands[name] for name in group.list_commands(None)}
    return group
