"""The fleet page: whose words it uses, where it leads, how it filters, and that a name is only text."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from ft_dagster.fleet.budgets import ALL, BudgetRow, budget_rows, budget_sentence
from ft_dagster.fleet.due.budget_ledger import Charge
from ft_dagster.fleet.due.costs import CostItem, CostRow
from ft_dagster.fleet.due.retrain_cost import Amount
from ft_dagster.fleet.live_page import (
    Approval,
    FleetNow,
    FleetQuery,
    RunNow,
    fleet_page,
    variant_page,
)
from ft_dagster.fleet.picture import FleetPicture
from ft_dagster.fleet.status import StatusRow
from ft_dagster.fleet.table.version import Gain
from ft_dagster.fleet_settings import FleetSettings
from ft_dagster.launch.status import Holding, Table, Waiting
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.report.pages.live import as_live_html
from ft_dagster.report.states import VariantStatus
from ft_dagster.stage_entries import FINE_TUNED_MODEL

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>`<b>`"


class Seen(HTMLParser):
    """Collects what a browser would: elements with their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def links(self) -> list[str]:
        return [str(given["href"]) for tag, given in self.elements if tag == "a"]


def row(key: str, state: VariantStatus = "fresh", **known: Any) -> StatusRow:
    plain: dict[str, Any] = {
        "tenant": key.partition(".")[0], "variant": key, "state": state, "cause": "", "causes": (),
        "version": 1, "waiting": None, "taken_back": None, "judged": "passed", "verdict": "Passed: all rules",
        "digest": "ab" * 32, "gain": None, "over_production": None, "age_days": 2.0, "hours": 1.5, "usd": 3.0,
        "next": None, "why": "no retrain configured", "result": "", "next_step": "",
    }  # fmt: skip
    return StatusRow(**plain | known)


def now(*rows: StatusRow, **known: Any) -> FleetNow:
    return FleetNow(FleetPicture(list(rows), True, NOW), **known)


def shown(fleet: FleetNow, **asked: str) -> str:
    return as_live_html(fleet_page(fleet, FleetQuery.of(asked)))


def test_a_failing_variant_is_red_says_why_and_comes_before_a_fresh_one() -> None:
    page = shown(
        now(row("acme.fresh"), row("acme.bad", "failing", cause="2 runs in a row failed: disk full"))
    )
    assert page.index("acme.bad") < page.index("acme.fresh")
    assert '<td class="bad word">failing</td>' in page
    assert "2 runs in a row failed: disk full" in page
    assert '<td class="good word">fresh</td>' in page


def test_each_row_leads_to_its_variant_whose_page_leads_to_each_of_dagsters() -> None:
    one = row("acme.bad", "failing")
    assert "/fleet/acme.bad" in Seen(shown(now(one))).links
    links = Seen(as_live_html(variant_page(now(one), one, [], [], ["evaluation", "release"]))).links
    assert "/assets/evaluation?view=partitions&partition=acme.bad" in links
    assert "/fleet/acme.bad/report" in links


def test_a_short_cell_is_not_cut_in_two_and_a_long_one_may_be() -> None:
    gain = Gain("exam", "completion_loss", 3.75, 2.903, True)
    page = shown(now(row("acme.fresh", "running", gain=gain, cause="a cause of some length")))
    for short in ("running", "loss -0.847 nats", "2.0 d"):
        assert re.search(rf'<td class="[a-z ]*word">{re.escape(short)}</td>', page), short
    assert "<td>a cause of some length</td>" in page


def test_a_hostile_name_is_text_wherever_it_stands() -> None:
    bad = row("acme.bad", "failing", cause=HOSTILE, verdict=HOSTILE, why=HOSTILE)
    fleet = now(
        bad,
        owners={"acme.bad": [HOSTILE]},
        problems=[HOSTILE],
        runs=[RunNow(HOSTILE, "ab12", "queued", HOSTILE, 1.0, HOSTILE, HOSTILE)],
        approvals=[Approval("acme.bad", 2, "", [HOSTILE], HOSTILE)],
        devices=Table("gpu", (Holding("0", HOSTILE, None, "held", variant=HOSTILE, why=HOSTILE),), ()),
        budgets=[BudgetRow(CostRow(HOSTILE))],
        tool=HOSTILE,
    )
    pages = [shown(fleet, q=""), shown(fleet, q=HOSTILE, tenant=HOSTILE, state=HOSTILE, sort=HOSTILE)]
    pages.append(as_live_html(variant_page(fleet, bad, [], [], [])))
    for page in pages:
        seen = Seen(page)
        assert sum(tag == "script" for tag, _ in seen.elements) == 1  # its own
        assert not [tag for tag, _ in seen.elements if tag in ("img", "b", "iframe")]
        assert not [name for _, given in seen.elements for name in given if name.startswith("on")]
        assert all(link.startswith("/") for link in seen.links)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"q": "ANNA full"}, ["acme.bad"]),
        ({"q": "passed"}, ["acme.bad", "acme.fresh", "globex.fresh"]),
        ({"tenant": "globex"}, ["globex.fresh"]),
        ({"state": "fresh"}, ["acme.fresh", "globex.fresh"]),
        ({"state": "fresh", "tenant": "acme"}, ["acme.fresh"]),
        ({"q": "nothing like it"}, []),
    ],
)
def test_a_filter_leaves_what_it_asks_for(asked: dict[str, str], left: list[str]) -> None:
    fleet = now(
        row("acme.bad", "failing", cause="disk full"),
        row("acme.fresh"),
        row("globex.fresh"),
        owners={"acme.bad": ["anna@acme.example"], "acme.fresh": ["ben@acme.example"]},
    )
    links = Seen(shown(fleet, **asked)).links
    assert sorted(link.removeprefix("/fleet/") for link in links if "." in link) == left


def test_a_header_sorts_and_keeps_what_is_filtered() -> None:
    fleet = now(row("acme.cheap", hours=1.0), row("acme.dear", hours=9.0))
    page = shown(fleet, tenant="acme", sort="cost")
    assert page.index(">acme.dear<") < page.index(">acme.cheap<")
    assert "/fleet?tenant=acme&sort=age" in Seen(page).links
    assert ("input", {"type": "hidden", "name": "sort", "value": "cost"}) in Seen(page).elements


def test_of_many_variants_the_first_are_shown_and_all_where_they_are_asked_for() -> None:
    fleet = now(*(row(f"acme.v{number}") for number in range(500)))
    page = Seen(shown(fleet))
    assert sum(link.startswith("/fleet/acme.") for link in page.links) == 100
    assert "/fleet?all=1" in page.links
    assert "show 400 more" in page.text
    assert sum(link.startswith("/fleet/acme.") for link in Seen(shown(fleet, all="1")).links) == 500


def test_the_page_of_many_variants_names_no_option_that_it_does_not_have() -> None:
    page = shown(FleetNow(FleetPicture([row("acme.a")], False, NOW)))
    assert "1 variant: 1 fresh; as of 2026-11-30 12:00 UTC." in page
    assert "--exact" not in page


def test_a_version_that_waits_is_shown_with_who_may_approve_it_and_the_command() -> None:
    waiting = Approval("acme.a", 3, "2026-11-29T10:00:00+00:00", ["anna", "ben"], "nothing passes unmeasured")
    page = shown(
        now(row("acme.a", "approval", waiting=3), approvals=[waiting], tool="ft-dagster --project /p")
    )
    for said in ("Waits for approval", "anna or ben", "2026-11-29 10:00", "nothing passes unmeasured"):
        assert said in page
    assert "<code>ft-dagster --project /p release acme.a --version 3</code>" in page
    assert "Waits for approval" not in shown(now(row("acme.a")))


def test_it_shows_what_runs_on_which_device_and_who_waits_for_whom() -> None:
    held = Holding("0", "H100", None, "held", "exclusive", "acme.a", "acme", "run-a", why="training")
    waits = Waiting(1, "acme.b", "acme", "run-b", 0, 1, "", 5.0, "training: needs 1, 0 free for it")
    runs = [
        RunNow("acme.a", "run-a", "started", "fine_tuned_model", 1.0, "####---- 12/64"),
        RunNow("acme.c", "run-c", "queued", waits="run run-a of this tenant is to end before"),
    ]
    devices = Table("gpu", (held, replace(held, device="1", state="free")), (waits,))
    page = shown(now(row("acme.a"), row("acme.b"), devices=devices, runs=runs, more_runs=7))
    for said in ("1 of 2 devices of this host free", "0 H100", "needs 1, 0 free for it", "####---- 12/64"):
        assert said in page
    assert "run run-a of this tenant is to end before" in page
    assert "7 more wait in the queue" in page
    assert "/runs/run-c" in Seen(page).links


def test_costs_and_budgets_are_those_of_cost_and_of_the_ledger() -> None:
    item = CostItem(NOW, "acme", "acme.a", FINE_TUNED_MODEL.name, 2.0, "H100", 3.0)
    before = item._replace(at=NOW - timedelta(days=40))
    shared = CostItem(NOW, "shared", None, "general_scores", 1.0, "H100", 3.0)
    fleet = FleetSettings.model_validate(
        {"budget": {"hours_per_day": 4}, "per_tenant": {"acme": {"usd_per_month": 5}}}
    )
    charges = [Charge(NOW.date(), "acme", Amount(1.5, 5.0))]
    rows = {
        each.cost.name: each
        for each in budget_rows([item, before, shared], ["acme", "globex"], charges, fleet, NOW)
    }
    assert rows["acme"].cells == [
        "acme",
        "2",
        "4",
        "12.00",
        "2",
        "6.00",
        "1.5 h, $5.00",
        "1.5 h, $5.00 of $5.00",
    ]
    assert rows["acme"].is_spent
    assert rows["globex"].cells == ["globex", "0", "0", "0.00", "0", "0.00", "0 h", "0 h"]
    assert rows["shared"].cells[-2:] == ["-", "-"]
    assert rows[ALL].cells == ["all", "2", "5", "15.00", "3", "9.00", "1.5 of 4 h, $5.00", "1.5 h, $5.00"]
    assert not rows[ALL].is_spent
    assert rows[ALL].month_limit == Amount(math.inf, math.inf)


def test_of_one_tenant_it_is_said_what_is_charged_of_its_budget() -> None:
    fleet = FleetSettings.model_validate({"per_tenant": {"acme": {"usd_per_month": 5}}})
    charges = [Charge(NOW.date(), "acme", Amount(1.5, 4.0))]
    said = budget_sentence("acme", charges, fleet, NOW)
    assert said == "retrains of acme were charged 1.5 h, $4.00 today, 1.5 h, $4.00 of $5.00 this month"
    assert budget_sentence("globex", charges, fleet, NOW).startswith("globex has no budget of its own")


def test_the_variants_page_begins_with_what_came_of_it_and_what_to_do_next() -> None:
    one = row("acme.a", result="Exact match 0.0% → 67.5% on 40 questions", next_step="Ask about 66 questions")
    page = as_live_html(variant_page(now(one), one, [], [], []))
    assert (
        page.index("Exact match 0.0% → 67.5%") < page.index("Ask about 66 questions") < page.index("owners")
    )


def test_the_way_back_is_given_only_where_another_version_was_in_production() -> None:
    one = row("acme.a", version=2)
    first, second = (
        ReleaseEntry(
            "release", "acme.a", version, version, "", "", "adapter", f"weights {version}", "", "ann", "", ""
        )
        for version in (1, 2)
    )
    assert "rollback" not in as_live_html(variant_page(now(one), one, [second], [], []))
    page = as_live_html(variant_page(now(one), one, [first, second], [], []))
    assert "Go back to version 1" in page
    assert "rollback acme.a --reason" in page


def test_the_variants_page_gives_the_commands_with_its_name_filled_in() -> None:
    one = row("acme.a", "approval", version=2, waiting=3)
    page = as_live_html(variant_page(now(one), one, [], [], []))
    for command in (
        "release acme.a --version 3",
        "audit model acme.a@2 --save",
        "audit at acme.a DATE --save",
        "run acme.a",
    ):
        assert f"<pre>ft-dagster {command}</pre>" in page


def test_beside_what_runs_stands_the_command_that_ends_it() -> None:
    one = row("acme.a", "running")
    going = now(one, runs=[RunNow("acme.a", "ab12", "started")])
    for page in (shown(going), as_live_html(variant_page(going, one, [], [], []))):
        assert "ft-dagster cancel VARIANT|RUN" in page
    assert "ft-dagster cancel" not in shown(now(one))
