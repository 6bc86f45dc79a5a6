"""A report is one file that loads nothing, whatever stands in it."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.report.cards import without_header
from ft_dagster.report.charts.report_charts import (
    LEFT,
    MIDDLE,
    MOST,
    RIGHT,
    RuleOf,
    bar_chart,
    grouped_intervals,
    interval_chart,
    line_chart,
)
from ft_dagster.report.charts.svg import Bar
from ft_dagster.report.pages.html import SORTING, HtmlTable, Report, Section, SortedCell, VerdictBox, as_html
from tests.verdicts import stored_rule

SVG = "{http://www.w3.org/2000/svg}"
CHARTS = {
    "bars": bar_chart([Bar("data/<faq>.jsonl", 9, "9 tokens")], "all tokens, by source"),
    "lines": line_chart({"loss": [(0, 4.0), (1, 2.0), (2, float("nan"))]}, "step", "nats"),
    "intervals": interval_chart([Rule.from_json(stored_rule(task="a&b"))]),
}


class Loads(HTMLParser):
    """What a page would ask a browser to load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        self.found += [value for value in wanted if not value.startswith(("#", "data:"))]
        self.found += [tag] if tag in {"script", "iframe", "object", "embed"} else []
        self.found += [name for name, _ in attrs if name.startswith("on")]


def page(text: str) -> str:
    table = HtmlTable("rows", ("a", "b"), [[text, 1234], [None, 0.25]])
    sections = [Section("Made of", [text], CHARTS["bars"], [table, HtmlTable("empty", ("x",), [])], text)]
    return as_html(Report(text, text, [("owners", text)], [VerdictBox("passed", text, text)], sections))


def test_a_page_loads_nothing_and_runs_nothing_whatever_a_tenant_wrote() -> None:
    html = page("<script src='http://x/y.js'></script><img src=http://x onerror=alert(1)>")
    reader = Loads()
    reader.feed(html)
    assert reader.found == []
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert "&lt;script" in html


def test_the_one_script_is_allowed_by_its_digest_and_only_where_a_table_is_sorted() -> None:
    cells = [
        ["b", SortedCell("2 days", 2.0)],
        ["<a>", SortedCell("-", None)],
        ["c", SortedCell("-", math.nan)],
    ]
    table = HtmlTable("ages", ("of", "age"), cells, sortable=True)
    html = as_html(Report("t", "", (), (), [Section("x", tables=[table])]))
    [script] = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    assert script == SORTING.read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    for said in ('data-by="2.0">2 days<', 'data-by="">-<', 'data-by="&lt;a&gt;"'):
        assert said in html
    assert html.count('data-by="">-<') == 2
    assert "script" not in page("plain")


def test_a_page_has_both_colour_schemes_a_print_style_and_a_link_to_each_section() -> None:
    html = page("plain")
    for said in ("prefers-color-scheme: dark", "@media print", 'href="#Made-of"', 'id="Made-of"'):
        assert said in html
    assert "<td>1,234</td>" in html
    assert "<caption>empty</caption>" not in html


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_well_formed_and_says_its_values_under_the_pointer(name: str) -> None:
    svg = ElementTree.fromstring(CHARTS[name])
    titles = [title.text or "" for title in svg.iter(f"{SVG}title")]
    expected = {
        "bars": "data/<faq>.jsonl: 9 tokens",
        "lines": "loss: 2 at 1",
        "intervals": "a&b acc: 50.0% → 60.0%, difference +10.0 points (+0.0 to +20.0)",
    }
    assert expected[name] in titles
    assert svg.get("aria-label")


def test_a_verdict_that_passed_undecided_has_the_colour_of_what_was_found() -> None:
    content = {"passed": True, "outcome": "undecided", "rules": [stored_rule(outcome="undecided")]}
    box = VerdictBox.of(Verdict.from_json(content))
    assert (box.word, box.sentence.partition(":")[0]) == ("undecided", "Passed with warnings")


def test_charts_of_nothing_are_empty() -> None:
    assert bar_chart([], "rows") == line_chart({"loss": []}, "x", "y") == interval_chart([]) == ""


def test_what_was_measured_is_drawn_where_it_lies_outside_its_interval() -> None:
    rule = Rule.from_json(stored_rule(difference=4.0, interval=[1.5, 2.0]))
    svg = ElementTree.fromstring(interval_chart([rule]))
    [dot] = svg.iter(f"{SVG}circle")
    assert LEFT < float(dot.get("cx") or 0) <= RIGHT


def test_a_group_of_intervals_is_on_one_scale_which_it_says() -> None:
    near, far = (Rule.from_json(stored_rule(interval=[low, low + 0.1])) for low in (0.0, 0.4))
    svg = ElementTree.fromstring(grouped_intervals([[RuleOf("near", near), RuleOf("far", far)]]))
    drawn = [line for line in svg.iter(f"{SVG}line") if line.get("stroke-width") == "4"]
    ends = [float(line.get("x2") or 0) - MIDDLE for line in drawn]
    assert ends[1] == pytest.approx(5 * ends[0], rel=0.01)
    assert "better by 50.0 points" in [text.text for text in svg.iter(f"{SVG}text")]


def test_a_group_of_one_interval_says_its_scale_too() -> None:
    rule = Rule.from_json(stored_rule(interval=[0.4, 0.5]))
    svg = ElementTree.fromstring(grouped_intervals([[RuleOf("far", rule)]]))
    assert "better by 50.0 points" in [text.text for text in svg.iter(f"{SVG}text")]


def test_bars_stand_below_what_they_are_of_and_each_line_has_its_colour() -> None:
    bars = ElementTree.fromstring(CHARTS["bars"])
    assert next(text.text for text in bars.iter(f"{SVG}text")) == "all tokens, by source"
    svg = line_chart({f"{n}_proj": [(0.0, n), (1.0, n)] for n in range(7)}, "block", "rank")
    colours = {line.get("stroke") for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline")}
    assert len(colours) == 7


def test_a_long_curve_keeps_its_last_point() -> None:
    svg = line_chart({"loss": [(float(x), 1.0 / (x + 1)) for x in range(5001)]}, "step", "nats")
    dots = re.findall(r"loss: [\d.e-]+ at (\d+)", svg)
    assert len(dots) <= MOST + 1
    assert dots[-1] == "5000"


def test_a_card_is_shown_without_its_header() -> None:
    assert without_header("---\ntags: [a]\n---\n\n# acme\n\n---\nend\n") == "# acme\n\n---\nend\n"
    assert without_header("# acme\n") == "# acme\n"


def test_a_command_in_a_paragraph_is_code_and_its_marks_are_gone() -> None:
    html = as_html(Report("x", "y", (), (), (), lead=["Run `ft-dagster run <a>` now"]))
    assert "<p>Run <code>ft-dagster run &lt;a&gt;</code> now</p>" in html
    assert "`" not in html
