"""Malformed declarations: each ends in one clear error, none in a traceback, and none hangs."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ft_dagster.errors import UserError
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import CorpusSpec, VariantKey, VariantSpec, load_variant
from ft_dagster.spec.validation import EXAMPLES, _inner_model, validate

KEY = VariantKey("acme", "support")
MINIMAL = """\
description: answers support questions
owners: [ml@acme.example]
base_model: models/base
data: {sources: [rows.jsonl]}
"""
LAUGHS = "".join(f"l{at}: &l{at} [{', '.join([f'*l{at - 1}'] * 10) if at else 'x'}]\n" for at in range(12))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tenants" / "acme").mkdir(parents=True)
    return tmp_path / "tenants" / "acme" / "support.yaml"


def refusal(file: Path) -> UserError:
    with pytest.raises(UserError) as error:
        load_variant(file.parents[2], KEY)
    assert error.value.file == str(file)
    assert error.value.fix
    return error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a, b]: c", "a key is a plain name"),
        ("{a: b}: c", "a key is a plain name"),
        ("5: c", "keys should be strings"),
        ("x: " + "[" * 3000 + "]" * 3000, "nest"),
        ("x: " + "{a: " * 3000 + "}" * 3000, "nested more than 64 levels"),
        ("x: " + "[" * 100_000, "nest"),
        (LAUGHS, "more than 200,000 values"),
        ("x: &x [*x]", "an alias stands for what it is part of"),
        ("x: *nope", "undefined alias"),
        ("x: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("x: 2001-99-99", "month"),
        ("x: !!timestamp today", "does not fit its tag"),
        ("training: {seed: " + "9" * 5000 + "}", "more than 40 digits"),
        ("training: {seed: 0x" + "f" * 5000 + "}", "more than 40 digits"),
        ('description2: "a\\0b"', "NUL"),
        ("x: " + "y" * 5_000_000, "more than the 4,000,000"),
    ],
)
def test_yaml_that_no_program_can_take_is_one_error(file: Path, text: str, words: str) -> None:
    file.write_text(MINIMAL + text + "\n", "utf-8")
    assert words in refusal(file).problem


@pytest.mark.parametrize("value", ["1e6", "'1.5'"])  # YAML takes 1e6 for a text
def test_a_text_that_is_too_large_a_number_is_one_error(file: Path, value: str) -> None:
    file.write_text(f"{MINIMAL}training: {{learning_rate: {value}}}\n", "utf-8")
    assert refusal(file).field == "training.learning_rate"


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("method: {rank: true}", "method.rank", "a number is needed"),
        ("method: {alpha: true}", "method.alpha", "a number is needed"),
        ("training: {seed: false}", "training.seed", "a number is needed"),
        ("training: {packing: 1}", "training.packing", "true or false"),
        ("training: {deepspeed: false}", "training.deepspeed.stage", "a number is needed"),
        ("schema_version: true", "schema_version", "a number is needed"),
        ("gates: {regression_margin: true}", "gates.regression_margin", "a number is needed"),
        ("training: {seed: 0xffffffffffffffffffffffff}", "training.seed", "less than or equal to 4294967295"),
        ("training: {max_steps: 99999999999999999999999}", "training.max_steps", "less than or equal to"),
        ("training: {max_length: 100000000}", "training.max_length", "less than or equal to 10485760"),
        ("training: {learning_rate: 1e999}", "training.learning_rate", "finite"),
        ("training: {weight_decay: .nan}", "training.weight_decay", "finite"),
        ("training: {max_grad_norm: .inf}", "training.max_grad_norm", "finite"),
        ("training: {watch: {budget: 0}}", "training.watch.budget", "greater than 0"),
        ("training: {watch: {budget: 1.5}}", "training.watch.budget", "less than or equal to 1"),
        ("training: {watch: {budget: true}}", "training.watch.budget", "a number is needed"),
        ("gates: {alpha: 1e-300}", "gates.alpha", "greater than or equal to"),
        ("gates: {alpha: 0}", "gates.alpha", "greater than or equal to"),
        ("gates: {general_margin: 1e-17}", "gates.general_margin", "greater than or equal to"),
        ("gates: {general_loss_margin: 5e-324}", "gates.general_loss_margin", "greater than or equal to"),
        ("gates: {regression_margin: 1e-300}", "gates.regression_margin", "greater than or equal to"),
        (
            "gates: {regression_loss_margin: 1e-17}",
            "gates.regression_loss_margin",
            "greater than or equal to",
        ),
        ("gates: {degeneration_margin: 1e-17}", "gates.degeneration_margin", "greater than or equal to"),
        ("gates: {task_margin: 5e-324}", "gates.task_margin", "0, or 0.000001 or more"),
        ("method: {target_modules: 5}", "method.target_modules", "'all-linear'"),
        ("method: {target_modules: [1]}", "method.target_modules.0", "string"),
        ("training: null", "training", "no value"),
        ("retrain: {timezone: ../../etc/passwd}", "retrain.timezone", "time zone"),
        ("retrain: {timezone: America}", "retrain.timezone", "time zone"),
        ("retrain: {timezone: Europe}", "retrain.timezone", "time zone"),
        ("retrain: {timezone: " + "a" * 300 + "}", "retrain.timezone", "time zone"),
    ],
)
def test_a_value_of_another_kind_or_beyond_all_bounds_is_refused_by_field(
    file: Path, text: str, field: str, words: str
) -> None:
    file.write_text(MINIMAL + text + "\n", "utf-8")
    error = refusal(file)
    assert error.field == field
    assert words in error.problem


def test_a_quoted_number_is_the_number_and_merged_keys_are_keys(file: Path) -> None:
    file.write_text(MINIMAL + 'method: {<<: {rank: "8"}, alpha: 1e1}\ntraining: {learning_rate: 1e-4}\n')
    spec = load_variant(file.parents[2], KEY).spec
    assert (spec.method.given, spec.training.learning_rate) == ({"rank": 8, "alpha": 10.0}, 1e-4)


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device", "dangling", "loop"])
@pytest.mark.parametrize("name", ["acme/support.yaml", "defaults.yaml", "../ft_dagster.yaml"])
def test_what_is_no_regular_file_is_said_and_never_waited_for(
    file: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(MINIMAL)
    project = file.parents[2]
    place = (project / "tenants" / name).resolve()
    place.unlink(missing_ok=True)
    monkeypatch.chdir(place.parent)
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(place.name)
    make = {"fifo": os.mkfifo, "folder": os.mkdir}.get(kind)
    target = {"device": "/dev/zero", "dangling": "nowhere", "loop": place.name}.get(kind)
    if make is not None:
        make(place)
    if target is not None:
        place.symlink_to(target)
    words = {
        "fifo": "a FIFO", "socket": "a socket", "folder": "a folder", "device": "a device",
        "dangling": "a link to nothing", "loop": "Too many levels of symbolic links",
    }[kind]  # fmt: skip
    with pytest.raises(UserError, match=words) as error:
        load_variant(load_settings(project).project, KEY)
    assert error.value.file == str(place)


def numbers(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of every number below a JSON schema."""
    if isinstance(schema, dict):
        if schema.get("type") in {"integer", "number"} and not {"const", "enum"} & set(schema):
            yield path, schema
        for name, below in schema.items():
            yield from numbers(below, f"{path}/{name}")
    elif isinstance(schema, list):
        for below in schema:
            yield from numbers(below, path)


@pytest.mark.parametrize("model", [VariantSpec, CorpusSpec, Settings])
def test_the_schema_states_both_bounds_of_every_number(model: type[BaseModel]) -> None:
    found = dict(numbers(model.model_json_schema()))
    assert found
    for path, schema in found.items():
        assert {"minimum", "exclusiveMinimum"} & set(schema), path
        assert {"maximum", "exclusiveMaximum"} & set(schema), path


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("tenant_runs: true", "tenant_runs"),
        ("tenant_runs: 99999999999999999999999", "tenant_runs"),
        ("host: {cpu_slots: true}", "host.cpu_slots"),
        ("host: {quota: {acme: true}}", "host.quota.acme"),
        ("host: {memory_gb: .inf}", "host.memory_gb"),
        ("retries: {wait_seconds: .nan}", "retries.wait_seconds"),
        ("5: x", "5"),
        ('sources: {allow: ["asset://"]}', "sources"),
        ('sources: {per_tenant: {acme: ["asset://warehouse/tickets/"]}}', "sources"),
        ("registry: {mlflow: 'https://ann:secret@mlflow.example'}", "registry.mlflow"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_field(file: Path, text: str, field: str) -> None:
    file.write_text(MINIMAL)
    settings = file.parents[2] / "ft_dagster.yaml"
    settings.write_text(text + "\n")
    with pytest.raises(UserError) as error:
        load_settings(file.parents[2])
    assert (error.value.file, error.value.field) == (str(settings), field)


@pytest.mark.parametrize("store", ["nope://bucket/x", "rows.jsonl"])
def test_a_store_that_cannot_be_one_is_refused(file: Path, store: str) -> None:
    project = file.parents[2]
    (project / "rows.jsonl").write_text("{}")
    (project / "ft_dagster.yaml").write_text(f"store: {store}\n")
    with pytest.raises(UserError) as error:
        load_settings(project).open_store()
    assert (error.value.field, error.value.value) == ("store", store)


def test_the_environment_says_numbers_as_text(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_DAGSTER_HOST__CPU_SLOTS", "3")
    monkeypatch.setenv("FT_DAGSTER_TENANT_RUNS", "2")
    settings = load_settings(file.parents[2])
    assert (settings.host.cpu_slots, settings.tenant_runs) == (3, 2)


def test_the_environment_overrides_one_field_of_what_the_file_says(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = file.parents[2], str(file.parent)
    (project / "ft_dagster.yaml").write_text("store: here\nhost: {cpu_slots: 8, memory_gb: 30}\n")
    monkeypatch.setenv("FT_DAGSTER_HOST__CPU_SLOTS", "2")
    monkeypatch.setenv("FT_DAGSTER_PROJECT", elsewhere)
    settings = load_settings(project)
    assert (settings.host.cpu_slots, settings.host.memory_gb) == (2, 30)
    assert (settings.store, settings.project) == ("here", project)


def test_the_environment_can_say_that_a_part_of_the_file_is_not_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = file.parents[2]
    (project / "ft_dagster.yaml").write_text("ray: {grace_seconds: 60}\nhost: {gpus: ['0']}\n")
    assert load_settings(project).runs_in_cluster
    monkeypatch.setenv("FT_DAGSTER_RAY", "null")
    monkeypatch.setenv("FT_DAGSTER_HOST__GPUS", "null")
    settings = load_settings(project)
    assert (settings.ray, settings.host.gpus, settings.runs_in_cluster) == (None, None, False)


def test_a_bad_value_of_the_environment_names_its_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parents[2] / "ft_dagster.yaml").write_text("host: {cpu_slots: 8}\n")
    monkeypatch.setenv("FT_DAGSTER_HOST__CPU_SLOTS", "-1")
    with pytest.raises(UserError) as error:
        load_settings(file.parents[2])
    assert error.value.file == "the environment, FT_DAGSTER_HOST__CPU_SLOTS"


OFF = """\
description: answers support questions
owners: [ml@acme.example]
base_model: models/base
data: {sources: [rows.jsonl], deduplicate: off, samples: off}
"""


def test_off_is_a_word_where_a_field_knows_it(file: Path) -> None:
    """YAML reads it as false."""
    file.write_text(OFF)
    (file.parents[2] / "ft_dagster.yaml").write_text("host: {warm_start: off}\n")
    data = load_variant(file.parents[2], KEY).spec.data
    assert (data.deduplicate.method, data.samples) == ("off", "off")
    assert load_settings(file.parents[2]).host.warm_start == "off"
    file.write_text(OFF.replace("samples: off", "samples: on"))
    assert refusal(file).field == "data.samples"
    file.write_text(OFF.replace("{sources: [rows.jsonl], deduplicate: off, samples: off}", "off"))
    assert refusal(file).field == "data"


def at(field: str, value: Any) -> dict[str, Any]:
    """A declaration with a value in one field, of a source where the field is one's."""
    content: dict[str, Any] = yaml.safe_load(MINIMAL)
    *above, last = field.split(".")
    if above == ["base_model"]:
        content["base_model"] = {"source": "models/base"}
    if above == ["data", "sources"]:
        content["data"]["sources"] = [{"path": "rows.csv", last: value}]
        return content
    part = content
    for name in above:
        part = part.setdefault(name, {})
    part[last] = value
    return content


@pytest.mark.parametrize("field", EXAMPLES)
def test_each_example_of_how_a_field_is_written_is_taken(field: str) -> None:
    for example in EXAMPLES[field]:
        VariantSpec.model_validate(at(field, yaml.safe_load(example)))


def parts(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every field that takes fields of its own, or a list."""
    for name, field in model.model_fields.items():
        inner = _inner_model(field.annotation)
        if inner is not None or re.search("tuple|dict", str(field.annotation)):
            yield f"{above}{name}"
        if inner is not None:
            yield from parts(inner, f"{above}{name}.")


@pytest.mark.parametrize("field", sorted(parts(VariantSpec)))
def test_a_value_of_another_kind_is_told_how_it_is_written(field: str) -> None:
    with pytest.raises(UserError) as refused:
        validate(VariantSpec, at(field, 7.5), lambda _: "support.yaml")
    said = str(refused.value)
    *_, name = field.split(".")
    assert f"`{name}: " in said or "Write one of these" in said, said
    assert refused.value.file == "support.yaml"
