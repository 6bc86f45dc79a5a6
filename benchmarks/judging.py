"""What does a judgement cost, part by part, and what does lm-eval's own model take for the same questions?

    .venv/bin/python benchmarks/judging.py                                   # of the demo, after `make demo`
    .venv/bin/python benchmarks/judging.py --variant zaragoza.building-faq --limit 10

The tuned model of a variant that has run answers what `evaluation` asks, on one core, and each part then goes
to lm-eval's HFLM with batches of 16 on the same loaded model, in turn in one process. CPU seconds of one
thread; products with weights (2 x weights x tokens forwarded, padding included) over those seconds, and over
what the same core does in a bfloat16 product of 2,048 x 2,048, timed before and after each part. A table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import DEMO

PEER_ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", type=Path, default=DEMO)
    parser.add_argument("--variant", default="meditech.icd-coder")
    parser.add_argument("--limit", type=int, help="questions of each benchmark and of the test split")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        request = request_of(given.project, given.variant, Path(folder))
        if given.limit is not None:
            request = request.model_copy(update={"limit": given.limit})
        measure(request)


def request_of(project: Path, variant: str, output: Path) -> Any:
    """What the program `evaluation` is asked for this variant's newest weights."""
    from ft_dagster.settings import load_settings
    from ft_dagster.spec import VariantKey
    from ft_dagster.stages import evaluation
    from ft_dagster.workspace import questions
    from ft_dagster.workspace.input_view import View
    from ft_dagster.workspace.model_files import base_of, weights_of
    from ft_dagster.workspace.workspace import Workspace

    workspace = Workspace(load_settings(project), VariantKey(*variant.split(".")))
    view = View(workspace, evaluation.STAGE)
    base = base_of(workspace.upstream("base_model"), view)
    weights = weights_of(workspace.upstream("fine_tuned_model"), view)
    task, general = questions.own_task(view, None), questions.general(view, None)
    question = questions.ModelQuestions(base, weights, "cpu", view.dtype, view.engine, task, general)
    return question.request(view, output)


def measure(request: Any) -> None:
    from ft_dagster.evaluation.tasks.load import prepare_environment
    from ft_dagster.evaluation.tasks.tasks import resolve_tasks

    entries = {
        role: resolve_tasks(getattr(request, role), request.project, field=role, roots=request.roots)
        for role in ("task", "general")
    }
    prepare_environment([entry for tasks in entries.values() for entry in tasks])
    import torch
    from lm_eval.models.huggingface import HFLM

    from ft_dagster.evaluation import run
    from ft_dagster.evaluation.degeneration import answer_general_prompts
    from ft_dagster.evaluation.models.model import TokenBatchedLM, load_judged

    torch.set_num_threads(1)
    base, tuned = request.model.base.folder, request.model.tuned.folder
    began = time.process_time()
    model, tokenizer, _ = load_judged(base, tuned, device="cpu", dtype=request.dtype)
    loaded = time.process_time() - began
    ours, theirs = TokenBatchedLM(model, tokenizer), HFLM(model, tokenizer=tokenizer, batch_size=PEER_ROWS)
    own = run._own(request, ours)
    parts: list[tuple[str, Callable[[Any], Any]]] = [
        (
            questions.task,
            lambda lm, asked=questions: list(run._ask(lm, [asked], asked.chosen or {}, progress)),
        )
        for questions in [*own, *run._probes(request, ours), *run._declared(entries, request)]
    ]
    progress: Any = SimpleNamespace(advance=lambda share: None)
    print(f"{model.device}, {request.dtype}, loading {loaded:.1f} s\n")
    print("| part | CPU s | tokens | GFLOP/s | of a product | lm-eval, CPU s | ratio |")
    print("|---|---|---|---|---|---|---|")
    total = [0.0, 0.0]
    for name, ask in [*parts, ("general_prompts", lambda lm: prompts(lm, answer_general_prompts))]:
        seconds, tokens, flops, product = counted(model, lambda ask=ask: ask(ours))
        peer, *_ = counted(model, lambda ask=ask: ask(theirs))
        rate = flops / seconds
        total = [total[0] + seconds, total[1] + peer]
        print(
            f"| {name} | {seconds:.1f} | {tokens:,} | {rate / 1e9:.0f} | {rate / product:.0%} | {peer:.1f} |"
            f" {peer / seconds:.2f} |",
            flush=True,
        )
    print(f"| all | {total[0]:.1f} | | | | {total[1]:.1f} | {total[1] / total[0]:.2f} |")


def prompts(lm: Any, answer: Callable[[Any, Any], Any]) -> None:
    """The general prompts, of lm-eval's model as requests like any others."""
    from lm_eval.api.instance import Instance

    from ft_dagster.evaluation.degeneration import NEW_TOKENS, _asked
    from ft_dagster.evaluation.models.model import TokenBatchedLM
    from ft_dagster.gate.prompts import PROMPTS

    if isinstance(lm, TokenBatchedLM):
        answer(lm.model, lm.tokenizer)
        return
    settings = {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    questions = [(_asked(prompt, lm.tokenizer), settings) for prompt in PROMPTS]
    lm.generate_until(
        [Instance("generate_until", {}, each, n) for n, each in enumerate(questions)], disable_tqdm=True
    )


def counted(model: Any, work: Callable[[], Any]) -> tuple[float, int, float, float]:
    """(CPU seconds, tokens forwarded, products with weights in FLOP, FLOP/s of a product) of `work`."""
    from ft_dagster.evaluation.models.load import inner_model

    inner = inner_model(model)
    head = inner.get_output_embeddings()
    weights = sum(p.numel() for n, p in inner.named_parameters() if "embed" not in n and p is not head.weight)
    seen = {"tokens": 0, "positions": 0}

    def body(_: Any, given: Any, named: dict[str, Any], __: Any) -> None:
        ids = named.get("input_ids")
        ids = named["inputs_embeds"] if ids is None else ids
        seen["tokens"] += ids.shape[0] * ids.shape[1]

    def last(_: Any, given: Any, logits: Any) -> None:
        seen["positions"] += logits.numel() // logits.shape[-1]

    hooks = [inner.base_model.register_forward_hook(body, with_kwargs=True), head.register_forward_hook(last)]
    before, began = product(), time.process_time()
    work()
    seconds = time.process_time() - began
    for hook in hooks:
        hook.remove()
    flops = 2.0 * (weights * seen["tokens"] + head.weight.numel() * seen["positions"])
    return seconds, seen["tokens"], flops, (before + product()) / 2


def product() -> float:
    """FLOP/s of one bfloat16 product of 2,048 x 2,048."""
    import torch

    size = 2048
    a = torch.randn(size, size).bfloat16()
    began = time.process_time()
    for _ in range(3):
        a @ a
    return 3 * 2.0 * size**3 / (time.process_time() - began)


if __name__ == "__main__":
    main()
