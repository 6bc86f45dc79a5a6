"""Shows a fleet on one page: each variant with its state, verdict, gain, version, age and cost.

In the words of `ft-dagster status`, and never a row of a tenant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.costs import CostItem, CostRow, cost_rows, read_costs
from ft_dagster.fleet.picture import FleetPicture
from ft_dagster.fleet.status import StatusRow
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.report.charts.report_charts import grouped_intervals
from ft_dagster.report.figures import count
from ft_dagster.report.pages.fleet import COLUMNS, FleetVariant, fleet_rows, gain_groups
from ft_dagster.report.pages.html import HtmlTable, Report, Section, as_html
from ft_dagster.report.states import states_sentence
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import EVALUATION
from ft_dagster.store import Store, read_head
from ft_dagster.versions.version_files import UNREADABLE, told


def fleet_report(settings: Settings, picture: FleetPicture, tenant: str | None = None) -> str:
    """Return the page as HTML, of all variants of a picture or of one tenant's. Raises UserError where there
    is none.
    """
    found = list(fleet_variants(settings, picture, tenant))
    if not found:
        fix = "`ft-dagster check` lists the declared ones"
        raise UserError("no variant to report on", field="--tenant", value=tenant, fix=fix)
    tenants = {one.variant.partition(".")[0] for one in found}
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    facts = [("made", made), ("states", picture.from_when), ("tenants", count(len(tenants)))]
    title = "Fleet" if tenant is None else f"Fleet of {tenant}"
    said = f"{states_sentence([one.state for one in found])}."
    rows = [row for row in picture.rows if tenant in (None, row.tenant)]
    return as_html(Report(title, said, facts, (), [_table(found), *_unserved(rows), _gains(found)]))


def fleet_variants(
    settings: Settings, picture: FleetPicture, tenant: str | None = None
) -> Iterator[FleetVariant]:
    """Return a row each; what cannot be read of one stops no other."""
    store, costs = settings.open_store(), _costs(settings)
    for row in picture.rows:
        if tenant in (None, row.tenant):
            yield _variant(store, row, costs.get(row.variant, CostRow(row.variant)))


def _costs(settings: Settings) -> dict[str, CostRow]:
    """Return the costs of each variant that anything was made for."""
    items = read_costs(settings.open_store(), load_catalogue(settings.project)).items
    return {row.name: row for row in cost_rows([item for item in items if item.variant], _named)}


def _named(item: CostItem) -> str:
    return item.variant or ""


def _variant(store: Store, row: StatusRow, cost: CostRow) -> FleetVariant:
    return FleetVariant(
        variant=row.variant,
        state=row.state,
        cause=row.cause,
        verdict=_verdict(store, VariantKey.parse(row.variant).prefix),
        version=row.shown_version,
        days=row.age_days,
        hours=cost.hours,
        usd=None if cost.unpriced_hours else cost.usd,
    )


def _verdict(store: Store, prefix: str) -> Verdict | None:
    """Return the verdict of the newest evaluation; None where there is none, or its row says why it cannot be
    read.
    """
    try:
        judged = read_head(store, prefix, EVALUATION.name)
        return None if judged is None else Verdict.from_json(judged.figures["verdict"])
    except UNREADABLE as error:
        told(error)  # raises where the storage is out of reach
        return None


def _table(found: Sequence[FleetVariant]) -> Section:
    said = [
        "Gains and verdicts are of the newest evaluation; rows are sorted by urgency.",
        "Device hours count all trainings, evaluations and exports in the store; dollars are at today's "
        "prices of the devices. `ft-dagster cost --by variant` shows the same.",
    ]
    table = HtmlTable("A click on a header sorts", COLUMNS, fleet_rows(found), sortable=True)
    return Section("Variants", said, tables=[table])


def _unserved(rows: Sequence[StatusRow]) -> list[Section]:
    """List what is in production and may no longer be served; no section where there is none."""
    cells = [
        [f"{row.variant} v{row.version}", each.rule, each.words, each.fix]
        for row in rows
        if row.unserved is not None
        for each in row.unserved.findings
    ]
    caption = "in production, and not to be served by what holds today"
    listed = HtmlTable(caption, ("version", "rule", "why", "what to do"), cells, sortable=True)
    return [Section("May no longer be served", tables=[listed])] if cells else []


def _gains(found: Sequence[FleetVariant]) -> Section:
    groups, left_out = gain_groups(found)
    said = ["Tuned against base on the variant's own task; better is to the right, the margin in red."]
    if len(groups) > 1:
        said.append("Shares first, in points, then losses, in nats a token, each on one scale.")
    if left_out:
        said.append(f"{count(left_out)} in the middle are left out.")
    return Section("Gains", said if groups else ["Nothing was judged yet."], grouped_intervals(groups))
