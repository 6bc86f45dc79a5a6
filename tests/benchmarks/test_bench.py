"""The bench beside its peers: which parts are measured, and which once for several sizes."""

from __future__ import annotations

from benchmarks import bench

MANY = bench.CASES["many"]


def test_a_training_by_a_peer_is_the_same_at_every_number_of_variants() -> None:
    cells = [cell for cell in bench.cells_of("many", MANY, 1) if cell.how.peer]
    keys = [[part.key for part in cell.parts] for cell in cells]
    assert [len(each) for each in keys] == [variants for variants, _ in MANY.sizes if variants <= 16]
    assert all(each == keys[-1][: len(each)] for each in keys)


def test_what_trains_side_by_side_is_measured_whole_at_each_size_and_round() -> None:
    cells = [cell for cell in bench.cells_of("many", MANY, 2) if cell.how.peer is None]
    assert [(cell.variants, len(cell.parts)) for cell in cells] == [
        (variants, 1) for variants, _ in (*MANY.sizes, *MANY.sizes)
    ]
    assert len({part.key for cell in cells for part in cell.parts}) == len(cells)
