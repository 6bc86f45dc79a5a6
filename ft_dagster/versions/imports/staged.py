"""Puts imported rows into a project: what stands there already is compared, and never written over."""

from __future__ import annotations

import filecmp
import os
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.files import new_file
from ft_dagster.spec.keys import VariantKey


class Staged(NamedTuple):
    """Is a file of rows. `written`: its rows in the form of today, in a temporary file; None: it is used as
    it is. `lines`: for each of these rows, its line in `file`.
    """

    file: Path
    written: Path | None
    rows: int
    lines: array[int] = array("Q")

    @property
    def path(self) -> Path:
        """Return where its rows can be read now."""
        return (self.written or self.file).absolute()


@dataclass(frozen=True)
class Placed:
    """Says where in the project each file of rows is, or will be; `copies`: what is to be written there."""

    sources: tuple[Path, ...]
    copies: tuple[tuple[Path, Path], ...]  # from, to

    def missing(self) -> Iterator[tuple[Path, Path]]:
        """Yield the copies that are not there yet. Raises UserError where another file stands."""
        for made, target in self.copies:
            if not os.path.lexists(target):
                yield made, target
            elif not target.is_file() or not filecmp.cmp(made, target, shallow=False):
                fix = "Remove it if it is no longer needed, or choose another --variant"
                raise UserError("another file is there already", file=target, fix=fix)


def place_rows(project: Path, key: VariantKey, staged: list[Staged]) -> Placed:
    """Decide where rows lie: a file of the project that does not change is named where it is, any other goes
    to data/<tenant>/<variant>.
    """
    folder = project / "data" / key.tenant / key.variant
    sources, copies, taken = list[Path](), list[tuple[Path, Path]](), set[str]()
    for each in staged:
        if each.written is None and _is_inside(project, each.file):
            sources.append(each.file.absolute())
            continue
        target = folder / _name(each, taken)
        copies.append((each.path, target))
        if each.rows:
            sources.append(target.absolute())
    return Placed(tuple(sources), tuple(copies))


def _is_inside(project: Path, file: Path) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(project))


def _name(staged: Staged, taken: set[str]) -> str:
    """Return the name of a copy, numbered where another has it."""
    stem, dot, ends = (staged.file.name.lstrip(".") or "rows").partition(".")
    ends = "jsonl" if staged.written else ends
    name, number = f"{stem}.{ends}" if dot or staged.written else stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.{ends}"
    taken.add(name)
    return name


def write_copies(copies: list[tuple[Path, Path]]) -> list[Path]:
    """Write each copy whole, or not at all."""
    for made, target in copies:
        try:
            with new_file(target) as draft:
                shutil.copyfile(made, draft)
        except FileExistsError:
            fix = "Begin again: what stands is compared then"
            raise UserError("another import wrote it meanwhile", file=target, fix=fix) from None
    return [target for _, target in copies]
