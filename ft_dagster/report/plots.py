"""Plots as small PNGs, 700 pixels wide, to stand inside Dagster's markdown metadata."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.data.mixture_figures import SourceFigures
from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.tables import count, is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ft_dagster.planning.estimate import SurveyDocument

WIDTH, DPI = 7.0, 100  # inches, dots an inch
COLOURS = 64  # of the PNG's palette: enough for anti-aliased text, a third of the bytes
INK, GREY, BLUE, ORANGE, GREEN = "#30363d", "#a3adb8", "#2563a8", "#c8641b", "#4a8a5c"
LINES = ("-", ":", "-.", "--")
LOWEST = 1e4  # a singular value this much below the largest has the darkest colour
GENERAL = "general:"  # prefix of a general corpus among the sources of a mixture


def as_markdown_image(png: bytes) -> str:
    """The image inline, for `MetadataValue.md`."""
    return f"![](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def training_curves(log: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines of log.jsonl: the losses, below them how the steps went, and below that what was forgotten.

    The last row is there where a general benchmark was asked or held-out general text was measured.
    """
    rows = list(log)
    general = [row for row in rows if row.get("general_holdout_loss") is not None or "benchmark" in row]
    figure = _figure(5.4 if general else 3.9)
    heights = [2.2, 1.2, 1.5] if general else [2.2, 1.2]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    loss = parts[0].subplots()
    _curve(loss, rows, "loss", "training loss (each step)", color=GREY, linewidth=1)
    _curve(
        loss,
        rows,
        "validation_loss",
        f"validation loss{_on(rows, 'validation_loss')}",
        color=BLUE,
        marker="o",
        markersize=4,
    )
    loss.set_ylabel("nats a token")
    loss.set_xlabel("optimizer step")
    if loss.lines:
        loss.legend(frameon=False, fontsize=8)
    _steps(parts[1], rows)
    if general:
        _forgetting(parts[2], rows)
    return _png(figure, "both")


def _steps(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Three small panels side by side: gradient norm, learning rate, tokens a second."""
    norm, rate, speed = figure.subplots(1, 3)
    _curve(norm, rows, "grad_norm", "", color=GREY, linewidth=1)
    _curve(rate, rows, "learning_rate", "", color=ORANGE, linewidth=1.2)
    timed = [
        {"step": row["step"], "speed": row["tokens"] / row["seconds"]} for row in rows if row.get("seconds")
    ]
    _curve(speed, timed, "speed", "", color=BLUE, linewidth=1)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    speed.yaxis.set_major_formatter(lambda value, _: count(value))
    for axes, name in ((norm, "gradient norm"), (rate, "learning rate"), (speed, "tokens a second")):
        axes.set_title(name, fontsize=8, color=INK)
        axes.set_ylim(bottom=0)


def _forgetting(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Two panels: loss on general text, and accuracy on general questions; one where there is one."""
    asked = [{"step": row["step"], **row["benchmark"]} for row in rows if "benchmark" in row]
    panels = figure.subplots(1, 2 if asked else 1, squeeze=False)[0]
    _curve(panels[0], rows, "general_holdout_loss", "", color=GREEN, marker="s", markersize=4, linestyle="--")
    panels[0].set_title(
        f"loss on held-out general text{_on(rows, 'general_holdout_loss')}", fontsize=8, color=INK
    )
    panels[0].set_ylabel("nats a token")
    if not asked:
        return
    tasks = [name for name in asked[0] if name not in {"step", "mean"}]
    for number, task in enumerate(tasks):
        shade = {"color": GREY, "linewidth": 1, "linestyle": LINES[number % len(LINES)]}
        _curve(panels[1], asked, task, _short(task, 18), **shade)
    _curve(panels[1], asked, "mean", "mean", color=GREEN, marker="s", markersize=4)
    panels[1].set_title("accuracy on general benchmarks", fontsize=8, color=INK)
    panels[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    panels[1].legend(frameon=False, fontsize=7)


def _on(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """On what a loss was measured: " (16 of 95 examples)"; a log of version 0.1 does not say."""
    return next((f" ({row['on']})" for row in rows if name in row and "on" in row), "")


def spectrum_plot(layers: Sequence[Mapping[str, Any]]) -> bytes:
    """The `layers` of spectrum.json: singular values (log scale) and effective rank of every update.

    One column a layer, those of a kind (q_proj, ...) side by side in the order of the blocks.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        kinds.setdefault(layer["name"].rsplit(".", 1)[-1], []).append(layer)
    ordered = [layer for kind in kinds.values() for layer in kind]
    figure = _figure(3.8)
    heat, ranks = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    _heat(figure, heat, ordered)
    known = [(at, layer["effective_rank"]) for at, layer in enumerate(ordered) if "effective_rank" in layer]
    ranks.plot([at for at, _ in known], [rank for _, rank in known], color=BLUE, marker=".", linestyle="none")
    ranks.step(
        range(len(ordered)), [layer["rank"] for layer in ordered], where="mid", color=GREY, linewidth=1
    )
    ranks.set_ylabel("effective rank")
    ranks.set_ylim(bottom=0)
    edges = [0]
    for kind in kinds.values():
        edges.append(edges[-1] + len(kind))
    for axes in (heat, ranks):
        for edge in edges[1:-1]:
            axes.axvline(edge - 0.5, color="white" if axes is heat else GREY, linewidth=1)
    middles = [(first + last - 1) / 2 for first, last in pairwise(edges)]
    turned = {"rotation": 30, "ha": "right"} if len(kinds) > 8 else {}
    ranks.set_xticks(middles, [_short(kind, 14) for kind in kinds], **turned)
    ranks.set_xlabel("layers by kind, each in the order of the blocks")
    return _png(figure, "y")


def _heat(figure: Figure, axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """Values down (largest on top), layers across; what is zero or beyond a layer's rank stays empty."""
    import numpy as np
    from matplotlib.colors import LogNorm

    deepest = max((len(layer["values"]) for layer in layers), default=1)
    grid = np.full((deepest, max(1, len(layers))), np.nan)
    for at, layer in enumerate(layers):
        grid[: len(layer["values"]), at] = layer["values"]
    grid[~(grid > 0)] = np.nan
    axes.set_ylabel("singular value, largest first")
    axes.set_ylim(deepest + 0.5, 0.5)
    if np.isnan(grid).all():
        return
    largest = float(np.nanmax(grid))
    scale = LogNorm(max(float(np.nanmin(grid)), largest / LOWEST), largest)
    extent = (-0.5, len(layers) - 0.5, deepest + 0.5, 0.5)
    drawn = axes.imshow(
        grid, aspect="auto", norm=scale, cmap="viridis", extent=extent, interpolation="nearest", zorder=1
    )
    bar = figure.colorbar(drawn, ax=axes, pad=0.01)
    bar.ax.tick_params(labelsize=7)


def score_bars(rules: Iterable[Rule]) -> bytes:
    """Base against tuned per task, from the rules of a verdict; shares and losses each on their own scale.

    The whisker is the interval of the paired difference, set on the base's value.
    """
    known = [rule for rule in rules if math.isfinite(rule.base) and math.isfinite(rule.tuned)]
    shares = [rule for rule in known if is_share(rule.metric, (rule.base, rule.tuned))]
    others = [rule for rule in known if rule not in shares]
    parts = [part for part in (shares, others) if part]
    heights = [len(part) for part in parts] or [1]
    figure = _figure(1.1 + 0.5 * sum(heights) + 0.4 * len(heights))
    for axes, part in zip(
        figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0], parts, strict=False
    ):
        _score_panel(axes, part, percent=part is shares)
    if parts:
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False,
            fontsize=8,
        )  # fmt: skip
    return _png(figure)


def mixture_bar(by_source: Mapping[str, SourceFigures]) -> bytes:
    """Trained tokens per source of a mixture's split, with each one's share; general corpora in green."""
    sources = sorted(by_source, key=lambda name: by_source[name].trained_tokens)
    tokens = [by_source[name].trained_tokens for name in sources]
    whole = sum(tokens) or 1
    figure = _figure(0.9 + 0.34 * max(1, len(sources)))
    axes = figure.subplots()
    colours = [GREEN if name.startswith(GENERAL) else BLUE for name in sources]
    bars = axes.barh(range(len(sources)), tokens, color=colours, height=0.6)
    axes.set_yticks(range(len(sources)), [_short(name) for name in sources])
    labels = [f"{count(value)} ({value / whole:.1%})" for value in tokens]
    axes.bar_label(bars, labels, padding=4, fontsize=8, color=INK)
    axes.set_xlim(0, 1.3 * max(tokens, default=1) or 1)
    axes.set_xlabel("trained tokens in one epoch")
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    return _png(figure)


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


def _score_panel(axes: Axes, rules: Sequence[Rule], *, percent: bool) -> None:
    """Two bars a rule, the first on top."""
    scale = 100.0 if percent else 1.0
    at = list(range(len(rules), 0, -1))
    for side, offset, colour in (("base", 0.18, GREY), ("tuned", -0.18, BLUE)):
        values = [scale * getattr(rule, side) for rule in rules]
        axes.barh([y + offset for y in at], values, height=0.34, color=colour, label=side)
        for rule, y, value in zip(rules, at, values, strict=True):
            end = max(value, scale * _interval(rule)[1]) if side == "tuned" else value
            text = f"{value:.1f}" if percent else f"{value:.3f}"
            axes.annotate(
                text, (end, y + offset), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
    _whiskers(axes, rules, [y - 0.18 for y in at], scale)
    axes.set_yticks(at, [f"{_short(rule.task)}\n{rule.metric}" for rule in rules])
    axes.set_xlabel("%" if percent else "nats a token" if _all_losses(rules) else "value")
    axes.margins(x=0.12)


def _whiskers(axes: Axes, rules: Sequence[Rule], at: Sequence[float], scale: float) -> None:
    label: str | None = "interval of the difference"
    for rule, y in zip(rules, at, strict=True):
        ends = [scale * end for end in _interval(rule)]
        axes.plot(ends, [y, y], color=ORANGE, linewidth=2, marker="|", markersize=7, label=label)
        label = None


def _interval(rule: Rule) -> tuple[float, float]:
    """The interval of the tuned value, given the base's; the value itself where that is unknown."""
    low, high = rule.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return rule.tuned, rule.tuned
    return rule.base + low, rule.base + high


def _all_losses(rules: Sequence[Rule]) -> bool:
    return all(rule.metric.endswith("loss") for rule in rules)


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, label: str, **style: Any) -> None:
    """The rows that have the value, in the order of their steps; nothing where none has."""
    found = sorted((row["step"], row[name]) for row in rows if row.get(name) is not None)
    if found:
        steps, values = zip(*found, strict=True)
        axes.plot(steps, values, label=label, **style)


def _figure(height: float) -> Figure:
    """A figure of its own, outside pyplot's global state; savefig draws it with Agg."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _png(figure: Figure, grid: Literal["both", "x", "y"] = "x") -> bytes:
    from PIL import Image

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
        axes.xaxis.label.set(size=8, color=INK)
        axes.yaxis.label.set(size=8, color=INK)
        axes.yaxis.offsetText.set(size=8)
        axes.grid(axis=grid, color="#e5e8eb", linewidth=0.6)
        axes.set_axisbelow(True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    small = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(small, format="PNG", optimize=True)
    return small.getvalue()


def _short(text: str, longest: int = 34) -> str:
    """The end of a long path says more than its beginning."""
    return text if len(text) <= longest else "…" + text[-(longest - 1) :]
