"""Defines what an entry says of a stage: all that other rooms know of it without its code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceUse = Literal["training", "evaluation", "preparation", "export"]
Judged = Literal["base", "model", "production"]


@dataclass(frozen=True)
class StageEntry:
    """Describes a stage. `name`: of the asset, of the folder in the store, and of the input of what is made
    from it.

    `version`: of the stage's meaning. Raise it by hand when what the stage computes changes; every artifact
    of the stage is then made again. `tests/provenance/test_stage_versions.py` fails when a stage's code
    changed and nobody decided.

    `on_demand`: it is made where another stage asks for it, and is no asset of its own. `shared`: its
    artifacts may be all tenants'. `reads_sources`: it reads files and tables from outside. `has_records`: a
    record tree stands beside its payload. `device_use`: what it takes a device for, its seconds in its
    figures. `asks_for_devices`: it takes none itself, and may ask for stages on demand that do. `judges`:
    whose answers it scores; "production": those of what is served and of its successor, by which a release is
    decided. `given_as`: the input's name where another stage's artifact may stand in its place. `outlives`: a
    file of an attempt that stays when retention removes the rest, because it tells an audit what a model was
    made from.

    `shown`: the figures by which a person knows an artifact, each a format string over the figures of its
    manifest; one whose first figure is absent or 0 is left out. `counted`: the figure that a picture has room
    for, and the word for one of what it counts, "" where it is a word itself.
    """

    name: str
    version: int
    on_demand: bool = False
    shared: bool = False
    reads_sources: bool = False
    has_records: bool = False
    device_use: DeviceUse | None = None
    asks_for_devices: bool = False
    judges: Judged | None = None
    given_as: str = ""
    outlives: str = ""
    shown: tuple[str, ...] = ()
    counted: tuple[str, str] | None = None
