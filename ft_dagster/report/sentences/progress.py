"""Shows a running program's progress in one line."""

from __future__ import annotations

from ft_dagster.program import Progress, duration

WIDTH = 20
STANDS = 10.0  # seconds without news, after which it is said how long there was none


def bar(progress: Progress) -> str:
    """Return `#####---- 12/64  loss 1.93  310 tok/s  ETA 1m 20s` from a progress.json; empty without one."""
    done, total = _counted(progress)
    if not total:
        return "  ".join(filter(None, (str(progress.get("task") or ""), _left(progress))))
    filled = round(WIDTH * min(1.0, done / total))
    speed = progress.get("tokens_per_second")
    task, loss, right, eta = _figures(progress)
    said = (task, loss, right, f"{speed:,.0f} tok/s" if speed else "", eta)
    counted = f"{done}/{total}{_unit(progress)}"
    return "  ".join([f"{'#' * filled}{'-' * (WIDTH - filled)} {counted}", *filter(None, said)])


def in_words(progress: Progress) -> str:
    """Return `step 12 of 64, loss 1.93, ETA 1m 20s` from a progress.json, or `12 of 64 questions,
    arc_easy`; empty without one.
    """
    done, total = _counted(progress)
    if not total:
        return ", ".join(filter(None, (str(progress.get("task") or ""), _left(progress))))
    counted = f"{'step ' if 'step' in progress else ''}{done:,} of {total:,}{_unit(progress)}"
    return ", ".join([counted, *filter(None, _figures(progress))])


def _counted(progress: Progress) -> tuple[int, int]:
    """Return what is done and how much there is; no total where either is unknown."""
    done = progress.get("step", progress.get("done"))
    total = progress.get("total_steps", progress.get("total"))
    return (0, 0) if done is None or not total else (done, total)


def _unit(progress: Progress) -> str:
    return "" if "step" in progress else " questions"


def _figures(progress: Progress) -> tuple[str, str, str, str]:
    """Return the task, the loss, the general questions that are right and the time that is left, each empty
    where it is unknown.
    """
    loss = progress.get("loss")
    right, base = progress.get("questions_right"), progress.get("base_right")
    task, (done, total) = str(progress.get("task") or ""), _counted(progress)
    return (
        "" if task == "done" and done >= total else task,
        "" if loss is None else f"loss {loss:.2f}",
        "" if right is None or base is None else f"general questions {right:.0%} right (base {base:.0%})",
        _left(progress),
    )


def _left(progress: Progress) -> str:
    """Say how long it will take from now on; where that is not known, or over, since when nothing is new."""
    age, eta = progress.get("age", 0.0), progress.get("eta_seconds")
    done, total = _counted(progress)
    if eta is not None and not 0 < total <= done and (eta > age or age < STANDS):
        return f"ETA {duration(max(0.0, eta - age))}"
    return "" if age < STANDS else f"unchanged for {duration(age)}"
