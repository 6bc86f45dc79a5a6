"""base.json as this and earlier versions wrote it, as one typed record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.models.base_record import FILE, BaseRecord

COMPAT = Path(__file__).resolve().parents[1] / "compat"
KEPT = sorted(file.parent for file in COMPAT.rglob(FILE))
DERIVED = {"from": "1" * 64, "folded": None, "new_tokens": ["<a>", "<b>"], "new_token_ids": [7, 8]}


def written(folder: Path, **changes: Any) -> Path:
    """A base.json of a store of 0.1, with changes."""
    content = json.loads((KEPT[0] / FILE).read_text("utf-8"))
    (folder / FILE).write_text(json.dumps({**content, **changes}), "utf-8")
    return folder


@pytest.mark.parametrize("payload", KEPT, ids=[str(at) for at in range(len(KEPT))])
def test_what_earlier_versions_wrote_is_read_whole(payload: Path) -> None:
    content = json.loads((payload / FILE).read_text("utf-8"))
    said = BaseRecord.read(payload).model_dump(mode="json", by_alias=True)
    said["files"] = [dict(zip(("path", "size", "sha256"), file, strict=True)) for file in said["files"]]
    assert {name: said[name] for name in content if name != "schema_version"} == {
        name: value for name, value in content.items() if name != "schema_version"
    }


def test_a_folder_that_was_made_says_which_rows_were_added(tmp_path: Path) -> None:
    derived = BaseRecord.read(written(tmp_path, derived=DERIVED)).derived
    assert derived is not None
    assert (derived.origin, derived.new_token_ids) == ("1" * 64, (7, 8))


def test_what_a_later_version_adds_to_the_same_schema_is_passed_over(tmp_path: Path) -> None:
    assert BaseRecord.read(written(tmp_path, licence="mit")) == BaseRecord.read(KEPT[0])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schema_version": 99}, "schema_version"),
        ({"reference": None}, "reference"),
        ({"files": [{"path": "x"}]}, "files.0.size"),
        ({"parent": {"variant": "acme.one"}}, "parent.export"),
    ],
)
def test_one_that_is_none_is_refused_by_file_and_field(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError) as refused:
        BaseRecord.read(written(tmp_path, **changes))
    assert (refused.value.file, refused.value.field) == (str(tmp_path / FILE), field)


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_what_is_no_record_at_all_is_refused_by_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, "utf-8")
    with pytest.raises(UserError) as refused:
        BaseRecord.read(tmp_path)
    assert refused.value.file == str(tmp_path / FILE)
