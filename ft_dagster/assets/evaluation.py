"""Group evaluation: base and tuned model on the same questions, and the gate."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.assets.bench import SHARED, Bench, check, digest_of, stage_asset
from ft_dagster.assets.data import locate
from ft_dagster.evaluation.arithmetic import judging_dtype
from ft_dagster.evaluation.answer_scores import find_database
from ft_dagster.evaluation.gates import check_metrics, gates_digest, judge
from ft_dagster.evaluation.samples import (
    LABELS,
    read_aggregates,
    read_answers,
    read_samples,
    write_samples,
    write_scores,
)
from ft_dagster.evaluation.skills import skills
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.report.plots import as_markdown_image, score_bars
from ft_dagster.report.skills import forgotten, signs, skill_table
from ft_dagster.report.tables import markdown_table
from ft_dagster.store import Artifact, Attempt

GROUP = "evaluation"
QUESTIONS = ("evaluation.limit", "evaluation.seed", "evaluation.num_fewshot")
TEST_SPLIT_TASK = (
    "evaluation.max_new_tokens", "evaluation.kind", "data.train_on", "evaluation.probed_rows",
    "evaluation.canaries",
)  # fmt: skip


@stage_asset(group=GROUP, kinds={"huggingface"}, deps=["training_mixture"])
def base_evaluation(bench: Bench) -> dg.MaterializeResult[Any]:
    """The base model's scores, against which the tuned model is judged question by question.

    General scores are shared by all variants of the base; the score on a tenant's own task stays theirs.
    """
    base, task = bench.upstream("base_model"), _task_run(bench)
    general = _general_scores(bench)

    def build(attempt: Attempt) -> dict[str, Any]:
        figures = bench.produce("evaluation", attempt, lambda output: _run(bench, base, None, task, output))
        samples = read_samples(bench.payload(general)) + read_samples(attempt.payload)
        write_samples(samples, attempt.payload)
        write_scores(samples, attempt.payload, read_aggregates(attempt.payload))
        return {**figures, "scores": _scores_in(attempt.payload)}

    artifact = bench.make(
        "base_evaluation", build, inputs={**_task_inputs(bench), "general_scores": general.digest},
        spec={**_asked_in(bench, *TEST_SPLIT_TASK), "tasks": bench.frozen["tasks"]["task"]},
    )  # fmt: skip
    check_metrics(read_samples(bench.payload(artifact)), bench.spec.gates, bench.declared_in)
    scores = dg.MetadataValue.md(_score_table(artifact.figures["scores"]))
    return bench.report(artifact, {"scores": scores, **_label_table(bench, artifact)})


@stage_asset(
    group=GROUP,
    kinds={"huggingface"},
    deps=["fine_tuned_model", "base_evaluation"],
    checks={
        "gate": "The task got better, and a fall of general ability beyond the margins is ruled out",
        "weights_act": "The training changed the base's logits",
    },
)
def evaluation(bench: Bench) -> dg.MaterializeResult[Any]:
    """The tuned model on the same questions as its base, and the verdict of the gate."""
    base, tuned, before = (bench.upstream(s) for s in ("base_model", "fine_tuned_model", "base_evaluation"))
    run = {**_task_run(bench), **_general_run(bench)}

    def build(attempt: Attempt) -> dict[str, Any]:
        weights = bench.payload(tuned)
        figures = bench.produce("evaluation", attempt, lambda output: _run(bench, base, weights, run, output))
        verdict = verdict_on(bench, before, attempt.payload)
        text = json.dumps(verdict.to_json(), indent=1, sort_keys=True)
        (attempt.payload / "verdict.json").write_text(text, "utf-8")
        return {**figures, "scores": _scores_in(attempt.payload), "verdict": verdict.to_json()}

    artifact = bench.make(
        "evaluation", build,
        inputs={
            "fine_tuned_model": tuned.digest, "base_evaluation": before.digest, "base_model": base.digest,
            "gates": gates_digest(bench.spec.gates), **_database_input(bench),
        },
        spec={**_asked_in(bench, *TEST_SPLIT_TASK, "objective"), "tasks": bench.frozen["tasks"]},
    )  # fmt: skip
    verdict = Verdict.from_json(artifact.figures["verdict"])
    rules = verdict.rules
    difference = artifact.figures["tuned_logit_difference"]
    return bench.report(
        artifact,
        {
            "outcome": verdict.outcome,
            "judgement": dg.MetadataValue.md("\n".join(f"- {_judged(rule)}" for rule in rules)),
            "scores": dg.MetadataValue.md(as_markdown_image(score_bars(rules))),
            **_skills(bench, before, artifact),
            "every_score": dg.MetadataValue.md(_both_scores(before, artifact)),
            **_label_table(bench, artifact),
            **{f"{rule.task} {rule.metric}": rule.tuned for rule in rules},
        },
        [
            check("gate", verdict.passed, _gate_sentence(verdict)),
            check("weights_act", difference > 0, f"largest logit difference {difference:.3g}"),
        ],
    )


def evaluate_weights(
    bench: Bench, base: Artifact, weights: Path, attempt: Attempt, into: Path
) -> dict[str, Any]:
    """Ask weights that are no artifact yet what `evaluation` asks; samples below `into`, figures returned."""
    asked = {**_task_run(bench), **_general_run(bench)}
    return bench.produce(
        "evaluation", attempt, lambda output: _run(bench, base, weights, asked, output), into=into
    )


def verdict_on(bench: Bench, before: Artifact, payload: Path) -> Verdict:
    """Judge a tuned model's stored samples against its base's by the declared gates."""
    base, tuned = read_samples(bench.payload(before)), read_samples(payload)
    spec = bench.spec
    return judge(base, tuned, spec.gates, objective=spec.objective, declared_in=bench.declared_in)


def _general_scores(bench: Bench) -> Artifact:
    base = bench.upstream("base_model")
    run = _general_run(bench)
    inputs = {"base_model": base.digest, **_heldout_input(bench)}

    def build(attempt: Attempt) -> dict[str, Any]:
        figures = bench.produce("evaluation", attempt, lambda output: _run(bench, base, None, run, output))
        return {**figures, "scores": _scores_in(attempt.payload)}

    return bench.make(
        "base_evaluation",
        build,
        inputs=inputs, spec={**_asked_in(bench), "tasks": bench.frozen["tasks"]["general"]},
        prefix=SHARED if base.place.prefix == SHARED else None,  # a tenant's own base is nobody else's
    )  # fmt: skip


def _asked_in(bench: Bench, *fields: str) -> dict[str, Any]:
    """Of the declaration, and in what arithmetic: base and tuned model are compared in one alone."""
    return {**bench.spec.slice(*QUESTIONS, *fields), "dtype": judging_dtype(bench.device)}


def _run(
    bench: Bench, base: Artifact, tuned: Path | None, asked: dict[str, Any], output: Path
) -> dict[str, Any]:
    spec = bench.spec.evaluation
    return {
        "schema_version": 1,
        "model": {"base": str(locate(bench, base)), "tuned": None if tuned is None else str(tuned)},
        "device": bench.device,
        "dtype": judging_dtype(bench.device),
        "general": [],
        "task": [],
        "test_split_task": None,
        "general_holdout": None,
        "limit": spec.limit,
        "seed": spec.seed,
        "num_fewshot": spec.num_fewshot,
        "project": str(bench.project),
        "declared_in": str(bench.declared_in),
        **asked,
        "output": str(output),
    }


def _task_run(bench: Bench) -> dict[str, Any]:
    """What is asked of the variant's own task: the declared tasks, else its test split."""
    spec = bench.spec
    probed = {"regurgitation": _probed(bench)}
    if spec.evaluation.task:
        return {"task": list(spec.evaluation.task), **probed}
    database = _database(bench)
    test = bench.payload(bench.upstream("task_dataset")) / "test.parquet"
    own = {
        "test": str(test),
        "max_new_tokens": spec.evaluation.max_new_tokens,
        "kind": spec.evaluation.kind,
        "database": None if database is None else str(database),
        "train_on": spec.data.train_on,
    }
    return {"test_split_task": own, **probed}


def _probed(bench: Bench) -> dict[str, Any] | None:
    """What is probed for regurgitation: a few training rows unless declared otherwise, and the canaries."""
    asked = bench.spec.evaluation
    if not asked.probed_rows and not asked.canaries:
        return None
    train = bench.payload(bench.upstream("task_dataset")) / "train.parquet"
    return {"train": str(train), "rows": asked.probed_rows, "canaries": list(asked.canaries)}


def _general_run(bench: Bench) -> dict[str, Any]:
    holdout = _heldout_file(bench)
    return {
        "general": list(bench.spec.evaluation.general),
        "general_holdout": None if holdout is None else str(holdout),
        "general_prompts": True,
    }


def _task_inputs(bench: Bench) -> dict[str, str]:
    rows = bench.payload(bench.upstream("task_dataset"))
    probed = {} if _probed(bench) is None else {"train": sha256_file(rows / "train.parquet")}
    if bench.spec.evaluation.task:
        return probed
    return {**probed, "test": sha256_file(rows / "test.parquet"), **_database_input(bench)}


def _database(bench: Bench) -> Path | None:
    """The SQLite file that queries of the own task run on. Raises UserError, before anything is computed."""
    declared = bench.spec.evaluation
    if declared.task or declared.database is None:
        return None
    return find_database(declared.database, bench.project, bench.declared_in)


def _database_input(bench: Bench) -> dict[str, str]:
    file = _database(bench)
    return {} if file is None else {"database": sha256_file(file)}


def _heldout_file(bench: Bench) -> Path | None:
    file = bench.payload(bench.upstream("training_mixture")) / "general_holdout" / "texts.parquet"
    return file if file.exists() else None


def _heldout_input(bench: Bench) -> dict[str, str]:
    file = _heldout_file(bench)
    return {} if file is None else {"general_holdout": digest_of(sha256_file(file))}


def _scores_in(payload: Path) -> list[dict[str, Any]]:
    scores: list[dict[str, Any]] = json.loads((payload / "scores.json").read_text("utf-8"))["scores"]
    return scores


def _score_table(scores: list[dict[str, Any]]) -> str:
    rows = [[s["role"], s["task"], s["metric"], s["value"], s["questions"]] for s in scores]
    return markdown_table(["role", "task", "metric", "base", "questions"], rows)


def _both_scores(before: Artifact, after: Artifact) -> str:
    """Every score of the tuned model beside the base's, those that no gate judges too."""
    base = {(s["role"], s["task"], s["metric"]): s["value"] for s in before.figures["scores"]}
    rows = [
        [s["role"], s["task"], s["metric"], base.get((s["role"], s["task"], s["metric"])), s["value"]]
        for s in after.figures["scores"]
    ]
    return markdown_table(["role", "task", "metric", "base", "tuned"], rows)


def _label_table(bench: Bench, artifact: Artifact) -> dict[str, dg.MetadataValue[Any]]:
    """F1 of each label, where the answers are labels and a tenant's words may be shown."""
    file = bench.folder(artifact) / "evidence" / LABELS
    if bench.spec.data.samples != "metadata" or not file.is_file():
        return {}
    labels = json.loads(file.read_text("utf-8"))["labels"]
    rows = [[s["label"], s["questions"], s["precision"], s["recall"], s["f1"]] for s in labels]
    headers = ["label", "questions", "precision", "recall", "F1"]
    return {"labels": dg.MetadataValue.md(markdown_table(headers, rows))}


def _skills(bench: Bench, before: Artifact, after: Artifact) -> dict[str, dg.MetadataValue[Any]]:
    """What was forgotten and what was learned, how its answers degenerate, and what it repeats of its data."""
    base, tuned = (read_samples(bench.payload(each)) for each in (before, after))
    found = skills(base, tuned)
    answers = read_answers(bench.folder(after) / "evidence")
    shown = {
        "skills": skill_table(found),
        "forgotten": forgotten(found, answers, own_rows=bench.spec.data.samples == "metadata"),
        "degeneration": signs(base, tuned, {"general_prompts": "greedy answers"}),
        "regurgitation": signs(base, tuned, {"regurgitation": "repeated word for word"}),
    }
    return {name: dg.MetadataValue.md(text) for name, text in shown.items()}


def _judged(rule: Rule) -> str:
    return f"**{rule.outcome}**: {rule.sentence}"


def _gate_sentence(verdict: Verdict) -> str:
    return "; ".join(rule.sentence for rule in verdict.broken) or "every rule of the gate holds"
