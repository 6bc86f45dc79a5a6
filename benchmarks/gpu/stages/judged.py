"""Stage 5, judged: the evaluation program's scores and greedy answers against the CPU, and its speed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from stages.common import Case, Context, Wrong, child, last_line, read_json
from stages.trainings import METHODS, Training, short_rows, write_mixture

EVALUATION = "ft_dagster.evaluation"
LOSS = 1e-3  # largest relative difference of a loss, in fp32
ROOM = 4_000_000_000  # bytes of a GPU that an evaluation of these models has room in
ANSWERS = 0.9  # share of greedy answers that have to be the same: near ties may fall either way
Model = tuple[Path, Path | None]  # a base, and the payload of an adapter or None
QUESTIONS = {"cuda": 64, "cpu": 8}


def cases(context: Context) -> list[Case]:
    return [
        Case("tiny model against CPU", partial(against_cpu, context, "tiny")),
        Case("tiny model, tuned, against CPU", partial(against_cpu, context, "tuned")),
        Case("135M model against CPU", partial(against_cpu, context, "135m")),
        Case("135M model, questions a second", partial(quick, context)),
    ]


def model_of(context: Context, which: str) -> Model:
    context.need_memory(ROOM)
    if which == "135m":
        return context.real_model(), None
    return context.tiny, adapter(context) if which == "tuned" else None


def adapter(context: Context) -> Path:
    """Of a short training on the device."""
    mixture = write_mixture(context.scratch / "mixture", train=short_rows(48, 1), validation=short_rows(8, 2))
    training = Training(
        context.scratch / "adapter",
        context.tiny,
        mixture,
        context.device,
        METHODS["lora"],
        {"learning_rate": 1e-2},
    )
    training.run()
    return training.output / "payload"


def ask(context: Context, name: str, model: Model, device: str, dtype: str = "float32") -> Path:
    """Run the evaluation program on questions of each kind; its run folder. Raises Wrong."""
    from tests.evaluation.questions import write_run

    project, count, (base, tuned) = context.scratch / "project", QUESTIONS[context.device], model
    questions(context, project, count)
    folder = write_run(
        context.scratch / name, base, tuned=tuned, device=device, dtype=dtype, project=project,
        general=["faq.yaml"], general_holdout=project / "texts.parquet", limit=count,
        test_split_task={"test": project / "test.parquet", "max_new_tokens": 24},
    )  # fmt: skip
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    code, said = child(EVALUATION, str(folder), environment=hidden)
    if code:
        raise Wrong(f"the evaluation on {device} ended with {code}: {last_line(said)[:300]}")
    return folder


def questions(context: Context, project: Path, count: int) -> None:
    """Real questions on building law: whose answer of four, the answer itself, and plain text."""
    from tests.evaluation.questions import ROW, write_rows, write_task, write_texts

    lines = [json.loads(line) for line in context.rows.read_text("utf-8").splitlines()]
    lines = [line for line in lines if len(line["output"]) < 600][: 4 * count]
    project.mkdir(parents=True, exist_ok=True)
    write_task(project, "faq", 1)
    four = [line["output"][:120] for line in lines]
    asked = [
        {
            "question": line["instruction"],
            "choices": [four[(at + n) % len(four)] for n in range(4)],
            "gold": 0,
        }
        for at, line in enumerate(lines[:count])
    ]
    (project / "faq.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked), "utf-8")
    rows = []
    for line in lines[:count]:
        turns = [
            {"role": "user", "content": line["instruction"]},
            {"role": "assistant", "content": line["output"]},
        ]
        row = {**dict.fromkeys(ROW), "kind": "messages", "messages": json.dumps(turns), "source": "faq.jsonl"}
        rows.append({**row, "weight": 1.0})
    write_rows(project / "test.parquet", rows)
    write_texts(project / "texts.parquet", count)


def against_cpu(context: Context, which: str) -> dict[str, Any]:
    """Every score in fp32 on both; losses within LOSS, greedy answers the same but for near ties."""
    from ft_dagster.gate.samples import read_answers, read_samples

    model = model_of(context, which)
    here, cpu = (
        ask(context, f"{which}-{place}", model, device)
        for place, device in (("device", context.device), ("cpu", "cpu"))
    )
    scores = [{s[:4]: s.value for s in read_samples(run / "output" / "payload")} for run in (here, cpu)]
    if scores[0].keys() != scores[1].keys():
        raise Wrong(f"other questions: {len(scores[0])} scores against {len(scores[1])}")
    losses = [key for key in scores[0] if key[2].endswith("loss")]
    off = max(abs(scores[0][key] - scores[1][key]) / max(abs(scores[1][key]), 1e-9) for key in losses)
    exact = [scores[0][key] == scores[1][key] for key in scores[0] if key not in losses]
    texts = [[a.answered for a in read_answers(run / "output" / "evidence")] for run in (here, cpu)]
    same = sum(a == b for a, b in zip(*texts, strict=True)) / len(texts[0])
    speed = [per_second(run) for run in (here, cpu)]
    figures = {
        "loss_difference": off,
        "answers_same": same,
        "scores_same": sum(exact) / len(exact),
        "questions_per_second": speed,
    }
    figures["said"] = (
        f"losses within {off:.1e} (allowed {LOSS:.0e}), {same:.0%} of {len(texts[0])} greedy answers the"
        f" same, {figures['scores_same']:.0%} of other scores; {speed[0]:.1f} questions/s, CPU {speed[1]:.1f}"
    )
    if off > LOSS or same < ANSWERS:
        raise Wrong("scores or answers differ by more than is allowed", figures)
    return figures


def quick(context: Context) -> dict[str, Any]:
    """Questions a second in bf16, as a GPU judges."""
    dtype = "bfloat16" if context.gpu else "float32"
    run = ask(context, "135m-quick", model_of(context, "135m"), context.device, dtype)
    speed = per_second(run)
    return {"questions_per_second": speed, "said": f"{speed:.1f} questions/s in {dtype}"}


def per_second(run: Path) -> float:
    figures = read_json(run / "output" / "result.json")["figures"]
    return float(figures["questions"] / figures["seconds"])
