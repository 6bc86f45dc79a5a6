"""A declaration with changed values, and those values written into its file."""

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec import Declared, VariantKey, load_variant
from ft_dagster.spec.overrides import (
    declared_text,
    refuse_fixed,
    value_at,
    with_overrides,
    write_declared,
)

KEY = VariantKey("acme", "support")
TEXT = """\
# what support answers
description: answers
owners: [a@b.example]  # on call
base_model: models/base
data: {sources: [rows.jsonl]}
method: lora  # all linear layers
training:
  learning_rate: 2e-4   # from the last sweep
  seed: 3
"""


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    file = tmp_path / "tenants" / "acme" / "support.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(TEXT)
    return load_variant(tmp_path, KEY)


def test_values_are_read_as_the_declaration_reads_them_and_say_where_they_came_from(
    declared: Declared,
) -> None:
    changed = with_overrides(declared, {"method.rank": "8", "training.learning_rate": "1e-5"})
    assert changed.spec.method.given["rank"] == 8
    assert changed.spec.training.learning_rate == 1e-5
    assert changed.spec.training.seed == 3
    assert changed.origins["method.rank"] == "experiment"
    assert changed.origins["training.seed"] == "support.yaml"
    assert "rank" not in declared.spec.method.given


def test_no_override_is_the_declaration_itself(declared: Declared) -> None:
    assert with_overrides(declared, {}) is declared


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"method.rnk": 8}, "method.rnk", "Did you mean method.rank"),
        ({"rank": 8}, "rank", "unknown field"),
        ({"": 8}, None, "unknown field"),
        ({"method.rank": 0}, "method.rank", "greater than or equal to 1"),
        ({"training.learning_rate": "fast"}, "training.learning_rate", "fast"),
        ({"method.name": "full", "method.rank": 8}, "method.rank", "not a setting of full"),
        ({"data.general.share": 0.1}, "data.general", "name either a corpus or `from: base`"),
        ({"objective": "task_specific"}, "objective", "evaluation.kind"),
        ({"training.watch.general_loss_limit": 0.1}, "training.watch.general_loss_limit", "could not act"),
    ],
)
def test_what_the_declaration_does_not_take_is_refused_with_its_field(
    declared: Declared, overrides: dict[str, Any], field: str | None, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(declared, overrides)
    assert words in str(caught.value)
    assert (caught.value.field or None) == field


def test_written_values_keep_the_comments_and_load_as_the_same_declaration(declared: Declared) -> None:
    overrides = {"method.rank": 8, "training.learning_rate": 1e-05, "method.target_modules": ["q_proj"]}
    changed = with_overrides(declared, overrides)
    text = declared_text(declared, overrides)
    for comment in ("# what support answers", "# on call", "# all linear layers", "# from the last sweep"):
        assert comment in text
    declared.file.write_text(text)
    again = load_variant(declared.file.parents[2], KEY)
    assert again.spec == changed.spec


def test_what_is_declared_already_is_not_written(declared: Declared) -> None:
    assert declared_text(declared, {"training.seed": 3, "method.rank": None}) == TEXT


LISTED = """\
description: answers, at length, {long}
owners: [a@b.example]
base_model: models/base
data:
  sources:
    - path: rows.jsonl   # as exported
      format: chat
    - path: more.jsonl
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_changes_by_what_is_written_alone(declared: Declared, line_end: str) -> None:
    """Neither its indentation nor its long lines, its line ends or its permissions."""
    text = LISTED.format(long="so that it takes " * 20 + "all").replace("\n", line_end)
    declared.file.write_bytes(text.encode())
    declared.file.chmod(0o640)
    project = declared.file.parents[2]
    again = load_variant(project, KEY)
    assert write_declared(project, again, {"data.render": "plain"}) == declared.file
    assert declared.file.read_bytes().decode() == f"{text}  render: plain{line_end}"
    assert declared.file.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in declared.file.parent.iterdir()] == ["support.yaml"]


def test_a_file_that_somebody_else_changed_meanwhile_is_as_it_was(declared: Declared) -> None:
    changed = TEXT.replace("seed: 3", "seed: 4")
    declared.file.write_text(changed, "utf-8")
    with pytest.raises(UserError, match=r"it is as it was\. Write them by hand: data\.render: plain"):
        write_declared(declared.file.parents[2], declared, {"data.render": "plain"})
    assert declared.file.read_text("utf-8") == changed


@pytest.mark.parametrize(
    "data",
    [
        "data: {sources: [rows.jsonl]}",
        "data: {<<: &data {sources: [rows.jsonl]}}",
        "data: {sources: [rows.jsonl], render: auto}",
    ],
)
def test_values_are_written_into_data_in_whatever_form_it_stands(declared: Declared, data: str) -> None:
    declared.file.write_text(TEXT.replace("data: {sources: [rows.jsonl]}", data), "utf-8")
    project = declared.file.parents[2]
    write_declared(project, load_variant(project, KEY), {"data.render": "plain"})
    assert load_variant(project, KEY).spec.data.render == "plain"


def test_what_the_defaults_say_of_data_stays_theirs(declared: Declared) -> None:
    project = declared.file.parents[2]
    declared.file.write_text(TEXT.replace("data: {sources: [rows.jsonl]}\n", ""), "utf-8")
    defaults = project / "tenants" / "defaults.yaml"
    defaults.write_text("data: {sources: [rows.jsonl]}\n", "utf-8")
    write_declared(project, load_variant(project, KEY), {"data.render": "plain"})
    assert "data:\n  render: plain\n" in declared.file.read_text("utf-8")
    assert defaults.read_text("utf-8") == "data: {sources: [rows.jsonl]}\n"
    assert load_variant(project, KEY).spec.data.sources[0].path == "rows.jsonl"


def test_a_file_that_may_not_be_written_is_one_error(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, content: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"support\.yaml: cannot be written: Read-only file system"):
        write_declared(declared.file.parents[2], declared, {"data.render": "plain"})
    assert declared.file.read_text("utf-8") == TEXT


def test_a_value_below_what_is_not_declared_is_none(declared: Declared) -> None:
    assert value_at(declared.spec, "data.general.share") is None
    assert value_at(declared.spec, "method.name") == "lora"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("data.sources", ["x"]), ("data", {}), ("data.samples", "metadata"), ("evaluation.task", [])],
        *[("evaluation.seed", 1), ("gates.alpha", 0.4), ("release.approvers", []), ("base_model", "x")],
        *[("base_model.variant", "acme.other"), ("training.deepspeed.nvme_path", "/")],
        ("training", {"deepspeed": {"nvme_path": "/"}}),
    ],
)
def test_no_experiment_changes_what_is_learned_asked_or_judged(field: str, value: Any) -> None:
    with pytest.raises(UserError, match="no experiment may change it"):
        refuse_fixed(field, value)


def test_an_experiment_changes_how_a_model_is_trained() -> None:
    for field in ("method.rank", "training", "training.deepspeed.stage", "data.general.share", "objective"):
        refuse_fixed(field, None)
