"""A fleet on one page: each declared variant with its state, verdict, gain, version, age and cost.

Read from declarations and the store alone, and never a row of a tenant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ft_dagster.errors import UserError
from ft_dagster.fleet.costs import CostItem, CostRow, cost_rows, read_costs
from ft_dagster.fleet.learning import waiting_version
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import aliases, history, rolled_back, served_in
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.report.charts import grouped_intervals
from ft_dagster.report.fleet import COLUMNS, FleetVariant, State, fleet_rows, gain_groups, states_sentence
from ft_dagster.report.html import HtmlTable, Report, Section, as_html
from ft_dagster.report.tables import count
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.stages.shelf import UNREADABLE, told
from ft_dagster.store import Artifact, read_head


def fleet_report(settings: Settings, tenant: str | None = None) -> str:
    """The page as HTML, of all variants or of one tenant's. Raises UserError where there is none."""
    now = datetime.now(UTC)
    found = list(fleet_variants(settings, now, tenant))
    if not found:
        fix = "`ft-dagster check` lists the declared ones"
        raise UserError("no variant to report on", field="--tenant", value=tenant, fix=fix)
    tenants = {one.variant.partition(".")[0] for one in found}
    facts = [("as of", f"{now:%Y-%m-%d %H:%M} UTC"), ("tenants", count(len(tenants)))]
    title = "Fleet" if tenant is None else f"Fleet of {tenant}"
    sections = [_table(found), _gains(found), *_broken(found)]
    return as_html(Report(title, f"{states_sentence(found)}.", facts, (), sections))


def fleet_variants(settings: Settings, now: datetime, tenant: str | None = None) -> Iterator[FleetVariant]:
    """Every declared variant, in order of key; one that cannot be read is broken, and stops no other."""
    declarations = Declarations(settings.project)
    costs = _costs(settings)
    for key in declarations:
        if tenant in (None, key.tenant):
            wrong = declarations.wrong(key)
            if wrong is not None:
                yield FleetVariant(str(key), "broken", problem=str(wrong))
                continue
            try:
                yield _variant(settings, key, costs.get(str(key), CostRow(str(key))), now)
            except UNREADABLE as error:
                yield FleetVariant(str(key), "broken", problem=told(error))


def _costs(settings: Settings) -> dict[str, CostRow]:
    """Of each variant that anything was made for."""
    items = read_costs(settings.open_store(), load_catalogue(settings.project)).items
    return {row.name: row for row in cost_rows([item for item in items if item.variant], _named)}


def _named(item: CostItem) -> str:
    return item.variant or ""


def _variant(settings: Settings, key: VariantKey, cost: CostRow, now: datetime) -> FleetVariant:
    store = settings.open_store()
    model, judged = (read_head(store, key.prefix, stage) for stage in ("fine_tuned_model", "evaluation"))
    past = history(store, key.prefix)
    served = served_in(past)
    return FleetVariant(
        variant=str(key),
        state=_state(model, judged, past),
        verdict=None if judged is None else Verdict.from_json(judged.figures["verdict"]),
        version=None if served is None else served.version,
        days=_days(served.at if served is not None else _made(model), now),
        hours=cost.hours,
        usd=None if cost.unpriced_hours else cost.usd,
    )


def _state(model: Artifact | None, judged: Artifact | None, past: Sequence[ReleaseEntry]) -> State:
    newest, serving = aliases(past)["candidate"], aliases(past)["production"]
    if newest is not None and newest != serving and newest in rolled_back(past):
        return "rolled back"
    if waiting_version(past) is not None:
        return "waits for approval"
    if serving is not None:
        return "in production"
    if model is None:
        return "never trained"
    same = judged is not None and judged.inputs["fine_tuned_model"] == model.digest
    return "not released" if same else "not judged"


def _made(model: Artifact | None) -> str | None:
    return None if model is None else str(model.predicate["created"])


def _days(stamp: str | None, now: datetime) -> float | None:
    return None if stamp is None else (now - datetime.fromisoformat(stamp)).total_seconds() / 86400


def _table(found: Sequence[FleetVariant]) -> Section:
    said = [
        "Gains and verdicts are of the newest evaluation; what is to be looked at comes first.",
        "Device hours are of all trainings, evaluations and exports that the store knows, dollars at today's "
        "price of the device: those of `ft-dagster cost --by variant`.",
    ]
    table = HtmlTable("A click on a header sorts", COLUMNS, fleet_rows(found), sortable=True)
    return Section("Variants", said, tables=[table])


def _gains(found: Sequence[FleetVariant]) -> Section:
    groups, left_out = gain_groups(found)
    said = ["Tuned against base on the variant's own task; better is to the right, the margin in red."]
    if len(groups) > 1:
        said.append("Shares first, in points, then losses, in nats a token, each on one scale.")
    if left_out:
        said.append(f"{count(left_out)} in the middle are left out.")
    return Section("Gains", said if groups else ["Nothing was judged yet."], grouped_intervals(groups))


def _broken(found: Sequence[FleetVariant]) -> list[Section]:
    rows = [(one.variant, one.problem) for one in found if one.problem]
    return [Section("Broken", tables=[HtmlTable("why", ("variant", "why"), rows)])] if rows else []
