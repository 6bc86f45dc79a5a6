"""One view of all declarations: what a file said is kept while it stays, and a broken one stops no other."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError, UserErrors, all_of
from ft_dagster.spec import Declarations, VariantKey, load_variant
from ft_dagster.spec import declarations as module
from ft_dagster.spec.validation import validate
from ft_dagster.spec.yaml_files import read_yaml
from tests.present import present

NOBODY = 65534
KEY = VariantKey("acme", "support")
MISTAKEN = ("a.yaml.txt", "b.yml.TXT", "c.YAML", "d.Yml", "e.json")
MINIMAL = """\
description: answers support questions
owners: [ml@acme.example]
base_model: models/base
data: {sources: [rows.jsonl]}
"""


def declare(project: Path, name: str, text: str = MINIMAL, *, age: int = 60) -> Path:
    """Write a file below tenants/, as if `age` seconds ago."""
    file = project / "tenants" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    stat = file.stat()
    os.utime(file, ns=(stat.st_mtime_ns - age * 10**9,) * 2)
    return file


def child(parent: str) -> str:
    return MINIMAL.replace("base_model: models/base", f"base_model: {{variant: {parent}}}")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are parsed, in order; a stamp counts as settled at once."""
    found: list[str] = []

    def counted(file: Path, **given: Any) -> Any:
        found.append(file.name)
        return read_yaml(file, **given)

    monkeypatch.setattr(module, "read_yaml", counted)
    monkeypatch.setattr(module, "SETTLED_NS", -(10**12))
    return found


def test_a_file_is_parsed_once_for_all_views_until_it_changes(tmp_path: Path, reads: list[str]) -> None:
    declare(tmp_path, "defaults.yaml", "training: {seed: 1}\n")
    for name in ("a", "b", "c"):
        declare(tmp_path, f"acme/{name}.yaml")
    for _ in range(3):
        view = Declarations(tmp_path)
        assert [view.declared(key).spec.training.seed for key in view] == [1, 1, 1]
    assert sorted(reads) == ["a.yaml", "b.yaml", "c.yaml", "defaults.yaml"]
    declare(tmp_path, "acme/b.yaml", MINIMAL + "training: {seed: 2}\n")
    assert load_variant(tmp_path, VariantKey("acme", "b")).spec.training.seed == 2
    assert reads[4:] == ["b.yaml"]


def test_changed_defaults_are_seen_by_every_variant(tmp_path: Path, reads: list[str]) -> None:
    declare(tmp_path, "acme/support.yaml")
    assert load_variant(tmp_path, KEY).spec.training.seed == 0
    shared = declare(tmp_path, "defaults.yaml", "training: {seed: 7}\n")
    assert load_variant(tmp_path, KEY).spec.training.seed == 7
    shared.unlink()
    assert load_variant(tmp_path, KEY).spec.training.seed == 0


def test_an_edit_at_once_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    file = declare(tmp_path, "acme/support.yaml", MINIMAL + "training: {seed: 1}\n", age=0)
    before = file.stat()
    assert load_variant(tmp_path, KEY).spec.training.seed == 1
    file.write_text(MINIMAL + "training: {seed: 2}\n", "utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_variant(tmp_path, KEY).spec.training.seed == 2


def test_a_view_says_the_same_for_as_long_as_it_lives(tmp_path: Path) -> None:
    declare(tmp_path, "acme/support.yaml")
    view = Declarations(tmp_path)
    assert view.declared(KEY).spec.training.seed == 0
    declare(tmp_path, "acme/support.yaml", MINIMAL + "training: {seed: 2}\n")
    assert view.declared(KEY).spec.training.seed == 0
    assert Declarations(tmp_path).declared(KEY).spec.training.seed == 2


def test_each_broken_file_is_reported_by_itself_and_stops_no_other(tmp_path: Path) -> None:
    declare(tmp_path, "acme/support.yaml")
    broken = {
        declare(tmp_path, "acme/No_Key.yaml"): "not a variant key",
        declare(tmp_path, "stray.yaml"): "in no tenant's folder",
        declare(tmp_path, "acme/sub/deep.yaml"): "in a folder below its tenant's",
        declare(tmp_path, "acme/sub/sub/deeper.yml"): "in a folder below its tenant's",
        declare(tmp_path, "defaults.yml", "training: {seed: 1}\n"): "in no tenant's folder",
        **{declare(tmp_path, f"acme/{name}"): "a declaration's file ends in .yaml" for name in MISTAKEN},
        declare(tmp_path, "acme/open.yaml", "a: ["): "expected",
        declare(
            tmp_path, "acme/wrong.yaml", MINIMAL + "training: {seed: -1}\n"
        ): "greater than or equal to 0",
        declare(tmp_path, "acme/orphan.yaml", child("acme.nobody")): "no such variant",
    }
    fifo = tmp_path / "tenants/acme/fifo.yaml"
    os.mkfifo(fifo)
    for name in ("faq.json", "faq.yaml~", "faq.yaml.bak", ".faq.yaml.swp", "README.md"):
        declare(tmp_path, f"acme/{name}", "{}" if name == "faq.json" else MINIMAL)
    os.mkfifo(tmp_path / "tenants/acme/fifo.json")
    (tmp_path / "tenants/acme/link.json").symlink_to(tmp_path / "tenants/acme/support.yaml")
    (tmp_path / "tenants/globex").mkdir()
    (tmp_path / "tenants/globex/linked").symlink_to(tmp_path / "tenants/acme/sub")
    declare(tmp_path, "acme/tasks/quiz.yaml", "task: quiz\n")
    declare(tmp_path, "acme/.hidden/support.yaml")
    view = Declarations(tmp_path)
    assert set(view.broken) == {*broken, fifo}
    assert "a FIFO" in view.broken[fifo].problem
    for file, words in broken.items():
        assert words in view.broken[file].problem
        assert view.broken[file].file == str(file)
    assert view.declared(KEY).file == tmp_path / "tenants/acme/support.yaml"


def test_what_nobody_foresaw_of_one_file_is_its_own_error_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a validator may raise that asks the system something; once it does no more, nothing is wrong."""
    for name in ("acme/support.yaml", "globex/faq.yaml"):
        declare(tmp_path, name)
    judge = validate

    def fails(model: Any, content: dict[str, Any], file_of: Callable[[str], Path]) -> Any:
        if file_of("owners").parent.name == "acme":
            raise OSError(36, "File name too long")
        return judge(model, content, file_of)

    monkeypatch.setattr(module, "validate", fails)
    view = Declarations(tmp_path)
    error = present(view.wrong(KEY))
    assert error.file == str(tmp_path / "tenants/acme/support.yaml")
    assert "failed with OSError: [Errno 36] File name too long (at test_declarations.py:" in str(error)
    assert view.wrong(VariantKey("globex", "faq")) is None
    monkeypatch.setattr(module, "validate", judge)
    assert Declarations(tmp_path).wrong(KEY) is None


def test_a_file_that_went_since_it_was_listed_stops_no_other(tmp_path: Path) -> None:
    gone = declare(tmp_path, "acme/support.yaml")
    declare(tmp_path, "globex/faq.yaml")
    view = Declarations(tmp_path)
    assert len(view.files) == 2
    gone.unlink()
    assert view.edited(KEY).year == 1970
    with pytest.raises(UserError, match="no such variant"):
        view.declared(KEY)
    assert view.wrong(VariantKey("globex", "faq")) is None


@pytest.fixture
def project_of_nobody() -> Iterator[Path]:
    """A project of a user who is not root, which this process is for as long."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        if user == 0:
            os.chown(name, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


def test_a_tenants_closed_folder_stops_no_other(project_of_nobody: Path) -> None:
    """Its files are listed, and not one can be looked at."""
    declare(project_of_nobody, "acme/support.yaml")
    declare(project_of_nobody, "globex/faq.yaml")
    (project_of_nobody / "tenants" / "acme").chmod(0o444)
    view, other = Declarations(project_of_nobody), VariantKey("globex", "faq")
    assert [*view] == [KEY, other]
    assert "cannot be read: Permission denied" in str(view.wrong(KEY))
    assert view.wrong(other) is None
    assert view.edited(KEY).year == 1970
    (project_of_nobody / "tenants" / "acme").chmod(0o755)
    assert Declarations(project_of_nobody).wrong(KEY) is None


def test_a_tenant_may_not_be_named_as_what_all_share(tmp_path: Path) -> None:
    file = declare(tmp_path, "shared/support.yaml")
    declare(tmp_path, "acme/support.yaml")
    view = Declarations(tmp_path)
    with pytest.raises(UserError, match="no tenant may be named so") as refused:
        view.declared(VariantKey("shared", "support"))
    assert (refused.value.file, refused.value.value) == (str(file), "shared")
    assert "Rename the folder tenants/shared" in str(refused.value)
    assert view.wrong(KEY) is None


def test_hidden_files_declare_nothing(tmp_path: Path) -> None:
    declare(tmp_path, "acme/support.yaml")
    (tmp_path / "tenants/acme/.#support.yaml").symlink_to("editor@host.1")
    view = Declarations(tmp_path)
    assert list(view) == [KEY]
    assert not view.broken


def test_all_mistakes_of_a_declaration_are_one_error_that_names_each(tmp_path: Path) -> None:
    text = child("globex.other") + "training: {seed: -1, sed: 1}\nmethod: {rank: true, target_modules: 5}\n"
    file = declare(tmp_path, "acme/support.yaml", text)
    shared = declare(tmp_path, "defaults.yaml", "gates: {alpha: 3}\n")
    with pytest.raises(UserErrors) as caught:
        load_variant(tmp_path, KEY)
    found = {error.field: error for error in all_of(caught.value)}
    assert set(found) == {
        "training.seed", "training.sed", "method.rank", "method.target_modules", "gates.alpha",
        "base_model.variant",
    }  # fmt: skip
    assert {error.file for field, error in found.items() if field != "gates.alpha"} == {str(file)}
    assert found["gates.alpha"].file == str(shared)
    assert found["training.sed"].fix == "Did you mean seed?"
    assert str(caught.value).endswith("and 5 more: `ft-dagster check` says them all")


def test_an_error_of_several_survives_a_process_border() -> None:
    import pickle

    errors = UserErrors([UserError("one", fix="a", value=[1]), UserError("two", fix="b", field="f")])
    again = pickle.loads(pickle.dumps(errors))
    assert [str(error) for error in again.errors] == [str(error) for error in errors.errors]
    assert str(again) == str(errors)


@pytest.mark.slow
def test_a_chain_of_more_parents_than_python_recurses_is_walked_once(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, "acme/v0.yaml")
    for number in range(1, 1200):
        declare(tmp_path, f"acme/v{number}.yaml", child(f"acme.v{number - 1}"))
    view = Declarations(tmp_path)
    steps: list[VariantKey] = []
    real = view._parent

    def counted(key: VariantKey) -> VariantKey | None:
        steps.append(key)
        return real(key)

    monkeypatch.setattr(view, "_parent", counted)
    assert all(view.declared(key) for key in view)
    assert len(steps) <= 1200
    assert len(reads) == 1200


def test_a_cycle_is_said_of_each_of_its_members_and_of_who_comes_to_it(tmp_path: Path) -> None:
    for name, parent in {"a": "b", "b": "a", "c": "a"}.items():
        declare(tmp_path, f"acme/{name}.yaml", child(f"acme.{parent}"))
    declare(tmp_path, "acme/free.yaml")
    view = Declarations(tmp_path)
    assert {file.stem for file in view.broken} == {"a", "b", "c"}
    assert all("a cycle of parents: acme." in error.problem for error in view.broken.values())


def test_a_corpus_that_is_broken_is_said_by_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    file = tmp_path / "corpora" / "g.yaml"
    file.write_text("description: g\nsources: []\nmax_megabytes: .inf\n")
    with pytest.raises(UserErrors) as caught:
        Declarations(tmp_path).corpus("g")
    assert [error.field for error in all_of(caught.value)] == ["sources", "max_megabytes"]
    assert {error.file for error in all_of(caught.value)} == {str(file)}
