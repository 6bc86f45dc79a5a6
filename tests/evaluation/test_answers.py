"""Answers of base and tuned model to the same prompts."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_dagster.evaluation.answers import answer


def test_prompts_answered_together_are_answered_as_alone(tiny_model_folder, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path)
    prompts = ["Which documents must I bring?", "The whale rose slowly beside the ship and", "a"]
    together = answer(tiny_model_folder, tmp_path, prompts, system="be short", max_new_tokens=8)
    alone = [
        answer(tiny_model_folder, tmp_path, [prompt], system="be short", max_new_tokens=8)[0]
        for prompt in prompts
    ]
    assert [a.prompt for a in together] == prompts
    assert together == alone
    assert any(a.base != a.tuned for a in together)
