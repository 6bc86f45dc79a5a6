"""Shows the devices of a host as rows: who holds, who waits, since when and why."""

from __future__ import annotations

from ft_dagster.launch.status import Table
from ft_dagster.report.figures import duration

ENDS_A_RUN = "`ft-dagster cancel VARIANT|RUN` ends a run."
COLUMNS = ("state", "device", "variant", "priority", "run", "since (UTC)", "for", "why")


def status_rows(table: Table) -> list[list[str]]:
    """Return a row per device, then one per program that waits, in the order of service."""
    rows = []
    for d in table.devices:
        device = f"{d.device} {d.name}" + (" (shared)" if d.sharing == "shared" else "")
        if d.state == "free":
            rows.append([d.state, device, *[""] * 5, d.why])
        else:
            rows.append(
                [d.state, device, d.variant, *_asked(d.priority, d.run_id, d.since, d.seconds), d.why]
            )
    for w in table.waiting:
        asked = _asked(w.priority, w.run_id, w.since, w.seconds)
        rows.append([f"waits, place {w.position}", f"any {w.count}", w.variant, *asked, w.why])
    return rows


def _asked(priority: int, run_id: str, since: str, seconds: float) -> list[str]:
    return [str(priority), run_id[:8], since.removesuffix("+00:00").replace("T", " "), duration(seconds)]
