"""What a plan says for itself, as the UI shows it."""

from dataclasses import fields
from typing import Any

from ft_dagster.planning.estimate import (
    ChangeRow,
    Estimate,
    MemoryBytes,
    PlannedRow,
    RankedRow,
    SurveyDocument,
)
from ft_dagster.planning.methods.decision import MethodRule
from ft_dagster.report.tables.recommendation import reasons_markdown

HELD = MemoryBytes(9, 0, 0, 0, 0, 0, 0, 0, 0, 0, phase="forward", total=9, correction=0)
RULES = (MethodRule("fits", "for", "it does"), MethodRule("fits", "against", "it does", outvoted_by="budget"))
DOCUMENT = SurveyDocument(
    method="lora",
    recommended="lora",
    fits=True,
    bake_off=False,
    notes=("a note",),
    ranking=(RankedRow("lora", True, 1, 0.1, None, None, 0.1, None, None, ("few rows",), RULES),),
    on="one device",
    unit="GPU",
    device_bytes=None,
    changes=(ChangeRow({"training.max_length": 256}, 0.1, "shorter", "training.max_length: 256"),),
    refused={},
    memory_bytes={"lora": HELD},
    plan=PlannedRow({"name": "lora"}, {}, HELD, "by the dry run alone", ()),
)


def test_each_reason_is_one_entry_of_one_list() -> None:
    assert reasons_markdown(DOCUMENT).splitlines() == [
        "- **for** fits: it does",
        "- **against** fits: it does (outvoted by budget)",
        "- **mind** few rows",
        "- a note",
        "- To make it fit, the mildest first:",
        "- (1) training.max_length: 256",
    ]


def test_a_plan_whose_own_warnings_are_shown_says_none_a_second_time() -> None:
    more: dict[str, Any] = dict.fromkeys(each.name for each in fields(Estimate))
    planned = Estimate(**{**more, **vars(DOCUMENT), "warnings": ("few rows",)})
    assert "few rows" not in reasons_markdown(planned)
    assert "- a note" in reasons_markdown(planned)
