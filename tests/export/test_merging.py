"""The streaming merge: what PEFT's merge gives, for every kind of adapter, in little memory or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import load_base
from ft_dagster.export import merging
from ft_dagster.export.derived import add_tokens
from ft_dagster.export.merged import export_merged
from ft_dagster.export.merging import merge_weights
from ft_dagster.model_files.weights import weight_files
from ft_dagster.models.quantize import write_quantization
from tests.export.exports import DIGEST, edit_json, save_adapter
from tests.export.peft_merge import merge_with_peft
from tests.long import mostly_long

pytestmark = pytest.mark.slow

Bases = Callable[[str], Path]
NEW = ["Zyrtexal", "<sku>"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("llama", {}),
    "LoRA of some layers": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "rsLoRA": ("llama", {"use_rslora": True}),
    "DoRA": ("llama", {"use_dora": True}),
    "ranks and alphas by layer": (
        "llama",
        {"rank_pattern": {"q_proj": 2, "layers.0.mlp.up_proj": 7}, "alpha_pattern": {"k_proj": 32}},
    ),
    "LoRA on an untied base": ("untied", {}),
    "a whole output head": ("untied", {"modules_to_save": ["lm_head"]}),
    "token rows, tied": ("llama", {"trainable_token_indices": [7, 300]}),
    "token rows, untied": (
        "untied",
        {"trainable_token_indices": {"model.embed_tokens": [7, 300], "lm_head": [7, 300]}},
    ),
    "new tokens": ("extended", {"trainable_token_indices": "new"}),
    "LoRA on GPT-2": ("gpt2", {}),
    "DoRA on GPT-2": ("gpt2", {"use_dora": True}),
    "a base in several files": ("sharded", {"use_rslora": True, "trainable_token_indices": [7, 300]}),
}


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bases(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory, dtype: str) -> Bases:
    """Small bases of a kind, stored in the dtype."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = _make_base(kind, tiny_model_folder, tmp_path_factory.mktemp(kind), dtype)
        return made[kind]

    return of


@pytest.mark.parametrize("kind", mostly_long(KINDS, every=3))
def test_the_weights_are_those_of_pefts_merge(bases: Bases, tmp_path: Path, kind: str, dtype: str) -> None:
    import torch

    name, settings = KINDS[kind]
    base = bases(name)
    adapter = _make_adapter(base, tmp_path / "adapter", **settings)
    export_merged(base, DIGEST, adapter, tmp_path / "streamed")
    exact = merge_with_peft(base, adapter, tmp_path / "peft")

    found, peft = load_base(tmp_path / "streamed"), load_base(tmp_path / "peft")
    assert found.dtype == peft.dtype == getattr(torch, dtype)
    assert [file.name for file in sorted((tmp_path / "streamed").glob("*.safetensors"))] == weight_files(base)
    before = dict(load_base(base).named_parameters())
    changed = 0
    for weight, values in found.named_parameters():
        theirs, sums = peft.get_parameter(weight), exact.get_parameter(weight)
        step = torch.finfo(values.dtype).eps * sums.abs() + 1e-6
        assert ((values.float() - sums).abs() <= step).all(), weight
        if dtype != "float32":  # a sum's last bit seldom decides how it is rounded
            assert (values != theirs).float().mean() < 0.01, weight
        changed += not torch.equal(values, before[weight])
    assert changed > 1
    with torch.inference_mode():
        given = torch.tensor([[5, 7, 11, 200, 300, 11]])
        difference = (found(given).logits - peft(given).logits).abs().max()
    assert difference < {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}[dtype]


@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
@pytest.mark.parametrize("quantization", mostly_long(["nf4", "int8"], ["nf4"]))
@pytest.mark.parametrize(
    "kind", ["LoRA", "DoRA", "token rows, untied", "LoRA on GPT-2", "a base in several files"]
)
def test_weights_behind_a_quantized_base_are_those_that_loading_it_gives(
    bases: Bases, tmp_path: Path, kind: str, quantization: Any
) -> None:
    name, settings = KINDS[kind]
    base = bases(name)
    adapter = _make_adapter(base, tmp_path / "adapter", **settings)
    write_quantization(adapter, quantization)
    export_merged(base, DIGEST, adapter, tmp_path / "streamed")
    merge_with_peft(base, adapter, tmp_path / "peft")

    found, peft = load_base(tmp_path / "streamed"), load_base(tmp_path / "peft")
    for weight, values in found.named_parameters():
        assert (values != peft.get_parameter(weight)).float().mean() < 0.01, weight
    export_merged(base, DIGEST, adapter, tmp_path / "original", original=True)
    plain = load_base(tmp_path / "original")
    assert any((plain.get_parameter(n) != v).float().mean() > 0.1 for n, v in found.named_parameters())


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_numbers_in_the_files_that_are_no_weights_keep_their_bytes(bases: Bases, tmp_path: Path) -> None:
    """Such as the rotary frequencies that older files hold, which bfloat16 would spoil."""
    import torch
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(bases("llama"), tmp_path / "base")
    name, frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq", torch.rand(8)
    tensors = {**load_file(base / "model.safetensors"), name: frequencies}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = _make_adapter(base, tmp_path / "adapter")
    merge_weights(base, adapter, tmp_path / "merged", "nf4")

    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged[name], frequencies)
    assert merged["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_two_stacked_adapters_are_merged_as_one(bases: Bases, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from ft_dagster.training.contract import ParentAdapter
    from ft_dagster.training.methods.adapter import Learned
    from ft_dagster.training.methods.stacking import concatenated_adapters

    base = bases("llama")
    parent = _make_adapter(base, tmp_path / "parent", target_modules=["q_proj", "v_proj"], use_rslora=True)
    child = _make_adapter(base, tmp_path / "child", r=3)
    config = json.loads((child / "adapter_config.json").read_text("utf-8"))
    config["target_modules"] = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    below = ParentAdapter(adapter=parent, digest="1" * 64)
    one, tensors = concatenated_adapters(
        below, Learned(config, load_file(child / "adapter_model.safetensors"))
    )
    save_file(tensors, child / "adapter_model.safetensors", metadata={"format": "pt"})
    edit_json(child / "adapter_config.json", **one)
    export_merged(base, DIGEST, child, tmp_path / "streamed")
    merge_with_peft(base, child, tmp_path / "peft")

    found, peft = load_base(tmp_path / "streamed"), load_base(tmp_path / "peft")
    for weight, values in found.named_parameters():
        assert (values != peft.get_parameter(weight)).float().mean() < 0.01, weight
    weight = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(found.get_parameter(weight), load_base(base).get_parameter(weight))


@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_what_the_adapter_leaves_alone_keeps_its_bytes_and_its_place(bases: Bases, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    base = bases("sharded")
    adapter = _make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    export_merged(base, DIGEST, adapter, tmp_path / "merged")

    before, after = (json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
                     for folder in (base, tmp_path / "merged"))  # fmt: skip
    assert after == before
    for name in weight_files(base):
        old, new = load_file(base / name), load_file(tmp_path / "merged" / name)
        assert old.keys() == new.keys()
        for weight in old:
            assert torch.equal(old[weight], new[weight]) == ("q_proj" not in weight), weight


@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_rows_that_pass_a_few_at_a_time_are_each_changed_once(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    base = bases("llama")
    adapter = _make_adapter(base, tmp_path / "adapter", use_dora=True, trainable_token_indices=[7, 300])
    made = []
    for elements in (1, 1000, 1 << 30):
        monkeypatch.setattr(merging, "ELEMENTS", elements)
        merge_weights(base, adapter, tmp_path / f"{elements}")
        made.append(load_file(tmp_path / f"{elements}" / "model.safetensors"))
    for name, whole in made[-1].items():
        for other in made[:-1]:
            assert (whole != other[name]).float().mean() < 0.01, name


@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_tied_weights_that_a_file_holds_twice_change_alike(bases: Bases, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(bases("llama"), tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = _make_adapter(base, tmp_path / "adapter", trainable_token_indices=[7, 300])
    merge_weights(base, adapter, tmp_path / "merged")

    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert not torch.equal(merged["lm_head.weight"], tensors["lm_head.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_weights_go_where_they_are_loaded_whatever_the_files_hold(bases: Bases, tmp_path: Path) -> None:
    """A file in float32 that config.json says to load in bfloat16: rounded here, not by whoever loads it."""
    import torch
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(bases("llama"), tmp_path / "base")
    tensors = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = _make_adapter(base, tmp_path / "adapter")
    merge_weights(base, adapter, tmp_path / "merged")
    merge_weights(bases("llama"), adapter, tmp_path / "plain")

    merged, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "plain"))
    assert merged["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert all(torch.equal(merged[name].float(), plain[name].float()) for name in plain)


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("llama", {"modules_to_save": ["lm_head"]}, "tied to another layer"),
        ("llama", {"target_modules": ["lm_head"]}, "is not known"),
        ("llama", {"target_modules": ["embed_tokens"]}, "is not known"),
        ("llama", {"init_lora_weights": "pissa"}, "its start had changed"),
        ("gpt2", {"lora_bias": True}, "is not known"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_way_out(
    bases: Bases, tmp_path: Path, name: str, settings: dict[str, Any], said: str
) -> None:
    adapter = _make_adapter(bases(name), tmp_path / "adapter", **settings)
    with pytest.raises(UserError, match=said) as caught:
        export_merged(bases(name), DIGEST, adapter, tmp_path / "merged")
    assert "export: adapter" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_a_base_that_is_stored_quantized_is_refused(bases: Bases, tmp_path: Path) -> None:
    adapter = _make_adapter(bases("llama"), tmp_path / "adapter")
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    edit_json(base / "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(UserError, match="stored quantized") as caught:
        merge_weights(base, adapter, tmp_path / "merged")
    assert caught.value.field == "quantization_config"


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_a_base_whose_files_name_their_tensors_otherwise_is_refused(bases: Bases, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = _make_adapter(bases("llama"), tmp_path / "adapter")
    base = shutil.copytree(bases("llama"), tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file({f"other.{name}": t for name, t in tensors.items()}, base / "model.safetensors")
    with pytest.raises(UserError, match=r"hold no tensor for model\.layers"):
        merge_weights(base, adapter, tmp_path / "merged")


GROWTH = """
import sys
from pathlib import Path
from ft_dagster.export.merging import merge_weights
from ft_dagster.training.figures import peak_process_bytes

def merged(base, adapter, target):
    merge_weights(Path(base), Path(adapter), Path(target))
    return peak_process_bytes()

before = merged(*sys.argv[1:3], sys.argv[5] + "/small")
print(merged(*sys.argv[3:5], sys.argv[5] + "/large") - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16"], indirect=True)
def test_a_process_grows_by_a_fraction_of_the_bases_file(bases: Bases, tmp_path: Path) -> None:
    large = _make_base("large", bases("llama"), tmp_path / "base", "bfloat16")
    given = [bases("llama"), _make_adapter(bases("llama"), tmp_path / "small"),
             large, _make_adapter(large, tmp_path / "large"), tmp_path / "merged"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GROWTH, *map(str, given)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < (large / "model.safetensors").stat().st_size / 2


def _make_base(kind: str, tiny: Path, folder: Path, dtype: str) -> Path:
    """`llama` (tied), `untied`, `sharded` (several files), `extended` (by new tokens), `large`, `gpt2`."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(3)
    if kind == "gpt2":
        settings = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
        model: Any = GPT2LMHeadModel(settings)
    else:
        config = LlamaConfig.from_pretrained(tiny)
        config.tie_word_embeddings = kind != "untied"
        if kind == "large":
            config.hidden_size, config.intermediate_size, config.num_hidden_layers = 1024, 4096, 8
            config.head_dim = 256
        model = LlamaForCausalLM(config)
    plain = folder / "plain" if kind == "extended" else folder
    shard = {"max_shard_size": "200KB"} if kind == "sharded" else {}
    model.to(getattr(torch, dtype)).save_pretrained(plain, **shard)
    tokenizer.save_pretrained(plain)
    if kind == "extended":
        add_tokens(plain, NEW, folder / "extended")
        return folder / "extended"
    return folder


def _make_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA with random weights, in float32, as the trainer leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    if settings.get("trainable_token_indices") == "new":
        settings["trainable_token_indices"] = tokenizer.convert_tokens_to_ids(NEW)
    torch.manual_seed(1)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, weights in model.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name or "magnitude" in name:
            weights.data += 0.05 * torch.randn_like(weights)
        elif "modules_to_save" in name:
            weights.data += 0.02 * torch.randn_like(weights)
    return save_adapter(model, tokenizer, folder)
