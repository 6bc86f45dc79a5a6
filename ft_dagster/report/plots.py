"""The memory of each method as a PNG, 700 pixels wide, for a slide or a page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ft_dagster.planning.estimate import SurveyDocument

WIDTH, DPI = 7.0, 100  # inches, dots an inch
COLOURS = 64  # of the PNG's palette: enough for anti-aliased text, a third of the bytes
INK, BLUE, ORANGE, GREEN = "#30363d", "#2563a8", "#c8641b", "#4a8a5c"
PARTS = {  # of a device's memory, with a colour each
    "frozen": "#8fa3b8",
    "trained": BLUE,
    "gradients": ORANGE,
    "states": "#d9a441",
    "activations": GREEN,
    "temporaries": "#9bc4a5",
    "communication": "#b07aa1",
    "slack": "#d3d8dd",
    "context": INK,
}


def memory_bars(document: SurveyDocument) -> bytes:
    """A stacked bar of one device's memory for each method, as ranked; the device is a line.

    A correction learned from finished trainings widens or narrows the
    bar's end.
    """
    rows = [row.method for row in document.ranking]
    chosen = document.plan.name
    held = {name: document.memory_bytes[name] for name in rows}
    scale, unit = (1e9, "GB") if max(one.total for one in held.values()) >= 1e9 else (1e6, "MB")
    figure = _figure(1.2 + 0.36 * len(rows))
    axes = figure.subplots()
    at = list(range(len(rows), 0, -1))
    left = [0.0] * len(rows)
    for part, colour in PARTS.items():
        widths = [held[name].of(part) / scale for name in rows]
        if any(widths):
            axes.barh(at, widths, left=left, color=colour, height=0.62, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    for y, name in zip(at, rows, strict=True):
        total = held[name].total / scale
        axes.plot([total, total], [y - 0.31, y + 0.31], color=INK, linewidth=1.5)
        axes.annotate(
            f"{total:,.1f}", (total, y), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    device = document.device_bytes
    if device is not None and device / scale < 3 * max(left):
        axes.axvline(device / scale, color="#b3261e", linewidth=1.5, linestyle="--", label="the device")
    axes.set_yticks(at, [f"{name} ◂" if name == chosen else name for name in rows])
    axes.set_xlabel(f"{unit} on one device at the highest moment of a step; ◂ planned")
    axes.margins(x=0.1)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=7)
    return _png(figure)


def _figure(height: float) -> Figure:
    """A figure of its own, outside pyplot's global state; savefig draws it with Agg."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    from PIL import Image

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
        axes.xaxis.label.set(size=8, color=INK)
        axes.yaxis.label.set(size=8, color=INK)
        axes.yaxis.offsetText.set(size=8)
        axes.grid(axis="x", color="#e5e8eb", linewidth=0.6)
        axes.set_axisbelow(True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    small = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, format="PNG", optimize=True)
    return small.getvalue()
