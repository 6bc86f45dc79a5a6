"""The model under judgement: base, or base with its adapter, as an lm-eval model that batches by tokens."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from ft_dagster.errors import UserError
from ft_dagster.evaluation.own_task import Encoded
from ft_dagster.evaluation.scoring import Row, Score, arrange, batches, score

# Tokens of one forward pass, padding included: more gains nothing on a CPU, and a GPU wants a few thousand.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# Logits are the largest tensor: positions whose logits are needed x vocabulary, in float32.
BATCH_LOGIT_BYTES = {"cpu": 400e6, "cuda": 4e9}
# Tokens of one generated batch, answers included: a step costs about the same for any number of rows.
GENERATION_TOKENS = {"cpu": 16384, "cuda": 32768}
_ONE_BATCH = 1_000_000  # for HFLM, which is handed one ready batch at a time
PROBE = "The capital of France is Paris. Water boils at one hundred degrees. Q: Who are you?\nA: I am"


def load_model(base: Path, adapter: Path | None, *, device: str, dtype: str) -> tuple[Any, Any]:
    """(model, tokenizer) from local folders, in eval mode. Raises UserError.

    The adapter stays apart from the base: what is judged is what was trained, not a rounded merge. It
    computes in `dtype`, as it did under autocast in training and as servers load it (kept in float32 on a
    bfloat16 base, it costs a CPU about 40% more).
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from ft_dagster.data.render import load_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("this host has no usable GPU", field="device", value=device, fix="Evaluate on cpu")
    tokenizer = load_tokenizer(base)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"the base model does not load: {said}", file=base, fix="Check the folder") from None
    model = model.to(device)
    if adapter is not None:
        model = _with_adapter(model, adapter)
    # The last positions are a slice with gaps: on those, torch multiplies a frozen weight once a row, after
    # copying it for each (should_fold in aten), which doubled the time of a batch of 16 x 128 tokens.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    return model.eval(), tokenizer


def adapter_logit_difference(model: Any, tokenizer: Any, texts: Sequence[str] = (PROBE,)) -> float:
    """Largest absolute change that the adapter makes to any logit on `texts`. Raises UserError if it is 0.

    An adapter that was not loaded, or not trained, would be judged equal to its base and pass every gate.
    """
    largest = 0.0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]], device=model.device)
        with torch.inference_mode():
            tuned = model(input_ids=ids).logits[:, -ids.shape[1] :].float()
            with model.disable_adapter():
                base = model(input_ids=ids).logits.float()
        change = (tuned - base).abs().max().item()
        if not math.isfinite(change):
            raise UserError(
                "the tuned model's logits are not numbers",
                field="model.adapter",
                fix="Train it again at a lower learning rate",
            )
        largest = max(largest, change)
    if largest == 0.0:
        raise UserError(
            "the adapter changes nothing: every logit equals the base's",
            field="model.adapter",
            fix="Train it for more than zero steps, at a learning rate above zero",
        )
    return largest


class TokenBatchedLM(HFLM):
    """HFLM with batches of about equal work, a shared context computed once, logits only where scored.

    `on_progress` is told the share of the running requests that is done.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=_ONE_BATCH)
        self.on_progress: Callable[[float], None] = lambda share: None
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._cuts_logits = "logits_to_keep" in inspect.signature(inner.forward).parameters
        self._vocabulary = int(inner.get_output_embeddings().weight.shape[0])
        self._on = "cuda" if str(self.device).startswith("cuda") else "cpu"
        self._dtype = inner.dtype
        # None until tried; where keys fall out of a window, the mask of shared contexts would be wrong.
        self._shares: bool | None = False if getattr(inner.config, "sliding_window", None) else None
        self._inner = inner
        self.stop_at({self.eot_token_id})

    def stop_at(self, end_tokens: set[int]) -> None:
        """End a generated answer at any of these tokens."""
        from transformers import GenerationConfig

        # The base's own settings (a repetition penalty, say) would make the answer other than greedy.
        self._inner.generation_config = GenerationConfig(
            eos_token_id=sorted(end_tokens), pad_token_id=self.tokenizer.pad_token_id, do_sample=False
        )

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if isinstance(context, Encoded) and isinstance(continuation, Encoded):
            return context.ids, continuation.ids
        return super()._encode_pair(context, continuation)

    def tok_batch_encode(self, strings: Sequence[str], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        ids = [text.ids for text in strings if isinstance(text, Encoded)]
        if len(ids) < len(strings):
            return super().tok_batch_encode(list(strings), *args, **kwargs)
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[Score]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        if not all(1 <= len(continuation) <= self.max_length for _, continuation in pairs):
            raise UserError(
                f"an answer of the task has no tokens, or more than the model's {self.max_length}",
                fix="Leave such questions out of the task",
            )
        rows = arrange(pairs, max_length=self.max_length, shared=self._shares is not False)
        several = [row for row in rows if len(row.continuations) > 1]
        if several and self._shares is None:
            self._shares = self._can_share(several[-1])
        if not self._shares:
            rows = arrange(pairs, max_length=self.max_length, shared=False)
        positions = BATCH_LOGIT_BYTES[self._on] / (4 * self._vocabulary)
        found: dict[int, Score] = {}
        for batch in batches(rows, tokens=BATCH_TOKENS[self._on], positions=positions):
            found |= self._score(batch)
            self.on_progress(len(found) / len(requests))
        return [found[number] for number in range(len(requests))]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        lengths = [self._generated_length(*request.args[:2]) for request in requests]
        waiting = sorted(range(len(requests)), key=lambda number: -lengths[number])
        answers: dict[int, str] = {}
        while waiting:
            rows = max(1, GENERATION_TOKENS[self._on] // lengths[waiting[0]])
            numbers, waiting = waiting[:rows], waiting[rows:]
            found = super().generate_until([requests[n] for n in numbers], disable_tqdm=True)
            answers.update(zip(numbers, found, strict=True))
            self.on_progress(len(answers) / len(requests))
        return [answers[number] for number in range(len(requests))]

    def _generated_length(self, prompt: str, settings: dict[str, Any]) -> int:
        """Tokens of the prompt and of its longest answer."""
        ids = prompt.ids if isinstance(prompt, Encoded) else self.tok_encode(prompt)
        return len(ids) + int(settings.get("max_gen_toks") or self.max_gen_toks)

    def _score(self, rows: Sequence[Row]) -> dict[int, Score]:
        return score(rows, self._forward, device=self.device, dtype=self._dtype)

    def _forward(self, input_ids: Any, keep: int, **inputs: Any) -> Any:
        kept = {"logits_to_keep": keep} if self._cuts_logits else {}
        logits = self.model(input_ids=input_ids, use_cache=False, **kept, **inputs).logits
        return logits[:, -keep:]

    def _can_share(self, row: Row) -> bool:
        """Whether this architecture scores a shared context as it does each continuation alone.

        Tried on one real question, since masks and positions are refused, ignored or replaced by some
        (state-space models, prompt tuning).
        """
        alone: dict[int, Score] = {}
        for single in row.alone():
            alone |= self._score([single])
        try:
            together = self._score([row])
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        apart = sum(abs(together[n].log_likelihood - alone[n].log_likelihood) for n in row.numbers)
        return apart / row.scored <= (1e-3 if self._dtype == torch.float32 else 0.1)


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    if (
        not (adapter / "adapter_config.json").is_file()
        or not (adapter / "adapter_model.safetensors").is_file()
    ):
        raise UserError(
            "not an adapter: adapter_config.json or adapter_model.safetensors is missing",
            file=adapter,
            field="model.adapter",
            fix="Name the payload folder of a fine_tuned_model",
        )
    try:
        return PeftModel.from_pretrained(
            model, str(adapter), is_trainable=False, autocast_adapter_dtype=False
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        said = str(error).strip().splitlines()[0].rstrip(":")
        raise UserError(
            f"the adapter does not fit the base: {said}",
            file=adapter,
            field="model.adapter",
            fix="Use the base that the adapter was trained on",
        ) from None
