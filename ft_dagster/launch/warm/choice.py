"""Whether programs of this host start warm, and from which server: settings that travel as environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.host_settings import WARM_IDLE_SECONDS, Host, default_warm_folder

PREFIX = "FT_DAGSTER_HOST__WARM_"  # the names by which the environment overrides the settings `host.warm_*`
START, FOLDER = f"{PREFIX}START", f"{PREFIX}FOLDER"
IDLE, IMPORTS = f"{PREFIX}IDLE_SECONDS", f"{PREFIX}IMPORTS"


@dataclass(frozen=True)
class WarmStart:
    """`imports`: what the server imports before it serves; None: what the programs need on this host."""

    on: bool
    folder: Path
    idle_seconds: float = WARM_IDLE_SECONDS
    imports: tuple[str, ...] | None = None


def of_environment(environment: Mapping[str, str]) -> WarmStart:
    """What `environment` says, else the defaults. A value that cannot be read switches it off."""
    try:
        imports = json.loads(environment.get(IMPORTS) or "null")
        return WarmStart(
            on=environment.get(START, "auto") == "auto",
            folder=Path(environment.get(FOLDER) or default_warm_folder()),
            idle_seconds=float(environment.get(IDLE) or WARM_IDLE_SECONDS),
            imports=None if imports is None else tuple(map(str, imports)),
        )
    except (ValueError, TypeError):
        return WarmStart(on=False, folder=default_warm_folder())


def as_environment(host: Host) -> dict[str, str]:
    """The settings of a host as the launcher reads them."""
    imports = None if host.warm_imports is None else list(host.warm_imports)
    return {
        START: host.warm_start,
        FOLDER: str(host.warm_folder),
        IDLE: str(host.warm_idle_seconds),
        IMPORTS: json.dumps(imports),
    }
