"""Puts the model under judgement, base or trained, into an lm-eval model that batches by tokens."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.models.utils_hf import stop_sequences_criteria

from ft_dagster.data.rendering.chat_rules import stop_token_ids
from ft_dagster.data.rendering.render import added_after, load_tokenizer
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import BATCH_TOKENS, GENERATION_TOKENS
from ft_dagster.evaluation.models.attention import attend_in_blocks
from ft_dagster.evaluation.models.greedy import Greedy, PromptRow, write_all
from ft_dagster.evaluation.models.key_values import (
    attends_to_every_token,
    begin,
    forward_of,
    remembered,
    remembers_exactly,
)
from ft_dagster.evaluation.models.load import (
    generate,
    inner_model,
    kind_of,
    let_go,
    load_base,
    load_tuned,
    virtual_tokens,
)
from ft_dagster.evaluation.models.lora_layers import plain_lora_layers
from ft_dagster.evaluation.models.memory_budget import spare_memory
from ft_dagster.evaluation.models.packed import pack
from ft_dagster.evaluation.models.scoring import (
    ContinuationScore,
    Group,
    ScoringRow,
    arrange_rows,
    batches,
    group_rows,
    score,
)
from ft_dagster.evaluation.tasks.own_split import Encoded

# Logits are the largest tensor: positions whose logits are needed x vocabulary, in float32.
BATCH_LOGIT_BYTES = {"cpu": 400e6, "cuda": 4e9}
_ONE_BATCH = 1_000_000  # for HFLM, which is handed one ready batch at a time
PROBE = "The capital of France is Paris. Water boils at one hundred degrees. Q: Who are you?\nA: I am"


def load_model(base: Path, tuned: Path | None, *, device: str, dtype: str) -> tuple[Any, Any]:
    """Load (model, tokenizer) of the base, or of what a training made of it, in eval mode. Raises UserError.

    An adapter stays apart from its base: what is judged is what was trained, not a rounded merge. It
    computes in `dtype`, as it did under autocast in training and as servers load it (kept in float32 on a
    bfloat16 base, it costs a CPU about 40% more). A whole model brings its own tokenizer.
    """
    whole = tuned if tuned is not None and kind_of(tuned) == "model" else base
    tokenizer = load_tokenizer(whole, base=base)
    if tuned is None:
        model = load_base(base, dtype=dtype, device=device)
    else:
        model = load_tuned(base, tuned, dtype=dtype, device=device)
        plain_lora_layers(model)
    attend_in_blocks(inner_model(model))
    pack(model, spare_memory())
    # The last positions are a slice with gaps: on those, torch multiplies a frozen weight once a row, after
    # copying it for each (should_fold in aten), which doubled the time of a batch of 16 x 128 tokens.
    head = inner_model(model).get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    return model, tokenizer


def withhold(model: Any, tokens: Sequence[int]) -> None:
    """Let a model choose among its vocabulary without these rows, as if it had none of them."""
    if tokens:
        rows = torch.tensor(tokens, device=model.device)
        head = inner_model(model).get_output_embeddings()
        head.register_forward_hook(
            lambda _, given, made: made.index_fill(-1, rows.to(made.device), -math.inf)
        )


def load_judged(base: Path, tuned: Path | None, *, device: str, dtype: str) -> tuple[Any, Any, float | None]:
    """Load (model, tokenizer, what training changed) of the model to be judged; see
    `tuned_logit_difference`.
    """
    before = None
    if tuned is not None and kind_of(tuned) == "model":
        model, tokenizer = load_model(base, None, device=device, dtype=dtype)
        before = probe_logits(model, tokenizer)
        let_go(model)
    model, tokenizer = load_model(base, tuned, device=device, dtype=dtype)
    if tuned is None:
        return model, tokenizer, None
    return model, tokenizer, tuned_logit_difference(model, tokenizer, before)


def tuned_logit_difference(model: Any, tokenizer: Any, before: torch.Tensor | None = None) -> float:
    """Return the largest absolute change of any logit on a probe between base and trained model. Raises
    UserError if 0.

    `before`: the base's `probe_logits`; None: the model without its adapter. Weights that were not loaded, or
    not trained, would be judged equal to their base and pass every gate.
    """
    after = probe_logits(model, tokenizer)
    if before is None:
        with model.disable_adapter():
            before = probe_logits(model, tokenizer)
    change = (after - before).abs().max().item()
    if not math.isfinite(change):
        raise UserError(
            "the tuned model's logits are not numbers",
            field="model.tuned",
            fix="Train it again at a lower learning rate",
        )
    if change == 0.0:
        raise UserError(
            "the training changed nothing: every logit equals the base's",
            field="model.tuned",
            fix="Train it for more than zero steps, at a learning rate above zero",
        )
    return change


def probe_logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Return logits [tokens, vocabulary] on PROBE, float32 on the CPU; positions of a learned prompt left
    out.
    """
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]], device=model.device)
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0, -ids.shape[1] :]
    return logits.float().cpu()


class TokenBatchedLM(HFLM):
    """Is an HFLM with batches of about equal work, a shared context computed once, logits only where scored.

    `on_progress` is told the share of the running requests that is done. `beside`: rows that are written with
    the next answers, since a step costs about the same for any number of them; `written_beside` has them.
    `shares`: whether a shared context is scored as each continuation alone; `begins`: whether what questions
    begin with is computed once. None: it is tried.
    """

    _added_after = 0

    def __init__(
        self, model: Any, tokenizer: Any, shares: bool | None = None, begins: bool | None = None
    ) -> None:
        with _weights_tied_already(model):
            super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=_ONE_BATCH)
        self.on_progress: Callable[[float], None] = lambda share: None
        self.beside: list[PromptRow] = []
        self._written_beside: list[Greedy] = []
        inner = inner_model(model)
        self._added_after = added_after(tokenizer)
        self._virtual = virtual_tokens(model)
        if self._virtual:  # a learned prompt or prefix takes its room from the text
            self._max_length = self.max_length - self._virtual
        self._cuts_logits = "logits_to_keep" in inspect.signature(inner.forward).parameters
        self._vocabulary = int(inner.get_output_embeddings().weight.shape[0])
        self._on = "cuda" if str(self.device).startswith("cuda") else "cpu"
        typed = torch.is_autocast_enabled(self._on)
        self._dtype = torch.get_autocast_dtype(self._on) if typed else inner.dtype
        self.shares: bool | None = shares if attends_to_every_token(model) else False
        self.begins: bool | None = begins if remembers_exactly(model) else False
        self._inner = inner
        self._head = self._plain_head()
        self._end_at(stop_token_ids(tokenizer))

    def _end_at(self, ends: list[int]) -> None:
        """End a generated answer at any of these tokens."""
        from transformers import GenerationConfig

        self._ends = ends
        # The base's own settings (a repetition penalty, say) would make the answer other than greedy.
        self._inner.generation_config = GenerationConfig(
            eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id, do_sample=False
        )

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if isinstance(context, Encoded) and isinstance(continuation, Encoded):
            return context.ids, continuation.ids
        return super()._encode_pair(context, continuation)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text without what the tokenizer puts after it, since an answer continues it."""
        ids: list[int] = super().tok_encode(string, add_special_tokens, **kwargs)
        if not self._added_after or len(ids) == len(super().tok_encode(string, False, **kwargs)):
            return ids
        return ids[: -self._added_after]

    def tok_batch_encode(self, strings: Sequence[str], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        encoded = all(isinstance(text, Encoded) for text in strings)
        if not encoded and not self._added_after:
            return super().tok_batch_encode(list(strings), *args, **kwargs)
        room = kwargs.get("left_truncate_len") or 0
        ids = [text.ids if isinstance(text, Encoded) else self.tok_encode(text)[-room:] for text in strings]
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[ContinuationScore]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        if not all(1 <= len(continuation) <= self.max_length for _, continuation in pairs):
            raise UserError(
                f"an answer of the task has no tokens, or more than the model's {self.max_length}",
                fix="Leave such questions out of the task",
            )
        rows = arrange_rows(pairs, max_length=self.max_length, shared=self.shares is not False)
        if self.shares is None and any(len(row.continuations) > 1 for row in rows):
            self.shares = self._scores_alike(begun=False)
        if not self.shares:
            rows = arrange_rows(pairs, max_length=self.max_length, shared=False)
        positions = math.inf if self._head else BATCH_LOGIT_BYTES[self._on] / (4 * self._vocabulary)
        found: dict[int, ContinuationScore] = {}
        for group in self._groups(rows):
            for scores in self._scores_of(group, positions):
                found |= scores
                self.on_progress(len(found) / len(requests))
        return [found[number] for number in range(len(requests))]

    def _groups(self, rows: list[ScoringRow]) -> list[Group]:
        """Divide rows into groups that begin alike, where this architecture may begin them so."""
        alone = [Group((), rows)]
        groups = alone if self.begins is False else group_rows(rows)
        if self.begins is None and any(group.beginning for group in groups):
            self.begins = self._scores_alike(begun=True)
        return groups if self.begins else alone

    def _scores_of(self, group: Group, positions: float) -> Iterator[dict[int, ContinuationScore]]:
        """Yield the scores of a group's batches, after a beginning that is let go with the last."""
        begun = self._begun(group.beginning)
        for batch in batches(
            group.rows,
            tokens=BATCH_TOKENS[self._on],
            positions=positions,
            before=len(group.beginning),
            held=GENERATION_TOKENS[self._on],
        ):
            yield self._score(batch, begun)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Answer the greedy requests in common batches, whatever their settings; the sampled ones by
        settings.
        """
        settings = [normalize_gen_kwargs(request.args[1], self.max_gen_toks) for request in requests]
        greedy = [number for number, each in enumerate(settings) if is_greedy(each)]
        answers: dict[int, str] = {}
        stops = {number: self._stops(settings[number]["until"]) for number in greedy}
        rows = [self._row(requests[n].args[0], settings[n]["max_gen_toks"], stops[n]) for n in greedy]
        for number, found in zip(greedy, self._write(rows), strict=True):
            whole = getattr(requests[number].args[0], "whole", False)
            said = self.tok_decode(found.tokens, skip_special_tokens=not whole)
            answers[number] = postprocess_generated_text(said, stops[number], None)
        for numbers in self._sampled(requests, settings):
            found = super().generate_until([requests[number] for number in numbers], disable_tqdm=True)
            answers.update(zip(numbers, found, strict=True))
            self.on_progress(len(answers) / len(requests))
        return [answers[number] for number in range(len(requests))]

    def _sampled(self, requests: Any, settings: Sequence[Mapping[str, Any]]) -> Iterator[list[int]]:
        """Yield the numbers of the sampled requests, by settings in batches, the longest first."""
        groups: dict[str, list[int]] = {}
        for number in sorted(range(len(requests)), key=lambda number: -self._length(requests[number])):
            if not is_greedy(settings[number]):
                groups.setdefault(repr(settings[number]), []).append(number)
        for group in groups.values():
            done = 0
            while done < len(group):
                rows = max(1, GENERATION_TOKENS[self._on] // self._length(requests[group[done]]))
                yield group[done : done + rows]
                done += rows

    def written_beside(self) -> list[Greedy]:
        """Return the answers to `beside`, which are written now where nothing else was."""
        self._write([])
        return self._written_beside

    def _write(self, rows: Sequence[PromptRow]) -> list[Greedy]:
        """Write the answers to rows, and to those beside them, which are kept."""
        every = [*rows, *self.beside]
        self.beside = []
        answers = self.write(every)
        self._written_beside += answers[len(rows) :]
        return answers[: len(rows)]

    def write(self, rows: Sequence[PromptRow]) -> list[Greedy]:
        """Write the answers to rows, in as few batches as the memory allows."""
        return write_all(self.model, rows, GENERATION_TOKENS[self._on], self.on_progress)

    def _stops(self, until: list[str]) -> list[str]:
        """Return the words that end an answer, which leaves them out."""
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops: list[str] = handle_stop_sequences(until, eos=end)
        return stops

    def _row(self, prompt: str, new_tokens: int, stops: Sequence[str]) -> PromptRow:
        room = self.max_length - new_tokens
        if room < 1:
            raise UserError(
                f"the task asks for answers of {new_tokens} tokens, and the model takes {self.max_length}",
                fix="Lower its max_gen_toks",
            )
        ids = self.tok_batch_encode([prompt], left_truncate_len=room, truncation=self.truncation)[0][0]
        # A stop word's own tokens and two more: it may come in others than alone (as in lm-eval).
        reach = max(len(self.tokenizer.encode(stop, add_special_tokens=False)) for stop in stops) + 2

        def stopped(tokens: list[int]) -> bool:
            said = self.tok_decode(tokens[-reach:], skip_special_tokens=False)
            return any(stop in said for stop in stops)

        return PromptRow(ids.tolist(), new_tokens, self._ends, stopped, tuple(stops))

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **settings: Any) -> Any:
        if not self._virtual:
            return super()._model_generate(context, max_length, stop, **settings)
        if not settings.get("temperature"):
            settings = {**settings, "temperature": None, "do_sample": False}
        before = self._virtual + context.shape[1]
        found = generate(
            self.model,
            context,
            settings.pop("attention_mask"),
            max_length=max_length + self._virtual,
            stopping_criteria=stop_sequences_criteria(self.tokenizer, stop, before, len(context)),
            pad_token_id=self.tokenizer.pad_token_id,
            **settings,
        )
        return found[:, self._virtual :]

    def _length(self, request: Any) -> int:
        """Count the tokens of a request's prompt and of its longest answer."""
        prompt, settings = request.args[:2]
        ids = prompt.ids if isinstance(prompt, Encoded) else self.tok_encode(prompt)
        return len(ids) + int(settings.get("max_gen_toks") or self.max_gen_toks)

    def _begun(self, beginning: Sequence[int]) -> Any:
        """Return the keys and values of a beginning, None of an empty one."""
        if not beginning:
            return None
        with torch.inference_mode():
            return begin(self.model, forward_of(self.model), beginning)

    def _score(self, rows: Sequence[ScoringRow], begun: Any = None) -> dict[int, ContinuationScore]:
        before = 0 if begun is None else begun.get_seq_length()

        def forward(input_ids: Any, keep: int, **inputs: Any) -> Any:
            if begun is not None:
                inputs |= remembered(self.model, begun, rows=len(rows), more=input_ids.shape[1])
            return self._forward(input_ids, keep, **inputs)

        return score(rows, forward, device=self.device, dtype=self._dtype, head=self._head, before=before)

    def _forward(self, input_ids: Any, keep: int, **inputs: Any) -> Any:
        inputs = {"use_cache": False, **inputs}
        if self._head:
            return self._inner.base_model(input_ids=input_ids, **inputs)[0]
        kept = {"logits_to_keep": keep} if self._cuts_logits else {}
        logits = self.model(input_ids=input_ids, **kept, **inputs).logits
        return logits[:, -keep:]

    def _plain_head(self) -> Any:
        """Return the module that makes logits of the body's states, where it alone does (some models scale or
        cap them after it); else None.
        """
        head = self._inner.get_output_embeddings()
        if self._virtual or self._inner.base_model is self._inner:
            return None
        ids = torch.tensor([self.tok_encode(PROBE)], device=self.device)
        with torch.inference_mode():
            logits = self._inner(input_ids=ids, use_cache=False).logits
            apart = head(self._inner.base_model(input_ids=ids, use_cache=False)[0])
        return head if torch.equal(logits, apart.to(logits.device)) else None

    def _scores_alike(self, *, begun: bool) -> bool:
        """Say whether this architecture scores shared contexts, `begun`: after a beginning that it remembers,
        as it does each whole text in a pass of its own.

        Tried, since masks and positions are refused, ignored or replaced by some (state-space models): on a
        text that follows itself, which a continuation that sees too much or too little tells far otherwise.
        """
        ids = tuple(self.tok_encode(PROBE))[: self.max_length // 2]
        half, beginning = len(ids) // 2, ids if begun else ()
        rows = [ScoringRow(ids[:1], (ids[1:], ids[2:]), (0, 1)), ScoringRow(ids[:half], (ids[half:],), (2,))]
        alone: dict[int, ContinuationScore] = {}
        for each in (single for row in rows for single in row.alone()):
            alone |= self._score([replace(each, context=beginning + each.context)])
        try:
            together = self._score(rows, self._begun(beginning))
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        apart = sum(abs(together[n].log_likelihood - alone[n].log_likelihood) for n in alone)
        scored = sum(row.scored for row in rows)
        return apart / scored <= (1e-3 if self._dtype == torch.float32 else 0.1)


def is_greedy(settings: Mapping[str, Any]) -> bool:
    """Say whether these settings of lm-eval ask for the likeliest token each time, and for nothing
    beside it.
    """
    known = {"until", "max_gen_toks", "do_sample", "temperature"}
    return settings.keys() <= known and not settings.get("do_sample") and not settings.get("temperature")


@contextlib.contextmanager
def _weights_tied_already(model: Any) -> Iterator[None]:
    """Keep HFLM from tying the weights again: it finds no embeddings where PEFT put trained token rows around
    them.
    """
    if not hasattr(model, "get_base_model"):
        yield
        return
    model.tie_weights = lambda: None
    try:
        yield
    finally:
        del model.tie_weights
