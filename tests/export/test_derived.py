"""Bases that are made: new rows are means, all else stays bit for bit, a parent's adapter is summed in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.export import derived
from ft_dagster.export.derivation_request import DerivationRequest
from ft_dagster.export.derived import add_tokens, derive
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.export.exports import DIGEST, MakeAdapter, as_base, as_weights

TOKENS = ["Zyrtexal", "<sku>", "über-Ω"]
TEXT = "The permit for a small building, no. 12: bring your passport!\n"
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def variation(tiny: Path, folder: Path, *, spare: int = 0, **config: Any) -> Path:
    """The tiny model with other settings (untied, more rows than tokens, bf16), its weights drawn again."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    settings = LlamaConfig.from_pretrained(tiny)
    settings.update({"vocab_size": settings.vocab_size + spare, **config})
    torch.manual_seed(3)
    LlamaForCausalLM(settings).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tied, fp32", "untied, bf16, 5 spare rows"])
def base(request: pytest.FixtureRequest, tiny_model_folder: Path, tmp_path: Path) -> Path:
    if request.param.startswith("tied"):
        return tiny_model_folder
    return variation(tiny_model_folder, tmp_path / "base", spare=5, tie_word_embeddings=False)


def test_a_new_row_is_the_mean_of_its_pieces_and_all_else_stays(base: Path, tmp_path: Path) -> None:
    import torch

    ids = add_tokens(base, TOKENS, tmp_path / "made")

    before, after, old = tensors(base), tensors(tmp_path / "made"), tokenizer(base)
    assert ids == [len(old), len(old) + 1, len(old) + 2]
    assert before.keys() == after.keys()
    assert sum(name in before for name in TABLES) == (1 if base.name == "tiny-llama" else 2)
    for name in before:
        assert before[name].dtype == after[name].dtype
        if name not in TABLES:
            assert torch.equal(before[name], after[name])
            continue
        assert after[name].shape[0] == max(before[name].shape[0], ids[-1] + 1)
        others = [row for row in range(before[name].shape[0]) if row not in ids]
        assert torch.equal(before[name][others], after[name][others])
        for token, id_ in zip(TOKENS, ids, strict=True):
            pieces = old(token, add_special_tokens=False)["input_ids"]
            assert len(pieces) > 1
            mean = before[name][pieces].double().mean(0).to(before[name].dtype)
            assert torch.equal(after[name][id_], mean)


def test_the_made_folder_loads_with_transformers_and_answers_as_before(base: Path, tmp_path: Path) -> None:
    import torch

    add_tokens(base, TOKENS, tmp_path / "made")
    model, made = load(base), load(tmp_path / "made")
    given = torch.tensor([tokenizer(base)(TEXT)["input_ids"]])
    with torch.inference_mode():
        rows = len(tokenizer(base))
        assert torch.equal(model(given).logits[..., :rows], made(given).logits[..., :rows])
    assert made.config.vocab_size == made.get_input_embeddings().weight.shape[0]
    assert made.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert made.dtype == model.dtype


def test_a_token_is_one_id_alone_in_words_in_sentences_and_in_a_conversation(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    ids = add_tokens(tiny_model_folder, TOKENS, tmp_path / "made")
    old, new = tokenizer(tiny_model_folder), tokenizer(tmp_path / "made")
    for token, id_ in zip(TOKENS, ids, strict=True):
        assert new(token)["input_ids"] == [id_]
        for text in (f"pre{token}post", f"Take {token}, twice", f"{token}{token}"):
            assert new(text)["input_ids"].count(id_) == text.count(token)
            assert new.decode(new(text)["input_ids"]) == text
        turn = [{"role": "user", "content": f"What is {token}?"}]
        assert new.apply_chat_template(turn, tokenize=False) == old.apply_chat_template(turn, tokenize=False)
        assert new(new.apply_chat_template(turn, tokenize=False))["input_ids"].count(id_) == 1
    assert new(TEXT)["input_ids"] == old(TEXT)["input_ids"]
    assert new.decode(ids, skip_special_tokens=True) == "".join(TOKENS)


def test_the_same_request_gives_the_same_bytes_and_replaces_what_a_cut_off_one_left(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    digests = set()
    for name in ("one", "two"):
        output = tmp_path / name
        (output / "payload" / "model").mkdir(parents=True)
        (output / "payload" / "model" / "half.safetensors").write_text("half")
        request = DerivationRequest(
            schema_version=1, base=as_base(tiny_model_folder), base_digest=DIGEST, new_tokens=tuple(TOKENS),
            output=output,
        )  # fmt: skip
        figures = derive(request)
        assert len(figures["new_token_ids"]) == 3
        digests.add(payload_digest(hash_folder(output / "payload")))
    assert len(digests) == 1
    assert not (output / "payload" / "model" / "half.safetensors").exists()


def test_weights_are_written_in_shards_that_load_whole(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(derived, "SHARD_BYTES", 100_000)
    add_tokens(tiny_model_folder, TOKENS, tmp_path / "made")
    sizes = [file.stat().st_size for file in (tmp_path / "made").glob("model-*-of-*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) < 200_000  # the embeddings alone are more than a shard
    monkeypatch.undo()
    add_tokens(tmp_path / "made", ["another token"], tmp_path / "again")  # reads shards, writes one file
    assert (tmp_path / "again" / "model.safetensors").exists()
    first, second = tensors(tmp_path / "made"), tensors(tmp_path / "again")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name][: len(tensor)])
    load(tmp_path / "made")


@pytest.mark.slow
def test_a_parents_adapter_is_summed_into_its_base_before_tokens_are_added(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    adapter = make_adapter()
    for name, tokens in (("folded", ()), ("extended", tuple(TOKENS))):
        request = DerivationRequest(
            schema_version=1, base=as_base(tiny_model_folder), base_digest=DIGEST,
            adapter=as_weights(adapter), new_tokens=tokens, output=tmp_path / name,
        )  # fmt: skip
        derive(request)
        made = tmp_path / name / "payload" / "model"
        given = torch.tensor([tokenizer(tiny_model_folder)(TEXT)["input_ids"]])
        with torch.inference_mode():
            parent = PeftModel.from_pretrained(load(tiny_model_folder), adapter)(given).logits
            child = load(made)(given).logits[..., : parent.shape[-1]]
        assert torch.allclose(parent, child, atol=1e-4)
        assert not (made / "adapter").exists()
        assert not (tmp_path / name / "folded").exists()
        assert (len(tokenizer(made)) - len(tokenizer(tiny_model_folder))) == len(tokens)


def test_an_adapter_of_another_base_is_not_summed_in(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    request = DerivationRequest(
        schema_version=1,
        base=as_base(tiny_model_folder),
        base_digest="6" * 64,
        adapter=as_weights(make_adapter()),
        output=tmp_path,
    )
    with pytest.raises(UserError, match="another base"):
        derive(request)


@pytest.mark.parametrize(
    ("tokens", "token", "problem"),
    [
        (["Zyrtexal", "b"], "b", "in the base's vocabulary already"),
        ([" the"], " the", "in the base's vocabulary already"),
        (["<|im_end|>"], "<|im_end|>", "in the base's vocabulary already"),
        ([""], "", "an empty token"),
        ([" \n"], " \n", "an empty token"),
        (["Zyrtexal", "<sku>", "Zyrtexal"], "Zyrtexal", "given twice"),
        (["Zyrtexal", "s gi"], "s gi", "stands in an ordinary sentence"),
        (["user\n"], "user\n", "or in the base's chat template"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused_by_the_program(
    tiny_model_folder: Path, tmp_path: Path, tokens: list[str], token: str, problem: str
) -> None:
    request = {
        "schema_version": 1, "base_digest": DIGEST, "new_tokens": tokens,
        "base": as_base(tiny_model_folder).model_dump(mode="json"),
        "declared_in": "acme/support.yaml", "output": str(tmp_path / "output"),
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(request))
    assert derived.main(tmp_path) == 2
    error = json.loads((tmp_path / "output" / "result.json").read_text())["error"]
    assert problem in error["problem"]
    assert (error["file"], error["field"]) == ("acme/support.yaml", "base_model.new_tokens")
    assert error["value"].strip("'") == token.replace("\n", "\\n")


def test_a_base_with_fewer_rows_than_tokens_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = variation(tiny_model_folder, tmp_path / "base", spare=-4)
    with pytest.raises(UserError, match=r"tokens, but model.embed_tokens.weight only .* rows"):
        add_tokens(base, ["Zyrtexal"], tmp_path / "made")
