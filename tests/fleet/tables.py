"""What a fleet's table knows of one variant."""

from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import VARIANTS, FleetRow


def row_of(table: FleetTable, key: str) -> FleetRow:
    (row,) = table.rows(VARIANTS.c.key == key)
    return row
