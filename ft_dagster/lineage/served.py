"""Reads from the entries of a release log which version is served, would be next, or was rolled back."""

from __future__ import annotations

from collections.abc import Sequence

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import PROMOTE, RELEASE, ROLLBACK, ReleaseEntry


def served_in(past: Sequence[ReleaseEntry]) -> ReleaseEntry | None:
    """Return the release entry of the version that is served after these entries."""
    version = production_in(past)
    return None if version is None else versions_in(past)[version]


def aliases(past: Sequence[ReleaseEntry]) -> dict[str, int | None]:
    """Return the versions that are served, and that would be next."""
    return {"production": production_in(past), "candidate": max(versions_in(past), default=None)}


def to_go_back_to(past: Sequence[ReleaseEntry], prefix: str, version: int | None) -> int:
    """Return the version that a rollback would put into production.

    Raises UserError: nothing in production, nothing before it, no such version, or one that never was in
    production before, or has the same weights. Of one that is named, and was rolled back itself, see
    `release.rollback`, which refuses it.
    """
    now = version_served(past, prefix)
    before = served_before(past, now)
    if version is not None:
        _check_target(past, released(past, version, prefix), now, before)
        return version
    weights = versions_in(past)[now].weights
    good = [v for v in before if v not in rolled_back(past) and versions_in(past)[v].weights != weights]
    if not good:
        raise UserError(
            f"version {now} is the first that was in production: there is nothing to go back to",
            field="version",
            value=now,
            fix="Release another version",
        )
    return good[-1]


def _check_target(
    past: Sequence[ReleaseEntry], target: ReleaseEntry, now: int, before: Sequence[int]
) -> None:
    version, put = target.version, f"`ft-dagster release {target.variant} --version {target.version}`"
    if version in before and target.weights != versions_in(past)[now].weights:
        return
    why, fix = (
        f"version {now} is in production, and a rollback goes back",
        f"Name an earlier one, or use {put}",
    )
    if version not in [entry.production for entry in past]:
        why, fix = f"version {version} was never in production, and a rollback approves nothing", f"Use {put}"
    elif version in before and version != now:
        why, fix = f"version {version} is another export of the weights in production", f"Use {put}"
    raise UserError(why, field="version", value=version, fix=fix)


def rolled_back(past: Sequence[ReleaseEntry]) -> dict[int, str]:
    """Return version -> why it was rolled back, of those whose weights were and were not promoted since."""
    gone = rolled_back_weights(past)
    return {
        version: gone[entry.weights] for version, entry in versions_in(past).items() if entry.weights in gone
    }


def rolled_back_weights(past: Sequence[ReleaseEntry]) -> dict[str, str]:
    """Return why weights were rolled back, by their digest."""
    return {weights: entry.reason for weights, entry in rollbacks(past).items()}


def rollbacks(past: Sequence[ReleaseEntry]) -> dict[str, ReleaseEntry]:
    """Return the newest rollback of weights that were not promoted since, by their digest."""
    versions, gone = versions_in(past), dict[str, ReleaseEntry]()
    for entry in past:
        if entry.action == ROLLBACK and entry.from_version in versions:
            gone[versions[entry.from_version].weights] = entry
        elif entry.action == PROMOTE:
            gone.pop(entry.weights, None)
    return gone


def versions_in(past: Sequence[ReleaseEntry]) -> dict[int, ReleaseEntry]:
    return {entry.version: entry for entry in past if entry.action == RELEASE}


def production_in(past: Sequence[ReleaseEntry]) -> int | None:
    return past[-1].production if past else None


def version_served(past: Sequence[ReleaseEntry], prefix: str) -> int:
    """Return the version that is served. Raises UserError where none is."""
    now = production_in(past)
    if now is None and not past:
        raise _nothing(prefix)
    if now is None:
        variant = _variant(prefix)
        fix = f"`ft-dagster release {variant}` puts one there"
        raise UserError("no version is in production", value=variant, fix=fix)
    return now


def served_before(past: Sequence[ReleaseEntry], now: int) -> list[int]:
    """Return the versions that were served before `now` was last released or promoted; the latest last."""
    served = [entry.production for entry in past]
    came = [
        at
        for at, entry in enumerate(past)
        if entry.production == now and entry.action != ROLLBACK and (at == 0 or served[at - 1] != now)
    ]
    return [version for version in served[: came[-1] if came else 0] if version is not None]


def released(past: Sequence[ReleaseEntry], version: int | None, prefix: str) -> ReleaseEntry:
    """Return the release entry of a version (None: the newest). Raises UserError where there is none."""
    versions = versions_in(past)
    if not versions:
        raise _nothing(prefix)
    if version is None:
        return versions[max(versions)]
    if version not in versions:
        known = ", ".join(str(number) for number in sorted(versions))
        raise UserError("no such version", field="version", value=version, fix=f"Released are {known}")
    return versions[version]


def _nothing(prefix: str) -> UserError:
    return UserError(
        "nothing was released of this variant",
        value=_variant(prefix),
        fix="Run it; `ft-dagster compare` shows what its gate said",
    )


def _variant(prefix: str) -> str:
    return prefix.removeprefix("tenants/").replace("/", ".")
