"""A metric of a tenant's own: how much of a sample's code is right."""

import re

CODE = re.compile(r"(<\w+>) B(\d\d)-(\d\d\d)")


def code_parts(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Share of the three parts (kind, bench, number) that the answer has as the reference has them."""
    answer, reference = CODE.search(results[0]), CODE.search(doc["output"])
    if answer is None or reference is None:
        return {"code_parts": 0.0}
    right = [given == wanted for given, wanted in zip(answer.groups(), reference.groups(), strict=True)]
    return {"code_parts": sum(right) / len(right)}
