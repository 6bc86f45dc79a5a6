"""A night of the real daemon: what changed is retrained, once each, and who asked for it is told."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.fleet.events.delivery import SIGNATURE, signature
from tests.e2e.fleet import SECRET, TinyFleet
from tests.e2e.instance import wait_until
from tests.e2e.project import rows, write_lines
from tests.fleet.receiver import Receiver, receiving

pytestmark = [pytest.mark.slow, pytest.mark.long]
SOON = {"on_new_data": True, "on_new_base": True, "poll": 1, "quiet_minutes": 0, "max_attempts": 1}
CHANGED = ("acme.rows", "acme.child", "acme.broken", "globex.base")
NIGHT = {
    ("released", "acme.rows", 2),
    ("released", "acme.child", 2),
    ("released", "globex.base", 2),
    ("run_failed", "acme.broken", None),
    ("parked", "acme.broken", None),
}
ROW = "nobody outside may read this"


def test_who_needs_it_is_retrained_once_and_each_event_told(tmp_path: Path, tiny_model_folder: Path) -> None:
    with receiving() as receiver:
        fleet = evening(tmp_path, tiny_model_folder, receiver)
        assert set(fleet.trainings().values()) == {1}
        fleet.wait_until_idle()
        with fleet.daemon() as first:
            fleet.wait_for_ticks(1)
            change(fleet, tmp_path / "bases" / "globex")
            die_at(receiver, fleet, first.pid, "acme.child")
            first.wait(900)
        assert first.returncode != 0
        with fleet.daemon():
            wait_until(lambda: events(receiver) >= NIGHT and repeated(receiver), 300)
            fleet.wait_for_ticks()
    assert fleet.trainings() == {
        "acme.broken": 1, "acme.calm": 1, "acme.child": 2, "acme.rows": 2, "globex.base": 2,
    }  # fmt: skip
    assert fleet.asked() == dict.fromkeys(CHANGED, 1)
    (again,) = repeated(receiver)
    assert [e["variant"] for e in said(receiver) if e["id"] == again] == ["acme.child"] * 2
    assert len({e["id"] for e in said(receiver)}) == len(receiver.got) - 1
    assert all(headers[SIGNATURE] == signature(SECRET, body) for headers, body in receiver.got)
    assert not any(ROW.encode() in body for _, body in receiver.got)
    states = {row["variant"]: row["state"] for row in fleet.command("status")["variants"]}
    assert states == {
        "acme.broken": "parked", "acme.calm": "fresh", "acme.child": "fresh", "acme.rows": "fresh",
        "globex.base": "fresh",
    }  # fmt: skip


def evening(folder: Path, base: Path, receiver: Receiver) -> TinyFleet:
    """A fleet of which each variant was trained and released."""
    own = shutil.copytree(base, folder / "bases" / "globex")
    fleet = TinyFleet(folder / "project", base, receiver.url)
    fleet.allow_bases(base, own)
    for key in ("acme.rows", "acme.broken", "acme.calm"):
        fleet.declare(key, base, SOON)
    fleet.declare("globex.base", own, SOON)
    fleet.command("run", "--all")
    fleet.declare("acme.child", base, SOON, base_model={"variant": "acme.rows"})
    fleet.command("run", "acme.child")
    return fleet


def change(fleet: TinyFleet, base: Path) -> None:
    """Rows, rows that are none, and a base; a parent's release follows from the first."""
    from safetensors.torch import load_file, save_file

    write_lines(fleet.rows("acme.rows"), rows(100))
    fleet.rows("acme.broken").write_text(f'{{"instruction": "{ROW}\n')
    (weights,) = base.glob("*.safetensors")
    changed = {name: tensor * 1.01 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})


def die_at(receiver: Receiver, fleet: TinyFleet, daemon: int, variant: str) -> None:
    """End the daemon and all its processes before it has the answer to the variant's new release."""

    def before_answer() -> None:
        event = json.loads(receiver.got[-1][1])
        if (event["kind"], event["variant"], event["version"]) != ("released", variant, 2):
            return
        receiver.before_answer = lambda: None
        fleet.wait_until_idle(25)
        for process in (psutil.Process(daemon), *psutil.Process(daemon).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    receiver.before_answer = before_answer


def said(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.got]


def events(receiver: Receiver) -> set[tuple[str, str, int | None]]:
    return {(event["kind"], event["variant"], event["version"]) for event in said(receiver)}


def repeated(receiver: Receiver) -> set[str]:
    ids = receiver.ids
    return {one for one in ids if ids.count(one) > 1}
