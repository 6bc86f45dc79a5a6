"""What benchmarks show their figures with: the machine, medians, a table in markdown, a plot as SVG."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any


def machine() -> str:
    """Processor, cores, memory and the load of the last minute, in one line."""
    import psutil

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = psutil.virtual_memory().total / 1e9
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f}"


def today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


def versions(*libraries: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in libraries)


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each figure that all rounds have; None in one of them counts as absent."""
    names = [name for name in rounds[0] if all(isinstance(each.get(name), int | float) for each in rounds)]
    return {name: median(each[name] for each in rounds) for name in names}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def bars(file: Path, title: str, seconds: Mapping[str, tuple[float, float]]) -> None:
    """A bar for each name: (seconds of the steps, of the whole)."""
    axes = _axes(title, (7.0, 0.6 + 0.4 * len(seconds)))
    names = list(seconds)[::-1]
    axes.barh(names, [seconds[name][1] for name in names], color="#c8d3e0", label="whole program")
    axes.barh(names, [seconds[name][0] for name in names], color="#35618f", label="steps")
    axes.set_xlabel("seconds")
    _save(axes, file)


def lines(file: Path, title: str, across: str, seconds: Mapping[str, Mapping[int, float]]) -> None:
    """A line for each name: what is `across` -> seconds."""
    axes = _axes(title, (7.0, 4.0))
    for name, points in seconds.items():
        axes.plot(list(points), list(points.values()), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sorted({each for points in seconds.values() for each in points}))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(across)
    axes.set_ylabel("seconds")
    _save(axes, file)


def dots(file: Path, title: str, across: str, values: Mapping[str, Sequence[float]]) -> None:
    """A row for each name, the lowest first: a dot for each value, a bar for their mean."""
    axes = _axes(title, (7.0, 0.8 + 0.35 * len(values)))
    for row, each in enumerate(values.values()):
        axes.barh(row, sum(each) / len(each), color="#c8d3e0", label="mean" if row == 0 else None)
        axes.plot(
            each, [row] * len(each), "o", color="#35618f", alpha=0.6, label="each" if row == 0 else None
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.set_xlabel(across)
    _save(axes, file)


def _axes(title: str, size: tuple[float, float]) -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "ft_dagster"
    from matplotlib import pyplot

    axes = pyplot.figure(figsize=size, layout="constrained").add_subplot()
    axes.set_title(title)
    return axes


def _save(axes: Any, file: Path) -> None:
    axes.legend()
    axes.figure.savefig(file, metadata={"Date": None})
