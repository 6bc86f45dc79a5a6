"""Shows a running program's progress in one terminal line."""

from __future__ import annotations

from ft_dagster.program import Progress

WIDTH = 20


def bar(progress: Progress) -> str:
    """Return `#####---- 12/64 loss 1.93 310 tok/s ETA 1m 20s` from a progress.json; empty without one."""
    done = progress.get("step", progress.get("done"))
    total = progress.get("total_steps", progress.get("total"))
    if done is None or not total:
        return ""
    filled = round(WIDTH * min(1.0, done / total))
    parts = [f"{'#' * filled}{'-' * (WIDTH - filled)} {done}/{total}"]
    if progress.get("task"):
        parts.append(str(progress["task"]))
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.2f}")
    if progress.get("tokens_per_second"):
        parts.append(f"{progress['tokens_per_second']:,.0f} tok/s")
    if progress.get("eta_seconds") is not None:
        parts.append(f"ETA {progress['eta_seconds'] // 60:.0f}m {progress['eta_seconds'] % 60:02.0f}s")
    return "  ".join(parts)
