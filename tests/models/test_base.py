"""Base models are found, described from their headers, found again, and refused where they are unsafe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.errors import UserError
from ft_dagster.models.base import locate_base, resolve_base
from ft_dagster.spec.variant import BaseModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def base(project: Path, tiny_model_folder: Path) -> Path:
    """A copy of the tiny model inside the project, as models/tiny."""
    return Path(shutil.copytree(tiny_model_folder, project / "models" / "tiny"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def refusal(project: Path, cache: Path, source: str = "models/tiny", **spec: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve_base(BaseModelSpec(source=source, **spec), project, cache, declared_in="acme/support.yaml")
    return caught.value


def test_a_local_base_is_described_without_loading_it(project: Path, base: Path, cache: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = resolve_base(BaseModelSpec(source="models/tiny"), project, cache)
    assert (found.folder, found.reference, found.revision) == (base, "models/tiny", None)
    assert [file.path for file in found.files] == sorted(
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json", "chat_template.jinja"]
    )  # fmt: skip
    content = found.content
    model = AutoModelForCausalLM.from_pretrained(base)
    assert content["parameters"] == sum(p.numel() for p in model.parameters())
    assert content["weights_bytes"] == 4 * content["parameters"]
    assert (content["architecture"], content["dtype"]) == ("LlamaForCausalLM", "float32")
    assert (content["schema_version"], content["chat_template"]) == (1, True)
    assert json.loads(json.dumps(content)) == content


def test_the_tokenizer_digest_changes_with_the_template_alone(project: Path, base: Path, cache: Path) -> None:
    def digest() -> str:
        return str(resolve_base(BaseModelSpec(source="models/tiny"), project, cache).content["tokenizer"])

    before = digest()
    (base / "generation_config.json").write_text('{"temperature": 0.5}')
    assert digest() == before
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert digest() != before


def test_a_sharded_base_is_counted_over_its_shards(
    project: Path, base: Path, cache: Path, tiny_model_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM

    whole = resolve_base(BaseModelSpec(source="models/tiny"), project, cache).content["parameters"]
    (base / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model_folder).save_pretrained(base, max_shard_size="100KB")
    found = resolve_base(BaseModelSpec(source="models/tiny"), project, cache)
    assert found.content["parameters"] == whole
    assert "model.safetensors.index.json" in [file.path for file in found.files]
    next(base.glob("model-00001*.safetensors")).unlink()
    assert "weight files are missing" in refusal(project, cache).problem


def test_a_missing_folder_names_the_nearest(project: Path, base: Path, cache: Path) -> None:
    error = refusal(project, cache, "models/tny")
    assert (error.file, error.field, error.value) == ("acme/support.yaml", "base_model.source", "models/tny")
    assert "models/tiny" in error.fix


def test_a_folder_without_config_is_refused(project: Path, base: Path, cache: Path) -> None:
    (base / "config.json").unlink()
    assert "without config.json" in refusal(project, cache).problem


def test_a_folder_without_weights_is_refused(project: Path, base: Path, cache: Path) -> None:
    (base / "model.safetensors").unlink()
    assert refusal(project, cache).problem == "a base model without weights"


def test_a_folder_with_pickled_weights_only_is_refused_with_the_way_out(
    project: Path, base: Path, cache: Path
) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    error = refusal(project, cache)
    assert (error.problem, error.value) == ("the weights are pickles only", "pytorch_model.bin")
    assert "safetensors" in error.fix


def test_pickles_beside_safetensors_are_left_alone(project: Path, base: Path, cache: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"never read")
    found = resolve_base(BaseModelSpec(source="models/tiny"), project, cache)
    assert "pytorch_model.bin" not in [file.path for file in found.files]


def test_an_adapter_is_not_a_base(project: Path, base: Path, cache: Path) -> None:
    (base / "model.safetensors").rename(base / "adapter_model.safetensors")
    (base / "adapter_config.json").write_text("{}")
    assert refusal(project, cache).problem == "an adapter, not a base model"


def test_a_model_that_brings_its_own_code_is_refused(project: Path, base: Path, cache: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    own = {**config, "model_type": "my_model", "auto_map": {"AutoModelForCausalLM": "modeling.MyModel"}}
    (base / "config.json").write_text(json.dumps(own))
    assert "code of its own (auto_map)" in refusal(project, cache).problem


def test_an_unknown_architecture_is_refused(project: Path, base: Path, cache: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))  # codespell:ignore
    error = refusal(project, cache)
    assert (error.problem, error.value) == ("unknown architecture", "lama")  # codespell:ignore


def test_a_folder_without_tokenizer_is_refused(project: Path, base: Path, cache: Path) -> None:
    (base / "tokenizer.json").unlink()
    assert "without a tokenizer" in refusal(project, cache).problem


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"version": "1.0", "model', b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_damaged_tokenizer_is_one_error_that_names_its_folder(base: Path, content: bytes) -> None:
    (base / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"the tokenizer does not load: .+ Put the model's own tokenizer\.json"
    ):
        load_tokenizer(base)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs, in place of the weights"),
        (b"", "is empty"),
        (b"\x10" + bytes(30), "is damaged, or was cut off at 31 bytes"),
    ],
)
def test_weights_that_are_not_whole_are_refused(
    project: Path, base: Path, cache: Path, content: bytes, what: str
) -> None:
    (base / "model.safetensors").write_bytes(content)
    assert refusal(project, cache).problem == f"not a whole safetensors file: it {what}"


def test_cut_weights_are_refused(project: Path, base: Path, cache: Path) -> None:
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:-100])
    assert "not a whole safetensors file" in refusal(project, cache).problem


def test_a_recorded_base_is_found_again(project: Path, base: Path, cache: Path, tmp_path: Path) -> None:
    content = resolve_base(BaseModelSpec(source="models/tiny"), project, cache).record
    assert locate_base(content, project, cache) == base
    assert locate_base(content, project, tmp_path / "other-host", verify=True) == base


@pytest.mark.parametrize("verify", [False, True])
def test_a_base_that_changed_since_is_refused(project: Path, base: Path, cache: Path, verify: bool) -> None:
    content = resolve_base(BaseModelSpec(source="models/tiny"), project, cache).record
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="base model changed on disk: the file has other bytes"):
        locate_base(content, project, cache, verify=verify)


def test_a_base_whose_file_is_gone_or_longer_is_refused(project: Path, base: Path, cache: Path) -> None:
    content = resolve_base(BaseModelSpec(source="models/tiny"), project, cache).record
    with (base / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="changed on disk: the file has another size"):
        locate_base(content, project, cache)
    (base / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="changed on disk: the file is gone"):
        locate_base(content, project, cache)


@pytest.mark.slow
def test_a_base_on_s3_is_downloaded_once_and_described_like_the_local_one(
    project: Path, base: Path, cache: Path, put: Any
) -> None:
    for file in base.iterdir():
        put(f"models/tiny/{file.name}", file.read_bytes())
    put("models/tiny/pytorch_model.bin", b"never downloaded")
    source = put("models/tiny/README.md", b"x").removesuffix("/README.md")
    local = resolve_base(BaseModelSpec(source="models/tiny"), project, cache)
    remote = resolve_base(BaseModelSpec(source=source), project, cache)
    assert remote.files == local.files
    assert {**remote.content, "reference": "models/tiny"} == local.content
    assert not (remote.folder / "pytorch_model.bin").exists()
    assert locate_base(remote.record, project, cache) == remote.folder
    inode = (remote.folder / "model.safetensors").stat().st_ino
    again = resolve_base(BaseModelSpec(source=source), project, cache)
    assert (again.folder / "model.safetensors").stat().st_ino == inode


@pytest.mark.slow
def test_a_base_on_s3_that_changed_since_is_refused(project: Path, base: Path, cache: Path, put: Any) -> None:
    for file in base.iterdir():
        put(f"models/changing/{file.name}", file.read_bytes())
    source = put("models/changing/README.md", b"x").removesuffix("/README.md")
    content = resolve_base(BaseModelSpec(source=source), project, cache).record
    put("models/changing/chat_template.jinja", b"{{ messages }}")
    with pytest.raises(UserError, match="base model changed"):
        locate_base(content, project, cache)


@pytest.mark.slow
def test_an_s3_prefix_without_a_model_is_refused(project: Path, cache: Path, put: Any) -> None:
    source = put("models/none/README.md", b"x").removesuffix("/README.md")
    assert "no config.json" in refusal(project, cache, source).problem


def test_an_s3_prefix_with_pickles_only_is_refused_before_any_download(
    project: Path, base: Path, cache: Path, put: Any
) -> None:
    put("models/pickled/config.json", (base / "config.json").read_bytes())
    source = put("models/pickled/pytorch_model.bin", b"x").removesuffix("/pytorch_model.bin")
    assert "pickles only" in refusal(project, cache, source).problem
    assert not (cache / "bases").exists()


def test_a_hub_snapshot_in_the_cache_is_found_by_its_commit(
    project: Path, tiny_model_folder: Path, cache: Path
) -> None:
    snapshot = cache / "hub" / "models--some-org--tiny" / "snapshots" / COMMIT
    shutil.copytree(tiny_model_folder, snapshot)
    found = resolve_base(BaseModelSpec(source="some-org/tiny", revision=COMMIT), project, cache)
    assert (found.folder, found.reference, found.revision) == (snapshot, "some-org/tiny", COMMIT)
    assert locate_base(found.record, project, cache) == snapshot


def test_a_hub_model_that_cannot_be_reached_is_refused(project: Path, cache: Path) -> None:
    error = refusal(project, cache, "some-org/absent", revision=COMMIT)
    assert (error.file, error.field) == ("acme/support.yaml", "base_model.source")
