"""What a fleet's table knows of one variant."""

from ft_dagster.fleet.table import VARIANTS, FleetRow, FleetTable


def row_of(table: FleetTable, key: str) -> FleetRow:
    (row,) = table.rows(VARIANTS.c.key == key)
    return row
