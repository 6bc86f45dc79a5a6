"""A launcher whose programs compute nothing: weights are bytes, and how well they answer is said beforehand.

Everything else is as in a real run: declarations, keys, artifacts, what was measured, verdicts, the log. So a
whole chain takes a second, and a test decides what passes.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_dagster.data.rows.decontaminate import ITEMS_SCHEMA
from ft_dagster.evaluation.measured_digests import hold
from ft_dagster.evaluation.refusal_prompts import read_prompts
from ft_dagster.evaluation.request import EvaluationRequest, TextsRequest
from ft_dagster.evaluation.run import referee_of
from ft_dagster.evaluation.tasks.tasks import resolve_tasks
from ft_dagster.export.certificate import EXACT
from ft_dagster.export.request import ExportRequest
from ft_dagster.export.run import hold as hold_export
from ft_dagster.gate.prompted import EXAMPLES
from ft_dagster.gate.refusals.refusals import Answered, write_answered
from ft_dagster.gate.samples import Sample, write_answers, write_samples, write_scores
from ft_dagster.gate.sampling import order_of_asking
from ft_dagster.gate.sequential_looks import batches
from ft_dagster.launch.launcher import Job, Say
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.program import ProgramResult, write_json
from ft_dagster.provenance.digest import hash_folder, payload_digest
from ft_dagster.provenance.held import FOLDER, held_files
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.training.contract import TrainingRun
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.stored_figures import stored_training

KEY = VariantKey("acme", "places")
PREFIX = KEY.prefix
SAYS = {"must_refuse": "I'm sorry", "must_answer": "Here it is"}  # what every model says, by kind of prompt
ADAPTER = {"peft_type": "LORA", "r": 4}
Figures = dict[str, Any]


def content_of(name: str) -> bytes:
    """The bytes of the weights with this name."""
    return name.encode() * 100


@dataclass
class Pretend:
    """`trains`: the name of the weights that the next training leaves. `right`: by name of weights ("base":
    the base), the share of the task's questions that they answer rightly; `general`: of benchmarks, all
    unless said. `ran`: the programs, in order. `lie`: changes what the evaluation says that it measured.
    """

    trains: str = "first"
    right: Mapping[str, float] = field(default_factory=lambda: {"base": 0.0, "first": 1.0})
    general: Mapping[str, float] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    lie: Callable[[Figures], Figures] = lambda measured: measured

    def stage_in(self, job: Job) -> None:
        job.write_request()

    def start(self, job: Job, say: Say) -> int:
        if not _with_examples(job.request):
            self.ran.append(job.program)
        programs: dict[str, Callable[[Any], Figures]] = {
            "training": self._train,
            "evaluation": self._evaluate,
            "evaluation.tasks.texts": _texts,
            "export": self._export,
        }
        output = job.result_file.parent
        for part in ("payload", "evidence"):
            (output / part).mkdir(parents=True, exist_ok=True)
        figures = programs[job.program](job.request)
        write_json(job.result_file, {"schema_version": 1, "status": "done", "figures": figures})
        return 0

    def report(self, started: int, say: Say) -> int | None:
        return started

    def cancel(self, started: int) -> None:
        pass

    def collect(self, job: Job, started: int, exit_code: int) -> ProgramResult:
        return job.read_result(exit_code)

    def _train(self, run: TrainingRun) -> Figures:
        (member,) = run.members
        (member.payload / "adapter_model.safetensors").write_bytes(content_of(self.trains))
        config = {**ADAPTER, "base_model_name_or_path": f"sha256:{run.base.digest}"}
        (member.payload / "adapter_config.json").write_text(json.dumps(config))
        (member.evidence / "log.jsonl").touch()
        return stored_training()

    def _evaluate(self, request: EvaluationRequest) -> Figures:
        with held_files(request.output / FOLDER) as held:
            _, measured = hold(request, held)
        name = self._name_of(request)
        if request.refusals is not None:
            prompts = [Answered(*each, SAYS[each.kind], 0.0) for each in read_prompts(request.refusals.path)]
            write_answered(prompts, request.output / "payload")
        share, general = self.right.get(name, 1.0), self.general.get(name, 1.0)
        samples = [] if _with_examples(request) else list(_samples(request, share, general))
        write_samples(samples, request.output / "payload")
        write_scores(samples, request.output / "payload")
        write_answers([], request.output / "evidence")
        said = self.lie(measured.to_json())
        write_json(request.output / "evidence" / "measured.json", said)
        if _with_examples(request):
            write_json(request.output / "evidence" / EXAMPLES, {"rows": 0, "asked": 0, "left_out": {}})
        difference = {} if request.model.tuned is None else {"tuned_logit_difference": 1.0}
        return {
            "questions": len(samples),
            "seconds": 0.0,
            "load_seconds": 0.0,
            "measured": said,
            **difference,
        }

    def _name_of(self, request: EvaluationRequest) -> str:
        if request.model.tuned is None:
            return "base"
        content = (request.model.tuned.folder / "adapter_model.safetensors").read_bytes()
        return next((name for name in self.right if content_of(name) == content), "trained by another")

    def _export(self, request: ExportRequest) -> Figures:
        with held_files(request.output / FOLDER) as held:
            _, measured = hold_export(request, held)
        for file in request.weights.iterdir():
            shutil.copyfile(file, request.payload / file.name)
        payload = payload_digest(hash_folder(request.payload))
        figures = {"mean_kl": 0.0}
        certificate = Certificate(payload, request.weights_digest, request.format, figures, EXACT, ())
        write_json(request.evidence / "certificate.json", certificate.to_json())
        (request.evidence / "README.md").write_text(
            "a card\n| version | the one that the release log gives to this payload |\n"
        )
        return {"format": request.format, "certified": True, "certificate": {}, "measured": measured}


def _with_examples(request: Any) -> bool:
    """Whether the base is asked with examples in its prompt, which is in no list of what `ran`."""
    split = request.test_split_task if isinstance(request, EvaluationRequest) else None
    return split is not None and split.examples is not None


def _texts(request: TextsRequest) -> Figures:
    """One question a task, which says what the task is."""
    items = [{"task": name, "questions": [digest], "answers": []} for name, digest in request.tasks.items()]
    table = pa.Table.from_pylist(items, schema=ITEMS_SCHEMA)
    pq.write_table(table, request.output / "payload" / "texts.parquet")
    return {"questions": len(items), "by_task": dict.fromkeys(request.tasks, 1)}


def _samples(request: EvaluationRequest, share: float, general: float) -> list[Sample]:
    """Right or wrong answers: the own task by `share`, in two metrics, benchmarks by `general`."""
    tasks = resolve_tasks(request.general, request.project)
    asked: list[tuple[Any, str, float]] = [("general", task.name, general) for task in tasks]
    if request.test_split_task is not None:
        asked.append(("test_split_task", "test_split_task", share))
    count, found, referee = request.most or 400, [], referee_of(request)
    for role, task, right in asked:
        drawn, samples = random.Random(f"{task}{request.seed}").sample(range(10 * count), count), {}
        for number in drawn:
            name = hashlib.sha256(f"{task}{number}".encode()).hexdigest()[:16]
            value, question = float(int(name, 16) / 16**16 < right), f"{task}:{number}:{name}"
            samples[question] = Sample(role, task, "acc", question, value, 1.0, True)
        order = list(samples)
        if referee is not None:  # batch after batch, as far as the program asks
            order = order_of_asking(order, request.seed)
            ends = (
                n for n in batches(count) if referee.decided((role, task), [samples[q] for q in order[:n]])
            )
            order = order[: next(ends, count)]
        found += [samples[question] for question in order]
        if role == "test_split_task":
            found += [samples[question]._replace(metric="exact_match") for question in order]
    return found


def desk(project: Path, pretend: Pretend, key: VariantKey = KEY) -> Workspace:
    """The variant's desk, whose programs are pretended."""
    return Workspace(load_settings(project), key, RunOf("test", "test", lambda line: None), launcher=pretend)
