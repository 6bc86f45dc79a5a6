"""`python -m stages CONTEXT`: the cases of one stage, one after another, each result written at once.

Cases that are done are kept; those never tried come before those that failed or were ended. Exit: 0, or 3
where a case failed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from stages.common import Case, Context, Skipped, Wrong, write_json


def main(file: Path) -> int:
    context = Context(**json.loads(file.read_text("utf-8")))
    target = Path(context.file)
    result = json.loads(target.read_text("utf-8")) if target.exists() else {}
    result = {
        "stage": context.stage, "machine": context.machine, "pack": context.pack, "status": "partial",
        "reason": "", "seconds": result.get("seconds", 0), "cases": result.get("cases", {}),
    }  # fmt: skip
    cases = importlib.import_module(f"stages.{context.stage}").cases(context)
    results: dict[str, dict[str, Any]] = result["cases"]
    for name in [name for name in results if name not in {case.name for case in cases}]:
        del results[name]
    open_cases = [case for case in cases if results.get(case.name, {}).get("status") != "done"]
    open_cases.sort(key=lambda case: case.name in results and results[case.name]["status"] != "skipped")
    for case in open_cases:
        results[case.name] = {"status": "running"}
        write_json(target, result)
        results[case.name] = tried(case)
        write_json(target, result)
    result["status"] = "skipped" if all(c["status"] == "skipped" for c in results.values()) else "done"
    write_json(target, result)
    return 3 if any(case["status"] == "failed" for case in results.values()) else 0


def tried(case: Case) -> dict[str, Any]:
    """Its figures with a status; `said` is its line of the table."""
    print(f"-- {case.name}", flush=True)
    began = time.monotonic()
    try:
        figures = {"status": "done", **case.run()}
    except Skipped as skipped:
        figures = {"status": "skipped", "reason": str(skipped)}
    except Wrong as wrong:
        figures = {"status": "failed", "reason": str(wrong), **wrong.figures}
    except Exception as error:
        traceback.print_exc()
        said = (str(error).strip().splitlines() or [""])[-1][:300]
        figures = {"status": "failed", "reason": f"{type(error).__name__}: {said}"}
    return {**figures, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
