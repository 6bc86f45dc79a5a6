import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec import Declarations, VariantKey, VariantSpec, load_corpus, load_variant, variant_files
from ft_dagster.spec.load import corpus_files

KEY = VariantKey("acme", "support")
MINIMAL = """\
description: answers support questions
owners: [ml@acme.example]
base_model: models/base
data: {sources: [rows.jsonl]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tenants" / "acme").mkdir(parents=True)
    return tmp_path


def declare(project: Path, text: str, name: str = "acme/support.yaml") -> Path:
    file = project / "tenants" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def refusal(project: Path) -> UserError:
    with pytest.raises(UserError) as error:
        load_variant(project, KEY)
    return error.value


def test_a_minimal_declaration_gets_every_default(project: Path) -> None:
    declare(project, MINIMAL)
    spec = load_variant(project, KEY).spec
    assert spec.base_model.source == "models/base"
    assert spec.data.sources[0].format == "auto"
    assert spec.method.name == "auto"
    assert spec.export.format == "adapter"


def test_each_value_says_where_it_came_from(project: Path) -> None:
    declare(project, MINIMAL + "training: {seed: 3}\n")
    declare(project, "training: {seed: 1, num_train_epochs: 2}\nexport: merged\n", "defaults.yaml")
    declared = load_variant(project, KEY)
    assert declared.spec.training.seed == 3
    assert declared.spec.training.num_train_epochs == 2
    assert declared.origins["training.seed"] == "support.yaml"
    assert declared.origins["training.num_train_epochs"] == "tenants/defaults.yaml"
    assert declared.origins["export.format"] == "tenants/defaults.yaml"
    assert declared.origins["gates.task_margin"] == "built-in"
    assert declared.origins["base_model.source"] == "support.yaml"


def test_an_unknown_field_gets_the_nearest_known_name(project: Path) -> None:
    file = declare(project, MINIMAL + "training: {learning_rat: 1e-4}\n")
    error = refusal(project)
    assert (error.file, error.field) == (str(file), "training.learning_rat")
    assert "Did you mean learning_rate?" in error.fix


def test_an_unknown_field_in_the_defaults_names_the_defaults_file(project: Path) -> None:
    declare(project, MINIMAL)
    file = declare(project, "trainning: {seed: 1}\n", "defaults.yaml")  # codespell:ignore
    assert refusal(project).file == str(file)


def test_a_share_of_two_is_refused_with_field_and_value(project: Path) -> None:
    declare(project, MINIMAL.replace("[rows.jsonl]", "[rows.jsonl], general: {corpus: g, share: 2.0}"))
    error = refusal(project)
    assert error.field == "data.general.share"
    assert error.value == 2.0


def test_a_key_given_twice_is_refused_with_its_line(project: Path) -> None:
    declare(project, MINIMAL + "description: again\n")
    error = refusal(project)
    assert error.line == 5
    assert "given twice" in error.problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("- a\n- b\n", "not a mapping"),
        ("a: [", "expected"),
        ("description: x\n", "needed, but not given"),
    ],
)
def test_a_file_that_is_no_declaration_is_refused(project: Path, text: str, problem: str) -> None:
    declare(project, text)
    assert problem in refusal(project).problem


def child_of(parent: str) -> str:
    return MINIMAL.replace("base_model: models/base", f"base_model: {{variant: {parent}}}")


def test_a_variant_may_start_from_another_of_its_tenant(project: Path) -> None:
    declare(project, MINIMAL, "acme/medical.yaml")
    declare(project, child_of("acme.medical"))
    spec = load_variant(project, KEY).spec.base_model
    assert (spec.source, spec.variant, spec.parent_adapter) == (None, "acme.medical", "fold")


def test_a_parent_that_is_not_declared_gets_the_nearest_of_the_tenant(project: Path) -> None:
    declare(project, MINIMAL, "acme/medical.yaml")
    declare(project, MINIMAL, "globex/medica.yaml")
    file = declare(project, child_of("acme.medica"))
    error = refusal(project)
    assert (error.file, error.field, error.value) == (str(file), "base_model.variant", "acme.medica")
    assert error.fix == "Did you mean acme.medical?"


def test_a_parent_that_is_not_declared_is_not_the_variant_itself(project: Path) -> None:
    declare(project, child_of("acme.supp"))
    assert refusal(project).fix == "Declare it in tenants/acme/"


def test_a_parent_of_another_tenant_is_refused(project: Path) -> None:
    declare(project, MINIMAL, "globex/medical.yaml")
    declare(project, child_of("globex.medical"))
    error = refusal(project)
    assert "tenants are sealed" in error.problem
    assert "base_model.source" in error.fix


@pytest.mark.parametrize(
    ("parents", "cycle"),
    [
        ({"support": "support"}, "acme.support → acme.support"),
        ({"support": "b", "b": "c", "c": "support"}, "acme.support → acme.b → acme.c → acme.support"),
        ({"support": "b", "b": "c", "c": "b"}, "acme.b → acme.c → acme.b"),
    ],
)
def test_a_cycle_of_parents_is_named(project: Path, parents: dict[str, Any], cycle: str) -> None:
    for child, parent in parents.items():
        declare(project, child_of(f"acme.{parent}"), f"acme/{child}.yaml")
    error = refusal(project)
    assert error.problem == f"a cycle of parents: {cycle}"
    assert error.field == "base_model.variant"


def test_a_chain_of_parents_is_no_cycle_and_a_broken_grandparent_is_its_own_error(project: Path) -> None:
    declare(project, "nonsense: [", "acme/c.yaml")
    declare(project, child_of("acme.c"), "acme/b.yaml")
    declare(project, child_of("acme.b"))
    assert load_variant(project, KEY).spec.base_model.variant == "acme.b"


def test_an_unknown_variant_gets_the_nearest_known_one(project: Path) -> None:
    declare(project, MINIMAL)
    with pytest.raises(UserError, match=r"Did you mean acme\.support\?"):
        load_variant(project, VariantKey("acme", "suport"))  # codespell:ignore


@pytest.mark.parametrize("name", ["Acme/support.yaml", "acme/sup_port.yaml", f"acme/{'x' * 80}.yaml"])
def test_a_file_whose_name_is_no_key_is_said_and_stops_no_other(project: Path, name: str) -> None:
    declare(project, MINIMAL)
    file = declare(project, MINIMAL, name)
    declarations = Declarations(project)
    assert "not a variant key" in declarations.broken[file].problem
    assert list(declarations.broken) == [file]
    assert list(variant_files(project)) == [KEY]
    assert declarations.declared(KEY).spec.base_model.source == "models/base"


def test_a_variant_declared_twice_is_refused(project: Path) -> None:
    declare(project, MINIMAL)
    declare(project, MINIMAL, "acme/other.yaml")
    second = declare(project, MINIMAL, "acme/support.yml")
    error = refusal(project)
    assert "declared twice" in error.problem
    assert error.file == str(second)
    assert list(Declarations(project).broken) == [project / "tenants/acme/support.yaml"]


def test_a_bad_cron_or_time_zone_is_refused(project: Path) -> None:
    declare(project, MINIMAL + "retrain: {cron: '61 * * * *'}\n")
    assert refusal(project).field == "retrain.cron"
    for zone in ("Mars/Olympus", "America", "a" * 300):  # the second is a folder of zones
        declare(project, MINIMAL + f"retrain: {{cron: '1 * * * *', timezone: {zone}}}\n")
        assert refusal(project).field == "retrain.timezone"


def test_an_unknown_corpus_is_refused(project: Path) -> None:
    (project / "corpora").mkdir()
    (project / "corpora" / "general.yaml").write_text("description: g\nsources: [g.jsonl]\n")
    assert load_corpus(project, "general").holdout == 0.05
    with pytest.raises(UserError, match=r"Did you mean general\?"):
        load_corpus(project, "genral")  # codespell:ignore


def test_a_corpus_may_end_in_yml_as_a_declaration_may_and_stands_once(project: Path) -> None:
    (project / "corpora").mkdir()
    file = project / "corpora/general.yml"
    file.write_text("description: g\nsources: [g.jsonl]\n")
    assert load_corpus(project, "general").holdout == 0.05
    assert corpus_files(project) == {"general": file}
    file.with_suffix(".yaml").write_text("description: g\nsources: [h.jsonl]\n")
    with pytest.raises(UserError, match=r"general\.yml: this corpus is declared twice"):
        load_corpus(project, "general")


def test_the_json_schema_describes_every_field() -> None:
    schema = VariantSpec.model_json_schema()
    assert set(schema["properties"]) == set(VariantSpec.model_fields)
    assert schema["additionalProperties"] is False
    assert json.loads(json.dumps(schema)) == schema


def test_a_shorthand_says_one_field_and_leaves_the_others_built_in(project: Path) -> None:
    declare(project, MINIMAL.replace("base_model: models/base\n", "") + "method: lora\n")
    declare(project, "base_model: models/base\n", "defaults.yaml")
    origins = load_variant(project, KEY).origins
    assert origins["base_model.source"] == "tenants/defaults.yaml"
    assert origins["base_model.keep"] == "built-in"
    assert (origins["method.name"], origins["method.rank"]) == ("support.yaml", "built-in")


@pytest.mark.parametrize("field", ["general_margin", "general_loss_margin", "regression_margin"])
@pytest.mark.parametrize("margin", [0, 1.5, -0.1])
def test_a_margin_of_nothing_or_of_more_than_all_is_refused(project: Path, field: str, margin: float) -> None:
    file = declare(project, MINIMAL + f"gates: {{{field}: {margin}}}\n")
    error = refusal(project)
    assert (error.file, error.field, error.value) == (str(file), f"gates.{field}", margin)
    assert "0" in error.problem or "1" in error.problem


def test_a_task_may_have_no_margin_but_not_one_above_all(project: Path) -> None:
    declare(project, MINIMAL + "gates: {task_margin: 0}\n")
    assert load_variant(project, KEY).spec.gates.task_margin == 0
    declare(project, MINIMAL + "gates: {task_margin: 1.01}\n")
    assert refusal(project).field == "gates.task_margin"


def test_a_task_without_any_question_is_refused(project: Path) -> None:
    no_test = MINIMAL.replace("rows.jsonl]", "rows.jsonl], splits: {test: 0}")
    file = declare(project, no_test)
    error = refusal(project)
    assert (error.file, error.field, error.value) == (str(file), "data.splits.test", 0.0)
    declare(project, no_test + "evaluation: {task: [tasks/quiz.yaml]}\n")
    assert load_variant(project, KEY).spec.evaluation.task


NO_BENCHMARK = "evaluation: {general: []}\n"


def limited(field: str, value: object = 0.05) -> str:
    return f"training: {{watch: {{{field}: {'null' if value is None else value}, questions: 20}}}}\n"


@pytest.mark.parametrize(
    ("field", "more", "needed"),
    [("general_loss_limit", "", "data.general"), ("benchmark_limit", NO_BENCHMARK, "evaluation.general")],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_limit_of_forgetting_that_nothing_is_measured_for_is_refused_where_it_is_declared(
    project: Path, field: str, more: str, needed: str, shared: bool
) -> None:
    file = declare(project, MINIMAL + more + ("" if shared else limited(field)))
    said_in = declare(project, limited(field), "defaults.yaml") if shared else file
    error = refusal(project)
    assert (error.file, error.field, error.value) == (str(said_in), f"training.watch.{field}", 0.05)
    assert needed in error.fix
    declare(project, MINIMAL + more + limited(field, None))
    assert getattr(load_variant(project, KEY).spec.training.watch, field) is None


def test_a_limit_of_forgetting_that_something_is_measured_for_is_taken(project: Path) -> None:
    declare(project, MINIMAL + limited("benchmark_limit"))
    assert load_variant(project, KEY).spec.training.watch.benchmark_limit == 0.05
    general = MINIMAL.replace("]}", "], general: {from: base}}")
    declare(project, general + limited("general_loss_limit") + NO_BENCHMARK)
    assert load_variant(project, KEY).spec.training.watch.general_loss_limit == 0.05


def test_a_frozen_declaration_of_before_a_limit_was_refused_is_read(project: Path) -> None:
    declare(project, MINIMAL)
    frozen = load_variant(project, KEY).spec.model_dump(mode="json")
    frozen["training"]["watch"] |= {"general_loss_limit": 0.05}
    assert VariantSpec.model_validate(frozen).training.watch.general_loss_limit == 0.05


@pytest.mark.parametrize(
    ("resources", "field"),
    [("{gpu_kind: '(a+)+$'}", "resources.gpu_kind"), ("{sharing: mostly}", "resources.sharing")],
)
def test_resources_that_mean_nothing_are_refused_by_field(project: Path, resources: str, field: str) -> None:
    declare(project, MINIMAL + f"resources: {resources}\n")
    assert refusal(project).field == field


def test_a_training_has_its_device_alone_unless_it_is_declared_to_share(project: Path) -> None:
    declare(project, MINIMAL)
    assert load_variant(project, KEY).spec.resources.sharing == "exclusive"
