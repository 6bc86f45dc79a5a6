"""What `check` says of a declaration's mistakes."""

from __future__ import annotations

from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.versions.check import Mistakes


def test_a_mistake_that_names_no_file_is_one_of_the_declaration() -> None:
    found = Mistakes(Path("tenants/acme/places.yaml"))
    for file in (None, "rows.jsonl"):
        with found.gathered("training"):
            raise UserError("too much", fix="Ask for less", file=file)
    assert [each.file for each in found.errors] == ["tenants/acme/places.yaml", "rows.jsonl"]
