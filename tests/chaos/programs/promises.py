"""promises.py FOLDER: give one promise after the other that something is on the disk, each by the package.

Says the name of what it promised, and goes on at a line from its input.
"""

import sys
from pathlib import Path
from typing import Any

from ft_dagster.data.sources.upstream import Materialization, take_snapshot
from ft_dagster.files import new_file
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.log import append, read_log
from ft_dagster.records.record_keys import keys_of, rotate
from ft_dagster.store import Attempt, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact

PREFIX = "tenants/acme/support"


def promise(name: str) -> None:
    print(name, flush=True)
    if not sys.stdin.readline():
        sys.exit("nobody looks any more")


def recipe(number: int) -> Recipe:
    return Recipe("task_dataset", PREFIX, spec={"data": number}, variant="acme.support")


def build(attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "rows").mkdir()
    (attempt.payload / "rows/1.bin").write_bytes(b"r" * 300_000)
    return {"rows": 1}


def release(version: int) -> ReleaseEntry:
    said: dict[str, Any] = dict.fromkeys(
        ("export", "export_key", "format", "weights", "evaluation", "by", "reason"), ""
    )
    return ReleaseEntry("release", "acme.support", version, version, at="2026-01-01T00:00:00+00:00", **said)


def main(disk: Path) -> None:
    store, project = Store(str(disk / "store")), disk / "project"
    for number in (1, 2):
        made = make_artifact(store, disk / "work", recipe(number), build)
        promise(f"artifact {number}")
        write_head(store, PREFIX, made, run_id=None)
        promise(f"head {number}")
        append(store, PREFIX, read_log(store, PREFIX), release(number))
        promise(f"release {number}")
        store.upload(disk / "work/checkpoint", f"runs/{number}/checkpoint")
        promise(f"upload {number}")
        store.create_exclusively(f"claims/{number:06d}.json", b"{}")
        promise(f"claim {number}")
        (keys_of if number == 1 else rotate)(disk / "keys", "acme")
        promise(f"key {number}")
        take_snapshot(project, "tickets", [{"id": number}], Materialization(number, "", None, None))
        promise(f"snapshot {number}")
        with new_file(project / f"tenants/acme/{number}.yaml") as draft:
            draft.write_text("model:")
        promise(f"declaration {number}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
