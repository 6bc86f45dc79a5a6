"""Draws charts of a report as SVG: values under the pointer, no script, read on the page's light and dark."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from ft_dagster.gate.rule_figures import difference, interval_words
from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.charts.svg import COLOUR_OF, COLOURS, GREY, ORANGE, RED, Bar, measured, reach
from ft_dagster.report.figures import change, is_share
from ft_dagster.report.training import GENERAL, NATS, TASK, Course

WIDTH, LEFT, RIGHT = 720, 230, 700  # pixels: of the chart, and of its drawing between names and edge
VALUES = 190  # pixels: of the column of values beside a drawing
MIDDLE = (LEFT + RIGHT) / 2
CHARACTER = 6.6  # pixels, on average
ROW = 22
MOST = 400  # points of a line
Lines = Mapping[str, Sequence[tuple[float, float]]]


def bar_chart(parts: Sequence[Bar], title: str) -> str:
    """Draw a bar a line below what they are of, nothing of none."""
    if not parts:
        return ""
    largest = max(bar.value for bar in parts) or 1.0
    scale = (RIGHT - LEFT - 90) / largest
    rows = [f'<text x="{LEFT}" y="16">{escape(title)}</text>']
    for number, bar in enumerate(parts, 1):
        y, wide = ROW * number, max(1.0, scale * bar.value)
        said = _title(f"{bar.name}: {bar.shown}")
        box = f'x="{LEFT}" y="{y + 4}" width="{wide:.1f}" height="14"'
        shown = f'<text x="{LEFT + wide + 6:.1f}" y="{y + 16}">{escape(bar.shown)}</text>'
        bar_of = f'<rect {box} fill="{COLOURS[0]}"/>'
        rows.append(f"<g>{said}{_name(bar.name, y)}{bar_of}{shown}</g>")
    return _svg("".join(rows), ROW * (len(parts) + 1), title)


def line_chart(lines: Lines, x_name: str, y_name: str, marked: Collection[str] = ()) -> str:
    """Draw lines over the same axes, each point with its value; the points of `marked` lines stand out."""
    known = {name: _some(points) for name, points in lines.items() if points}
    every = [point for points in known.values() for point in points]
    if not every:
        return ""
    frame = _Frame(*(_span([point[axis] for point in every]) for axis in (0, 1)))
    parts = [frame.drawn(x_name, y_name)]
    for number, (name, points) in enumerate(known.items()):
        colour, placed = COLOURS[number % len(COLOURS)], [frame.place(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        hidden = "" if name in marked or len(points) == 1 else ' class="dot"'
        dots = [
            f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour}"{hidden}>'
            f"{_title(f'{name}: {y:.4g} at {x:g}')}</circle>"
            for at, (x, y) in zip(placed, points, strict=True)
        ]
        wide = 640 / max(2, len(known))
        shown = _short(name, int(wide / CHARACTER))
        legend = f'<text x="{70 + wide * number:g}" y="14" fill="{colour}">{escape(shown)}</text>'
        line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        parts.append("".join([line, *dots, legend]))
    return _svg("".join(parts), 252, f"{y_name} over {x_name}")


def course_chart(course: Course | None) -> str:
    """Draw a dot for each look of a training, forgetting to the right, joined in their order; the exported
    one stands out, and the limit is a line. Nothing of none.
    """
    if course is None:
        return ""
    general, task = zip(*course.looks.values(), strict=True)
    limits = [] if course.limit is None else [course.limit]
    frame = _Frame(_span([*general, *limits]), _span(task))
    path = " ".join("{:.1f},{:.1f}".format(*frame.place(*look)) for look in course.looks.values())
    parts = [
        frame.drawn(f"{GENERAL}, {NATS}", f"{TASK}, {NATS}"),
        f'<polyline points="{path}" fill="none" stroke="{GREY}"/>',
    ]
    for limit in limits:
        x, _ = frame.place(limit, task[0])
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="210" stroke="{RED}"/>'
        parts.append(f"<g>{_title(f'limit: {limit:.3f}')}{line}</g>")
    for step, look in course.looks.items():
        x, y = frame.place(*look)
        radius, colour = (6, ORANGE) if step == course.exported else (4, COLOURS[0])
        dot = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"'
        parts.append(f"<circle {dot}>{_title(course.place(step))}</circle>")
    names = [("exported", ORANGE), *[("limit", RED)] * len(limits)]
    parts += [
        f'<text x="{70 + 80 * at}" y="14" fill="{colour}">{name}</text>'
        for at, (name, colour) in enumerate(names)
    ]
    return _svg("".join(parts), 252, f"{TASK} over {GENERAL}")


class Point(NamedTuple):
    """Is a value with its interval, by the name of what it is of."""

    name: str
    value: float
    reach: tuple[float, float]


def descent_chart(points: Sequence[Point], reference: int | None, limit: float | None, y_name: str) -> str:
    """Draw a dot with its interval for each version, joined in their order; the one at `reference` stands
    out, and the limit is a line.
    """
    known = [value for each in points for value in (each.value, *each.reach) if math.isfinite(value)]
    limits = [] if limit is None else [limit]
    frame = _Frame(_span([1.0, float(len(points))]), _span([*known, *limits] or [0.0]))
    named = f'<text x="60" y="12">{escape(y_name)}</text>'  # too long to stand beside the axis
    drawn, line = [_axis(*frame.up), named], list[str]()
    drawn.append('<text x="380" y="246" text-anchor="middle">version</text>')
    for worst in limits:
        _, y = frame.place(1.0, worst)
        across = f'<line x1="60" x2="700" y1="{y:.1f}" y2="{y:.1f}" stroke="{RED}"/>'
        drawn.append(f"<g>{_title(f'limit: {worst:.4g}')}{across}</g>")
    for at, each in enumerate(points):
        x, _ = frame.place(at + 1.0, frame.up[0])
        shown = f'<text x="{x:.1f}" y="228" text-anchor="middle">{escape(_short(each.name, 14))}</text>'
        drawn.append(shown)
        if not all(map(math.isfinite, (each.value, *each.reach))):
            continue
        y, low, high = (frame.place(1.0, value)[1] for value in (each.value, *each.reach))
        colour, radius = (ORANGE, 6) if at == reference else (COLOURS[0], 4)
        line.append(f"{x:.1f},{y:.1f}")
        said = _title(f"{each.name}: {each.value:.4g} ({each.reach[0]:.4g} to {each.reach[1]:.4g})")
        drawn.append(
            f'<g>{said}<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/></g>'
        )
    path = f'<polyline points="{" ".join(line)}" fill="none" stroke="{COLOURS[0]}"/>'
    return _svg("".join([path, *drawn]), 252, f"{y_name} by version")


class RuleOf(NamedTuple):
    """Names a rule by what it was asked of."""

    name: str
    rule: Rule


def interval_chart(rules: Sequence[Rule]) -> str:
    """Draw the interval of each rule's change, better to the right, each on its own scale; the margin in
    red.
    """
    return grouped_intervals([[RuleOf(rule.task, rule)] for rule in rules], scaled=False)


def grouped_intervals(groups: Iterable[Sequence[RuleOf]], *, scaled: bool = True) -> str:
    """Draw groups of rules, one below the other, with their intervals in figures; what is in a group is on
    one scale, which is said where they are `scaled`.
    """
    rows, y = list[str](), 0
    for group in groups:
        known = [one for one in group if measured([one.rule])]
        largest = max((reach(rule) for _, rule in known), default=0.0)
        for one in known:
            rows.append(_interval(one, y, largest or 1.0))
            y += ROW
        if known and scaled:
            rows.append(_scale(known[0].rule, y, largest))
            y += ROW
    zero = f'<line x1="{MIDDLE}" x2="{MIDDLE}" y1="0" y2="{y}" stroke="{GREY}"/>'
    ends = ((LEFT, "start", "← worse"), (MIDDLE, "middle", "no change"), (RIGHT, "end", "better →"))
    axis = "".join(_below(x, y, side, words) for x, side, words in (*ends, (RIGHT + 10, "start", "interval")))
    drawn = "".join([zero, *rows, axis])
    return _svg(drawn, y + ROW, "changes with their intervals", WIDTH + VALUES) if rows else ""


def _scale(rule: Rule, top: int, largest: float) -> str:
    """Say what the edges of a group stand for."""
    share = is_share(rule.metric, (rule.base, rule.tuned))
    edge = f"{100 * largest:.1f} points" if share else f"{largest:.3g} nats a token"
    ends = ((LEFT, "start", "worse by "), (RIGHT, "end", "better by "))
    return "".join(_below(x, top, side, f"{words}{edge}") for x, side, words in ends)


def _below(x: float, top: float, side: str, words: str) -> str:
    """Write what an axis says below a drawing."""
    return f'<text x="{x}" y="{top + 14}" text-anchor="{side}" fill="{GREY}">{words}</text>'


def _interval(one: RuleOf, top: int, largest: float) -> str:
    """Draw a row of an interval chart; `largest`: the value at its edge."""
    rule, y, sign = one.rule, top + 11, 1 if one.rule.higher_is_better else -1
    scale = ((RIGHT - LEFT) / 2 - 10) / largest
    ends = sorted(sign * end for end in rule.interval)
    low, dot, high, limit = (
        MIDDLE + scale * value for value in (ends[0], sign * rule.estimate, ends[1], -rule.margin)
    )
    colour, moved = COLOUR_OF[rule.outcome], change(rule.metric, rule.base, rule.tuned)
    said = f"{one.name} {rule.metric}: {moved}, difference {difference(rule)}"
    return (
        f"<g>{_title(said)}{_name(one.name, top)}"
        f'<rect x="{LEFT}" y="{y - 10}" width="{RIGHT - LEFT}" height="20" fill="transparent"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="4"/>'
        f'<circle cx="{dot:.1f}" cy="{y}" r="5" fill="{colour}"/>'
        f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{RED}"/>'
        f'<text x="{RIGHT + 10}" y="{y + 4}">{escape(interval_words(rule))}</text></g>'
    )


class _Frame(NamedTuple):
    """Holds the axes of a chart of points: (least, most) of x and of y."""

    across: tuple[float, float]
    up: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return a point in pixels."""
        (left, right), (low, high) = self
        return 60 + 640 * (x - left) / (right - left), 210 - 190 * (y - low) / (high - low)

    def drawn(self, x_name: str, y_name: str) -> str:
        (left, right), (low, high) = self
        middle = (left + right) / 2
        between = [(380, middle, "middle")] if middle.is_integer() else []
        ends = "".join(
            f'<text x="{x}" y="228" text-anchor="{where}">{_tick(value)}</text>'
            for x, value, where in ((60, left, "start"), *between, (700, right, "end"))
        )
        named = f'<text x="380" y="246" text-anchor="middle">{escape(x_name)}</text>'
        return _axis(low, high, y_name) + named + ends


def _tick(value: float) -> str:
    """Write a step as it is, and a loss to four digits."""
    return f"{value:g}" if float(value).is_integer() else f"{value:.4g}"


def _axis(low: float, high: float, name: str = "") -> str:
    """Draw three lines across with their values, and the name beside them."""
    lines = []
    for share in (0.0, 0.5, 1.0):
        y, value = 210 - 190 * share, low + share * (high - low)
        lines.append(
            f'<line x1="60" x2="700" y1="{y}" y2="{y}" stroke="{GREY}" stroke-opacity="0.3"/>'
            f'<text x="54" y="{y + 4}" text-anchor="end">{value:.4g}</text>'
        )
    turned = f'<text x="14" y="115" text-anchor="middle" transform="rotate(-90 14 115)">{escape(name)}</text>'
    return "".join([*lines, turned] if name else lines)


def _name(name: str, y: float) -> str:
    return f'<text x="{LEFT - 8}" y="{y + 16:g}" text-anchor="end">{escape(_short(name, 34))}</text>'


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _some(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [point for point in points if all(map(math.isfinite, point))]
    step = max(1, math.ceil(len(finite) / MOST))
    return [*finite[::step], *([finite[-1]] if finite and (len(finite) - 1) % step else [])]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _svg(content: str, height: int, words: str, width: int = WIDTH) -> str:
    view, label = f'viewBox="0 0 {width} {height + 4}"', f'role="img" aria-label="{escape(words)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view} {label}>{content}</svg>'
