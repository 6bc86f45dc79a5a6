"""Asks what `ft-dagster init` was not given, in a terminal, and infers the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import typer

from ft_dagster.cli.common import escape, out, tell
from ft_dagster.data.rows.infer import infer_fields, named_fields, question_and_answer, rows_of
from ft_dagster.data.sources.locations import rows_from
from ft_dagster.data.sources.readers import columns_of
from ft_dagster.errors import UserError
from ft_dagster.models.base import base_from
from ft_dagster.spec import VariantKey
from ft_dagster.spec.start import StartedProject, new_declaration, start_project
from ft_dagster.versions.first_declaration import first_declaration

T = TypeVar("T")


@dataclass(frozen=True)
class FirstAnswers:
    """Holds the options of `init` as they were given. `asks`: a person can be asked for the others."""

    folder: Path | None
    base_model: str | None
    data: str | None
    variant: str | None
    question: str | None
    answer: str | None
    text: str | None
    asks: bool

    def start(self) -> tuple[StartedProject, Path, str]:
        """Make the project; return what was made, where, and the variant. Raises UserError, before anything
        is written.
        """
        here = Path.cwd()
        folder = self._asked("Project folder", self.folder, "project", Path)
        base = self._asked(
            "Base model (folder or hub id)",
            self.base_model,
            None,
            lambda place: base_from(place, here, "--base-model"),
        )
        data = self._asked("Rows (file)", self.data, None, lambda place: rows_from(place, here, "--data"))
        key = self._asked("Variant (tenant.name)", self.variant, "acme.support", VariantKey.parse)
        new_declaration(folder, key)
        rows = rows_of(data, here, self._fields, self._are_names)
        start = first_declaration(folder, str(key), base, data, rows)
        return start_project(folder, key, base, data, start), folder, str(key)

    def _asked(self, what: str, given: object, usual: str | None, make: Callable[[str], T]) -> T:
        """Return a value as given; else as answered, asked again after a mistake; else the usual one. Raises
        UserError.
        """
        if given is not None or not self.asks:
            if given is None and usual is None:
                option = "--base-model" if "Base" in what else "--data"
                raise UserError("not given", field=option, fix=f"Give it: {what}")
            return make(str(usual if given is None else given))
        while True:
            try:
                return make(typer.prompt(what, default=usual))
            except UserError as error:
                out.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)

    def _are_names(self, why_not: str) -> bool:
        """Say whether the first line names the columns: it does where they are named, else a person says."""
        if self.question or self.answer or self.text:
            return True
        return self.asks and typer.confirm(f"{why_not}. Is it names all the same?", default=False)

    def _fields(self, columns: tuple[str, ...]) -> dict[str, str]:
        question, answer = self.question, self.answer
        if self.asks and self.text is None:
            inferred = infer_fields(columns)
            usual = question_and_answer(inferred or {})
            if inferred is None or usual[0]:
                tell(f"columns: {columns_of(columns)}")
                question = question or _column("Column that asks", usual[0], columns)
                answer = answer or _column("Column that is learned", usual[1], columns)
        return named_fields(columns, question, answer, self.text)


def _column(what: str, usual: str | None, columns: tuple[str, ...]) -> str:
    while (name := str(typer.prompt(what, default=usual or "", show_default=bool(usual)))) not in columns:
        tell(f"no such column; there are: {columns_of(columns)}")
    return name
