"""What a plan says for itself, as the UI shows it."""

from ft_dagster.report.recommendation import reasons_markdown

RULE = {"rule": "fits", "sentence": "it does", "outvoted_by": None}
DOCUMENT = {
    "plan": {"method": {"name": "lora"}},
    "ranking": [
        {
            "method": "lora",
            "rules": [{**RULE, "verdict": "for"}, {**RULE, "verdict": "against", "outvoted_by": "budget"}],
            "warnings": ["few rows"],
        }
    ],
    "notes": ["a note"],
    "refused": {},
    "changes": [{"sentence": "training.max_length: 256"}],
}


def test_each_reason_is_one_entry_of_one_list():
    assert reasons_markdown(DOCUMENT).splitlines() == [
        "- **for** fits: it does",
        "- **against** fits: it does (outvoted by budget)",
        "- **mind** few rows",
        "- a note",
        "- To make it fit, the mildest first:",
        "- (1) training.max_length: 256",
    ]
