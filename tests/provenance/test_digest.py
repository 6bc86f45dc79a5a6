from pathlib import Path

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
