"""The pack: every package is somewhere, loads keep their limit, bitsandbytes loses what is not needed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LIBRARIES = ("cpu", "cuda118", "cuda130", "cuda132", "rocm72")


def test_every_pinned_package_is_carried_taken_to_be_there_or_left_out_with_its_cost(
    pack: ModuleType,
) -> None:
    lists = pack.lists()
    listed = [
        pack.plain(n) for part in ("taken_to_be_there", "core", "dagster", "wider") for n in lists[part]
    ]
    for name, about in lists["left_out"].items():
        assert about["costs"]
        listed += [pack.plain(each) for each in (name, *about["needs"])]
    assert len(listed) == len(set(listed))
    assert set(listed) - {"torch"} == {name for name, _ in pack.pins()}


def items(pack: ModuleType, folder: Path, part: str, *sizes: int) -> list[Any]:
    made = []
    for number, size in enumerate(sizes):
        file = folder / f"{part}-{number}"
        file.write_bytes(b"x" * size)
        made.append(pack.Item(file, file.name, part))
    return made


def test_loads_keep_their_limit_and_the_first_is_kept_free_of_what_machines_have(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "LIMIT", 1000)
    monkeypatch.setattr(pack, "ROOM", 0)
    core, half = items(pack, tmp_path, "core", 300, 300), items(pack, tmp_path, "model", 700)
    wider = items(pack, tmp_path, "wider", 900, 250, 100)
    bins = pack.fill([core, half, *([each] for each in wider)])
    assert [[item.part for item in held] for held in bins] == [
        ["core", "core"],
        ["model", "wider"],
        ["wider", "wider"],
    ]
    assert max(sum(item.size for item in held) for held in bins) <= 1000


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    file = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    names = [f"bitsandbytes/libbitsandbytes_{name}.so" for name in LIBRARIES]
    with zipfile.ZipFile(file, "w") as archive:
        for name in (*names, "bitsandbytes/__init__.py"):
            archive.writestr(name, name)
        record = "".join(f"{name},sha256=0,1\n" for name in (*names, "bitsandbytes/__init__.py"))
        archive.writestr("bitsandbytes-1.0.dist-info/RECORD", record)
    return file


def test_bitsandbytes_keeps_the_library_of_one_cuda_and_of_the_cpu(
    pack: ModuleType, wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(pack.trimmed(wheel, tmp_path, "13.0")) as archive:
        kept = {name for name in archive.namelist() if name.endswith(".so")}
        record = archive.read("bitsandbytes-1.0.dist-info/RECORD").decode()
    assert kept == {f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda130")}
    assert {line.split(",")[0] for line in record.splitlines()} == {*kept, "bitsandbytes/__init__.py"}


def test_each_load_says_what_all_hold_with_sizes_and_digests(packed: Path) -> None:
    abouts = [json.loads((packed / name / "load.json").read_text()) for name in ("load-1", "load-2")]
    assert [about.pop("name") for about in abouts] == ["load-1", "load-2"]
    assert abouts[0] == abouts[1]
    for load in abouts[0]["loads"]:
        assert load["bytes"] == sum(file["bytes"] for file in load["files"])
        for file in load["files"]:
            content = (packed / load["name"] / file["name"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
