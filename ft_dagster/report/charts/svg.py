"""Draws small pictures as SVG, to stand inline in Dagster's pages, which show markdown below 1,000
characters.

Drawn in tones that are read on white and on black. What does not fit is left out from the end.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ft_dagster.gate.rule_figures import interval_words
from ft_dagster.lineage.verdict import Outcome, Rule

if TYPE_CHECKING:
    from ft_dagster.report.training import Course

INLINE = 999  # characters of markdown that Dagster still shows without a click
SHORTEST = 16  # of these that a part takes at least
GREY, BLUE, ORANGE, GREEN, RED = "#888", "#3b82c4", "#d9822b", "#3f9d63", "#d0453a"
COLOURS = (BLUE, GREEN, ORANGE, "#8a6fc0", "#2a9d9d", "#c2588a", "#94703f", GREY)  # of lines
COLOUR_OF: dict[Outcome, str] = {"pass": GREEN, "undecided": ORANGE, "fail": RED}
WIDTH, LINE, CHARACTER = 300, 16, 6  # pixels; CHARACTER: at most, on average
LONGEST = 16  # characters of a name
FULL = 25  # the same of a bar: `adapter_model.safetensors`
BAR = 125  # pixels at most
GAP = 8  # pixels between the longest name and its bar, where the font is a wide one
POINTS = 10  # of a curve
LOOKS = 7  # of a trade-off, or of a curve that is marked at each
T = TypeVar("T")


class Bar(NamedTuple):
    """Is one bar: its name, its length, and that as people read it."""

    name: str
    value: float
    shown: str


class Link(NamedTuple):
    """Is one of a chain. `here`: the one that it is shown around."""

    words: str
    here: bool = False


def as_inline_picture(svg: str, words: str) -> str:
    """Return the picture in markdown; `words`: what it shows, for who cannot see it."""
    return f"![{words}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')})"


def fitting(draw: Callable[[Sequence[T]], str], parts: Sequence[T], words: str) -> str | None:
    """Return `draw` of as many of the first parts as stay inline; None of none."""
    return _most(draw, parts, words)[1]


def _most(draw: Callable[[Sequence[T]], str], parts: Sequence[T], words: str) -> tuple[int, str | None]:
    """Return the same, and of how many parts it is."""
    for count in range(min(len(parts), INLINE // SHORTEST), 0, -1):
        picture = as_inline_picture(draw(parts[:count]), words)
        if len(picture) <= INLINE:
            return count, picture
    return 0, None


def bar_picture(parts: Sequence[Bar], title: str, limit: float | None = None) -> str | None:
    """Return an inline picture of as many of the first bars as stay inline, below its title; `limit`: drawn
    as a red line across.
    """

    def draw(some: Sequence[Bar]) -> str:
        left_out = "" if len(some) == len(parts) else f", {len(some)} of {len(parts)}"
        return bars(some, f"{title}{left_out}", limit)

    return fitting(draw, parts, title)


def bars(parts: Sequence[Bar], title: str, mark: float | None = None) -> str:
    """Draw a bar a line, with its name and value before it, below what they are of; `mark`: a limit, as a
    line across.
    """
    largest = max([bar.value for bar in parts] + ([mark] if mark else [])) or 1.0
    scale, end, drawn = BAR / largest, LINE * (len(parts) + 1), ""
    named = [f"{_short(bar.name, FULL)} {bar.shown}" for bar in parts]
    left = CHARACTER * max(map(len, named)) + GAP
    rows = [f"<text y='{LINE * at + 12}'>{escape(text)}</text>" for at, text in enumerate([title, *named])]
    for number, bar in enumerate(parts, 1):
        drawn += f"M{left} {LINE * number + 8}h{max(round(scale * bar.value), 1)}"
    rows.append(f"<path d='{drawn}' stroke='{BLUE}'/>")
    if mark:
        x = round(left + scale * mark)
        rows.append(f"<path d='M{x} {LINE}V{end}' stroke='{RED}' stroke-width='1'/>")
    return _svg("".join(rows), end, 9, max(WIDTH, left + BAR + 2))


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], unit: str = "nats a token") -> str:
    """Draw losses, or figures of another unit, over optimizer steps, each named with its last value beside
    the axes; thinned to `POINTS`. A stroke across the axis marks each look of a curve that has few.
    """
    known = {name: thinned(points) for name, points in lines.items() if points}
    every = [point for points in known.values() for point in points]
    (left, right), (low, high) = (_span([point[axis] for point in every]) for axis in (0, 1))
    drawn, words, looks = [], [], set()
    for number, (name, points) in enumerate(known.items()):
        placed = [
            (round(30 + 160 * (x - left) / (right - left)), round(84 - 78 * (y - low) / (high - low)))
            for x, y in points
        ]
        looks |= {x for x, _ in placed} if len(placed) <= LOOKS else set()
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{x} {y}" for x, y in placed)
        named = f"{escape(name.partition(',')[0])} {points[-1][1]:.3g}"
        drawn.append(f"<path d='M{path}' stroke='{colour}'/>")
        words.append(f"<text x='195' y='{14 + LINE * number}' fill='{colour}'>{named}</text>")
    marks = "".join(f"M{x} 83v6" for x in sorted(looks))
    axes = f"<path d='M30 4V86H190{marks}' stroke='{GREY}'/>"
    words.append(f"<text y='12'>{high:.2g}</text><text y='86'>{low:.2g}</text>")
    words.append(f"<text y='101'>{unit}, steps {left:g} to {right:g}</text>")
    return _svg(f"<g fill='none'>{''.join(drawn)}{axes}</g>{''.join(words)}", 106, 1.5)


def trade_off(course: Course) -> str:
    """Draw the loss on the task upwards, on general text to the right: a dot for each look, joined in their
    order, thinned to `LOOKS`; the exported one stands out, and the limit is a line.
    """
    looks, limits = list(course.looks.values()), [] if course.limit is None else [course.limit]
    left, right = _span([*(general for general, _ in looks), *limits])
    low, high = _span([task for _, task in looks])

    def across(general: float) -> int:
        return round(40 + 144 * (general - left) / (right - left))

    def place(look: tuple[float, float]) -> str:
        return f"{across(look[0])} {round(82 - 76 * (look[1] - low) / (high - low))}"

    placed = [place(look) for look in thinned(looks, LOOKS)]
    dots = "".join(f"M{at}h0" for at in placed)
    edges = [f"<path d='M{across(limit)} 0V88' stroke='{RED}'/>" for limit in limits]
    legend = [("exported", ORANGE), *[("limit", RED)] * len(limits)]
    words = [
        f"<text x='195' y='{14 + LINE * at}' fill='{colour}'>{name}</text>"
        for at, (name, colour) in enumerate(legend)
    ]
    words += [f"<text y='10'>{high:.3g}</text><text y='86'>{low:.3g}</text><text y='48'>task</text>"]
    words += [f"<text x='30' y='99'>{left:.3g} general loss, nats a token {right:.3g}</text>"]
    exported = f"<path d='M{place(course.looks[course.exported])}h0' stroke='{ORANGE}' stroke-width='11'/>"
    return _svg(
        f"<path fill='none' d='M30 0V88H190M{'L'.join(placed)}' stroke='{GREY}'/>{''.join(edges)}"
        f"<g stroke-width='7' stroke-linecap='round'><path d='{dots}' stroke='{BLUE}'/>{exported}</g>"
        f"{''.join(words)}",
        104,
        1,
    )


def chain(parts: Sequence[Link]) -> str:
    """Draw what was made of what, a line each, from above to below: a dot on a line, and its words."""
    words = "".join(
        f"<text y='{LINE * number + 12}'>{escape(part.words)}</text>" for number, part in enumerate(parts)
    )
    here = "".join(f"M4 {LINE * at + 5}v6" for at, part in enumerate(parts) if part.here)
    end = LINE * len(parts) - 5
    drawn = (
        f"<path d='M4 5V{end}' stroke='{GREY}' stroke-width='1'/>"
        f"<path d='M4 5V{end}' stroke='{GREY}' stroke-dasharray='6 10'/><path d='{here}' stroke='{ORANGE}'/>"
    )
    return _svg(f"{drawn}<svg x='14'>{words}</svg>", LINE * len(parts), 6)


def interval_pictures(rules: Sequence[Rule]) -> list[str]:
    """Return inline pictures of the intervals of all rules of which one is known, some in each."""
    left, pictures = measured(rules), list[str]()
    while left:
        count, picture = _most(intervals, left, "changes")
        if picture is None:
            break
        pictures, left = [*pictures, picture], left[count:]
    return pictures


def intervals(rules: Sequence[Rule]) -> str:
    """Draw the interval of each rule's change beside its figures, better to the right, each on its own scale.

    The stroke across is the change that the interval is of, the grey line no change, the red one the margin.
    """
    middle, half, below = 310, 85, LINE * (len(rules) + 1)
    names, margins, drawn = [], "", dict.fromkeys(COLOUR_OF.values(), "")
    for number, rule in enumerate(rules, 1):
        y, sign = LINE * number + 8, 1 if rule.higher_is_better else -1
        ends = sorted(sign * end for end in rule.interval)
        scale = half / (reach(rule) or 1.0)
        low, dot, high, limit = (
            round(middle + scale * value) for value in (ends[0], sign * rule.estimate, ends[1], -rule.margin)
        )
        names.append(f"<text y='{y + 4}'>{escape(_short(rule.task))} {interval_words(rule)}</text>")
        margins += f"M{limit} {y - 6}v12"
        drawn[COLOUR_OF[rule.outcome]] += f"M{low} {y}H{high}M{dot} {y - 3}v6"
    paths = [f"<path d='{path}' stroke='{colour}'/>" for colour, path in drawn.items() if path]
    axis = f"<text x='{middle - 50}' y='11'>worse ← 0 → better</text>"
    thin = (
        f"<g stroke-width='1'><path d='M{middle} {LINE}V{below}' stroke='{GREY}'/>"
        f"<path d='{margins}' stroke='{RED}'/></g>"
    )
    return _svg(
        "".join(["<text y='11'>95% interval; red: margin</text>", axis, *names, *paths, thin]),
        below,
        3,
        middle + half + 5,
    )


def measured(rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules of which an interval is known, so that it can be drawn."""
    return [rule for rule in rules if all(map(math.isfinite, (rule.difference, *rule.interval)))]


def reach(rule: Rule) -> float:
    """Return how far from no change a drawing of a rule goes. Of an older verdict what was measured may lie
    outside its interval, in which a question counts up to a bound.
    """
    return max(*map(abs, rule.interval), abs(rule.estimate), rule.margin)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Return at most so many of the points, the first and the last kept."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(number * step)] for number in range(most)]


def _svg(content: str, height: int, stroke: float, width: int = WIDTH) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"style='font:11px sans-serif' fill='{GREY}' stroke-width='{stroke:g}'>{content}</svg>"
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _short(name: str, most: int = LONGEST) -> str:
    """Return the end of a long name: of a path it says more than the beginning."""
    return name if len(name) <= most else "…" + name[-most + 1 :]
