"""Draws the memory of each method as an SVG, 700 pixels wide, for a slide or a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ft_dagster.planning.estimate import SurveyDocument

WIDTH, LEFT, RIGHT, TOP, ROW, COLUMN = 700, 110, 640, 56, 26, 115  # pixels
INK, RED = "#30363d", "#b3261e"
PARTS = {  # of a device's memory, with a colour each
    "frozen": "#8fa3b8",
    "trained": "#2563a8",
    "gradients": "#c8641b",
    "states": "#d9a441",
    "activations": "#4a8a5c",
    "temporaries": "#9bc4a5",
    "communication": "#b07aa1",
    "slack": "#d3d8dd",
    "context": INK,
}


def memory_bars(document: SurveyDocument) -> str:
    """Draw a stacked bar of one device's memory for each method, as ranked; the device is a line.

    A correction learned from finished trainings moves the total beside the bar, and no part of it.
    """
    held = {row.method: document.memory_bytes[row.method] for row in document.ranking}
    largest, device = max(each.total for each in held.values()), document.device_bytes or 0
    unit, size = ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)
    shown = device if device < 3 * largest else 0
    pixels = (RIGHT - LEFT) / max(largest, shown)
    below = TOP + ROW * len(held)
    drawn = [
        f"<rect x='{COLUMN * (at % 6)}' y='{18 * (at // 6) + 6}' width='12' height='12' fill='{colour}'/>"
        f"<text x='{COLUMN * (at % 6) + 17}' y='{18 * (at // 6) + 16}'>{name}</text>"
        for at, (name, colour) in enumerate([*PARTS.items(), *([("the device", RED)] if shown else [])])
    ]
    for row, (method, memory) in enumerate(held.items()):
        y, x = TOP + ROW * row, float(LEFT)
        name = escape(method) + (" ◂" if method == document.plan.name else "")
        drawn.append(f"<text x='{LEFT - 8}' y='{y + 14}' text-anchor='end'>{name}</text>")
        for part, colour in PARTS.items():
            wide = pixels * memory.of(part)
            drawn.append(f"<rect x='{x:.1f}' y='{y}' width='{wide:.1f}' height='18' fill='{colour}'/>")
            x += wide
        at = max(x, LEFT + pixels * memory.total)
        drawn.append(f"<text x='{at + 6:.1f}' y='{y + 14}'>{memory.total / size:,.1f}</text>")
    if shown:
        drawn.append(f"<path d='M{LEFT + pixels * shown:.1f} {TOP - 6}V{below}' stroke='{RED}'/>")
    said = f"{unit} on one device at the highest moment of a step; ◂ planned"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{below + 24}' fill='{INK}' "
        f"font-family='sans-serif' font-size='12'><rect width='100%' height='100%' fill='white'/>"
        f"{''.join(drawn)}<text x='{LEFT}' y='{below + 14}'>{said}</text></svg>\n"
    )
