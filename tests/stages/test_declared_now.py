"""What changed after an evaluation is named as it is declared."""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.stages.judging.declared_now import what_changed
from ft_dagster.store import Artifact, Place


@dataclass(frozen=True)
class Inputs:
    tasks: dict[str, str]
    probed: int | None


def evaluated(tasks: dict[str, str], **parts: int) -> Artifact:
    place = Place("tenants/acme/support", "evaluation", "k")
    return Artifact(place, {"spec": {"tasks": tasks, **parts}, "inputs": {}})


def test_a_task_is_named_by_its_entry_whatever_the_name_of_its_file() -> None:
    now = Inputs({"tasks/a.spec.yaml": "2", "tasks/b.yaml": "1"}, 16)
    then = evaluated({"tasks/a.spec.yaml": "1", "tasks/b.yaml": "1"}, probed=16)
    assert what_changed(now, then) == "tasks/a.spec.yaml"


def test_what_is_demanded_no_more_is_named_too() -> None:
    assert what_changed(Inputs({}, None), evaluated({}, probed=16)) == "probed"


def test_a_part_of_another_stages_key_is_no_change() -> None:
    assert what_changed(Inputs({}, None), evaluated({}, tries=1)) == ""
