import hashlib
import math
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from ft_dagster.provenance.digest import FileDigest, hash_folder, payload_digest, sha256_json, stage_key


def test_canonical_json_ignores_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [1.0, "é"]}) == sha256_json({"b": [1, "é"], "a": 1})


def test_a_key_changes_with_every_part_of_it() -> None:
    keys = {
        stage_key("evaluation", 1, {"a": "1"}, {"x": 1}),
        stage_key("evaluation", 2, {"a": "1"}, {"x": 1}),
        stage_key("evaluation", 1, {"a": "2"}, {"x": 1}),
        stage_key("evaluation", 1, {"a": "1"}, {"x": 2}),
        stage_key("release", 1, {"a": "1"}, {"x": 1}),
    }
    assert len(keys) == 5


def test_a_payload_digest_covers_path_size_and_content(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("1")
    (tmp_path / "a").write_text("2")
    files = hash_folder(tmp_path)
    assert [file.path for file in files] == ["a", "b/x"]
    assert payload_digest(files) == payload_digest(files[::-1])
    assert payload_digest(files) != payload_digest([files[0], FileDigest("b/y", *files[1][1:])])


def _value(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON, with numbers of all sizes and characters of all planes."""
    letters = (dice.randrange(0x80), dice.randrange(0xD800), dice.randrange(0xE000, 0x110000))
    name = "".join(chr(dice.choice(letters)) for _ in range(dice.randrange(4)))
    bits = struct.unpack("d", dice.randbytes(8))[0]
    number = dice.choice([bits if math.isfinite(bits) else 0.5, dice.uniform(-9, 9), -0.0, 1e-5])
    plain = [name, number, float(dice.randrange(10**6)), 10.0 ** dice.randrange(-9, 25), None, True]
    if depth > 3 or dice.random() < 0.5:
        return dice.choice([*plain, dice.randrange(-(2**53) + 1, 2**53)])
    below = [_value(dice, depth + 1) for _ in range(dice.randrange(5))]
    return dice.choice([below, {f"{name}{at}": each for at, each in enumerate(below)}])


@pytest.mark.slow
def test_a_digest_is_of_the_text_that_rfc_8785_asks_for() -> None:
    dice = random.Random(8785)
    for value in [*(_value(dice) for _ in range(3000)), *map(chr, range(0xD800))]:
        assert sha256_json(value) == hashlib.sha256(rfc8785.dumps(value)).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {1: 2}, "\ud800", {"a": {1}}])
def test_what_rfc_8785_cannot_write_has_no_digest(value: Any) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        sha256_json(value)
