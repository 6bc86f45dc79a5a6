"""Names by what a table's rows may be grouped and sorted, for a command to offer before it reads anything."""

from enum import StrEnum
from typing import Literal

SortedBy = Literal["state", "variant", "age", "cost", "gain", "next"]  # of `status`


class CostBy(StrEnum):
    """Says by what `cost` groups its rows."""

    TENANT = "tenant"
    VARIANT = "variant"
    VERSION = "version"
    MONTH = "month"


class UsageBy(StrEnum):
    """Says by what `store du` groups its rows."""

    TENANT = "tenant"
    VARIANT = "variant"
    STAGE = "stage"
