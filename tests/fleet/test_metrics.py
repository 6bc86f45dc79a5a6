"""What Prometheus is given, and a dashboard that asks for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ft_dagster.fleet.due.costs import CostRow
from ft_dagster.fleet.metrics import FleetFigures, as_text

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana-dashboard.json"
FIGURES = FleetFigures(
    costs=(
        CostRow("acme", trainings=3, passed=2, failed=1, planned_hours=4.0, training_hours=5.0, usd=9.5),
        CostRow('odd"name\\', evaluation_hours=0.25, unpriced_hours=0.25),
    ),
    damaged=1,
    variants={"idle": 7, "parked": 1},
    failures={"acme": 2},
    runs={("acme", "queued"): 3},
    devices={"free": 1, "held": 3},
    waiting=2,
    untold={"ops": 4},
    at=1_700_000_000.0,
    seconds=1.5,
)


def samples(figures: FleetFigures = FIGURES) -> dict[tuple[str, ...], float]:
    """(name, values of its labels in order of their names) -> value, as a reader of the format finds them."""
    families = text_string_to_metric_families(as_text(figures))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def labels() -> dict[str, set[str]]:
    """Name of a metric -> those of its labels."""
    families = text_string_to_metric_families(as_text(FIGURES))
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_figures_are_read_as_they_were_given() -> None:
    found = samples()
    assert found["ft_dagster_cost_hours_total", "training", "acme"] == 5.0
    assert found["ft_dagster_cost_hours_total", "evaluation", 'odd"name\\'] == 0.25
    assert found["ft_dagster_cost_usd_total", "acme"] == 9.5
    assert found["ft_dagster_planned_hours_total", "acme"] == 4.0
    assert found["ft_dagster_trainings_total", "passed", "acme"] == 2
    assert found["ft_dagster_trainings_total", "failed", "acme"] == 1
    assert found["ft_dagster_variants", "parked"] == 1
    assert found["ft_dagster_failures", "acme"] == 2
    assert found["ft_dagster_runs", "queued", "acme"] == 3
    assert found["ft_dagster_devices", "held"] == 3
    assert found["ft_dagster_devices_waiting",] == 2
    assert found["ft_dagster_events_waiting", "ops"] == 4
    assert found["ft_dagster_damaged_manifests",] == 1
    assert found["ft_dagster_read_timestamp_seconds",] == 1_700_000_000.0
    assert found["ft_dagster_read_failed",] == 0


def test_an_empty_fleet_has_figures_too() -> None:
    assert samples(FleetFigures())["ft_dagster_devices_waiting",] == 0


def board() -> Any:
    return json.loads(DASHBOARD.read_text("utf-8"))


def test_every_expression_of_the_dashboard_names_metrics_and_labels_that_there_are() -> None:
    known, found = labels(), board()
    asked = [target["expr"] for panel in found["panels"] for target in panel["targets"]]
    asked += [each["definition"] for each in found["templating"]["list"] if each["type"] == "query"]
    used = set[str]()
    for expression in asked:
        names = re.findall(r"\bft_dagster_\w+", expression)
        assert names, expression
        assert set(names) <= known.keys(), expression
        used |= set(names)
        has = set.intersection(*(known[name] for name in names))
        matched = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression)
        grouped = [
            label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")
        ]
        assert {*matched, *grouped} <= has, expression
    assert used == known.keys()


def test_legends_name_labels_that_are_left() -> None:
    known = labels()
    for panel in board()["panels"]:
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            (name, *_) = re.findall(r"\bft_dagster_\w+", target["expr"])
            assert wanted <= (set(grouped[0].split(",")) if grouped else known[name]), target


def test_the_dashboard_has_what_grafana_reads_of_one() -> None:
    found = board()
    assert found["title"]
    assert re.fullmatch(r"[\w-]{1,40}", found["uid"])
    assert found["schemaVersion"] >= 36
    assert {"from", "to"} <= found["time"].keys()
    variables = {each["name"]: each for each in found["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    assert found.get("id") is None  # else Grafana takes it for one that it has
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set[tuple[int, int]]()
    for panel in found["panels"]:
        assert panel["type"] in {"stat", "timeseries", "table"}
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["overrides"] == []
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(found)))
    assert used <= {*variables, "__all"}
