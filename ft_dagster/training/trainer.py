"""Train the member of a run: build the model, train from the newest good checkpoint, export the best."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.training import checkpoints, ranks, zero
from ft_dagster.training.arguments import training_arguments
from ft_dagster.training.batches.mixture import open_split, read_records
from ft_dagster.training.batches.packing import (
    evaluation_steps,
    fewer_evaluations,
    first_pass_steps,
    schedule,
    total_steps,
)
from ft_dagster.training.batches.sharing import refuse_sharing
from ft_dagster.training.contract import Member, Status, TrainingResult, TrainingRun, recipe_digest
from ft_dagster.training.figures import computed_on, process_bytes, training_figures
from ft_dagster.training.journal import Journal, StepLog, write_ledger
from ft_dagster.training.methods import laid_out, taught_by
from ft_dagster.training.methods.experts import refuse_unmoved
from ft_dagster.training.oom_retry import in_force
from ft_dagster.training.progress import Channel, TrainingProgress
from ft_dagster.training.retrain.resume_points import put_by, resume_steps
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.watch.falls import EVALUATIONS
from ft_dagster.training.watch.measuring import UNITS, Measuring, plan_measuring
from ft_dagster.training.watch.observer import Observer
from ft_dagster.training.watch.rate import RateTooHigh, looked_at
from ft_dagster.training.work import Work

if TYPE_CHECKING:
    from ft_dagster.training.methods import Weights


def train_member(run: TrainingRun, member: Member, channel: Channel, stop: Stop) -> TrainingResult:
    """Train, export and report the member; its result is written. Raises UserError, Stopped."""
    try:
        return _trained(run, member, channel, stop)
    except RateTooHigh as high:
        if member.plan.training.on_bad_rate != "lower" or high.value != member.plan.training.learning_rate:
            raise
        channel.say(f"{member.variant}: {high.problem}; begins again at a third of it")
    gc.collect()  # a trainer is full of cycles, and the next needs its memory
    if ranks.is_first():
        checkpoints.discard_all(member.checkpoints, recipe_digest(run, member))
    ranks.wait()
    return _trained(run, member, channel, stop, lowered=True)


def _trained(
    run: TrainingRun, member: Member, channel: Channel, stop: Stop, *, lowered: bool = False
) -> TrainingResult:
    """Train the member. `lowered`: begins at a lower rate than planned; what goes on from a checkpoint has
    the rate of that.
    """
    recipe, asked = recipe_digest(run, member), member
    member = in_force(member)
    member.checkpoints.mkdir(parents=True, exist_ok=True)
    work = prepare(run, member, recipe, channel)
    work.journal.lowered = lowered
    arguments = training_arguments(work)  # joins the ranks; DeepSpeed is known before a load
    resume = ranks.agree(lambda: _newest(work))
    if resume:
        work.journal = Journal.load(resume.folder)
        work.journal.resumed_from.append(resume.step)
        work.progress.say(f"resuming at step {resume.step}/{work.steps}")
    arguments.learning_rate = work.learning_rate
    if member.micro_batch_halved:
        settings = member.plan.training
        work.progress.say(
            f"memory ran out before: micro-batches of {settings.per_device_train_batch_size},"
            f" {settings.gradient_accumulation_steps} a step"
        )
    trainer, observer = build_trainer(run, work, stop, arguments)
    if resume and work.looked_otherwise:
        work.progress.warn("other steps are measured than before the checkpoint: begins from the start")
        if ranks.is_first():
            checkpoints.discard_all(member.checkpoints, recipe)
        ranks.wait()
        return _trained(run, asked, channel, stop, lowered=lowered)
    if resume and observer.stopped:  # it was killed after its last step, before its export
        trainer.args.max_steps = resume.step
    interrupted = TrainingResult(variant=member.variant, status="preempted", recipe=recipe)
    with stop.saving(lambda: ranks.report(member, interrupted)):
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    if observer.gave_up:
        result = _reported(work, trainer, observer, work.journal.steps, status="stopped")
    else:
        best = ranks.agree(lambda: _choose(work, observer))
        result = _exported(run, work, trainer, observer, best)
    ranks.report(member, result)
    ranks.wait()
    return result


def _exported(
    run: TrainingRun, work: Work, trainer: Any, observer: Observer, best: checkpoints.Checkpoint
) -> TrainingResult:
    """Write the payload of the best checkpoint, and the ledger of what it consumed."""
    member = work.member
    trainer.load_weights(best.folder)
    refuse_unmoved(trainer.model, member.plan.method)
    weights = None
    if trainer.is_deepspeed_enabled and ranks.is_first():
        weights = zero.whole_weights(best.folder, trained_only=hasattr(trainer.model, "peft_config"))
    observer.observe_exported(best.step)
    result = _reported(work, trainer, observer, best.step, weights=weights)
    if ranks.is_first():
        _export(run, work, trainer, weights)
        put_by(member.checkpoints, work.kept_steps, work.recipe, member.evidence)
        exported, records = Journal.load(best.folder), read_records(member.mixture)
        write_ledger(member.evidence / "ledger.json", work.journal, exported, records, member.mixture_digest)
    return result


def _reported(
    work: Work,
    trainer: Any,
    observer: Observer,
    step: int,
    *,
    status: Status = "done",
    weights: Weights | None = None,
) -> TrainingResult:
    """Report the figures of the training, and of its model at `step`: the trainer or `weights` holds it."""
    kept = checkpoints.complete(work.member.checkpoints)
    figures = training_figures(
        trainer.model,
        work.journal,
        step,
        time.monotonic() - work.began,
        observer=observer,
        kept=kept,
        weights=weights,
        imported=work.imported,
    )
    figures = replace(
        figures,
        micro_batch_halved=work.member.micro_batch_halved,
        learning_rate_lowered=work.learning_rate if work.journal.lowered else None,
    )
    return TrainingResult(
        variant=work.member.variant,
        status=status,
        recipe=work.recipe,
        figures=figures.to_json(),
        checkpoints=[checkpoint.as_dict() for checkpoint in kept],
    )


def prepare(run: TrainingRun, member: Member, recipe: str, channel: Channel) -> Work:
    """Read the mixture and lay out every bin of the training. Raises UserError."""
    settings = member.plan.training
    method = taught_by(member.plan.method)
    zero.refuse_whole_base(member, quantized=method.quantization is not None)
    if not member.mixture.is_dir():
        raise UserError(
            "no such folder", file=member.mixture, field="mixture", fix="Stage the mixture in first"
        )
    train = open_split(member.mixture, "train", member.output)
    if train is None or not train.trained_tokens:
        raise UserError(
            "has no trained tokens", file=member.mixture / "train", fix="Materialize training_mixture again"
        )
    longest = int(train.lengths.max())
    if longest > settings.max_length:
        raise UserError(
            f"is below the longest example of the mixture, {longest} tokens",
            field="training.max_length",
            value=settings.max_length,
            fix="Materialize training_mixture and training_plan again",
        )
    held_out = {
        split: examples
        for split in UNITS
        if (examples := open_split(member.mixture, split, member.output)) and examples.trained_tokens
    }
    _check_beginnings(run, member, longest)
    train, capacity = laid_out(member.plan, train)
    layout = (train.lengths, train.shards, settings, capacity, member.seed, ranks.world(), train.beginnings)
    bins = schedule(*layout)
    steps = total_steps(len(bins), settings, ranks.world())
    zero.refuse_unlabelled(member, bins, train.trained, ranks.world())
    file = member.output / "progress.json" if ranks.is_first() else None
    progress = TrainingProgress(channel, file, member.variant, steps)
    if "validation" not in held_out:
        progress.say("no validation split: the last checkpoint is exported, not the best")
    planned = evaluation_steps(steps, settings.evaluations or EVALUATIONS)
    numbers = {step: number for number, step in enumerate(planned, start=1)}
    journal, patience = Journal([0] * len(train)), ranks.patience(run.base.folder, member.plan.method.name)
    states = 0 if settings.deepspeed.stage else member.resume_points
    if states < member.resume_points:
        progress.say("no resume point is kept: a state of ZeRO is pickles, not loaded out of a store")
    resume_at = resume_steps(first_pass_steps(*layout), states) if states else []
    return Work(
        member, method, recipe, train, held_out, bins, journal, progress, numbers, patience, resume_at
    )


def _newest(work: Work) -> checkpoints.Checkpoint | None:
    folder, newest = work.member.checkpoints, checkpoints.newest_first
    return next(checkpoints.usable(folder, work.recipe, work.progress.warn, first=newest), None)


def build_trainer(run: TrainingRun, work: Work, stop: Stop, arguments: Any) -> tuple[Any, Observer]:
    """Return the TokenTrainer of this work, with the model built, and who watches it at each evaluation."""
    from datasets import Dataset
    from transformers import PrinterCallback

    from ft_dagster.training import data_parallel
    from ft_dagster.training.batches.batches import Collator
    from ft_dagster.training.callbacks import ApartCallback, WatchCallback
    from ft_dagster.training.methods.base import load_tokenizer
    from ft_dagster.training.sft import TokenTrainer

    settings = work.member.plan.training
    tokenizer = load_tokenizer(run.base.folder)
    work.imported = process_bytes()
    model = work.method.build(run.base, settings.precision, work.member.seed)
    _check_vocabulary(work, model)
    _check_positions(work, model)
    arguments.ddp_find_unused_parameters = data_parallel.may_be_unused(model)
    trainer = TokenTrainer(
        model,
        args=arguments,
        data_collator=Collator(work.train, tokenizer.pad_token_id, settings.max_length),
        train_dataset=Dataset.from_dict({"bin": work.bins}),
        processing_class=tokenizer,
        diverged=lambda quantity, value, ordinals: _diverged(work, quantity, value, ordinals),
        saved=lambda folder: _saved(work, folder, computed_on(trainer.model)),
        stopping=lambda: stop.requested,
        timer=checkpoints.CheckpointTimer(work.member.checkpoint_minutes),
        own_loss=work.member.plan.own_loss,
    )

    measuring = _measuring(run, work, tokenizer)
    log = StepLog(work.member.evidence / "log.jsonl" if ranks.is_first() else None, work.journal.steps)
    observer = Observer(
        run,
        work.member,
        trainer,
        journal=work.journal,
        log=log,
        progress=work.progress,
        evaluations=work.evaluations,
        measuring=measuring,
    )
    watch = WatchCallback(
        trainer,
        journal=work.journal,
        log=log,
        progress=work.progress,
        stop=stop,
        evaluation_steps=work.evaluated_at,
        resume_steps=work.resume_steps,
        observer=observer,
    )
    trainer.remove_callback(PrinterCallback)
    if work.packs:
        trainer.add_callback(
            ApartCallback(trainer, exact=settings.precision == "fp32" and not work.method.quantization)
        )
    trainer.add_callback(watch)
    return trainer, observer


def _measuring(run: TrainingRun, work: Work, tokenizer: Any) -> Measuring:
    """Plan what is measured at each look, and say it; `work` keeps the evaluations that it pays for. Raises
    UserError.
    """
    declared = work.member.plan.training.evaluations is not None
    choices = [work.evaluated_at] if declared else list(fewer_evaluations(work.evaluated_at))
    measuring = plan_measuring(
        run,
        work.member,
        tokenizer,
        train=(work.train, work.bins),
        held_out=work.held_out,
        evaluations=[len(steps) for steps in choices],
    )
    kept = next(steps for steps in choices if len(steps) == measuring.allotment.evaluations)
    work.evaluations = {step: number for step, number in work.evaluations.items() if step in kept}
    work.progress.say(measuring.sentence())
    if (above := measuring.warning()) is not None:
        work.progress.warn(above)
    return measuring


def _check_beginnings(run: TrainingRun, member: Member, longest: int) -> None:
    """Refuse a plan that would compute beginnings once where that does not hold."""
    from transformers import AutoConfig

    plan = member.plan
    if plan.training.share_beginnings != "off":
        config = AutoConfig.from_pretrained(run.base.folder, trust_remote_code=False)
        refuse_sharing(plan.training, plan.method, config, plan.device.kind, longest)


def _check_vocabulary(work: Work, model: Any) -> None:
    weight = model.get_input_embeddings().weight
    rows = getattr(weight, "ds_shape", weight.shape)[0]  # of a shard, that of the whole
    largest = int(work.train.tokens.max())
    if largest >= rows:
        raise UserError(
            f"holds a token id beyond the {rows} of the base model: it was made with another tokenizer",
            file=work.member.mixture,
            value=largest,
            fix="Materialize training_mixture again",
        )


def _check_positions(work: Work, model: Any) -> None:
    """Refuse lengths beyond a model's learned positions (GPT-2 has such); rotary ones go on."""
    from torch.nn import Embedding

    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    plan = work.member.plan
    prompt = getattr(plan.method, "num_virtual_tokens", 0)
    longest = int(max(examples.lengths.max() for examples in (work.train, *work.held_out.values()))) + prompt
    if most is None or longest <= most:
        return
    offset = 2  # positions that OPT and BART keep for padding
    sizes = [part.num_embeddings for part in model.modules() if isinstance(part, Embedding)]
    if any(most <= size <= most + offset for size in sizes):
        raise UserError(
            f"the base model has learned {most} positions, and the longest example takes {longest}",
            field="training.max_length",
            value=plan.training.max_length,
            fix=f"Say at most {most - prompt}",
        )


def _diverged(work: Work, quantity: str, value: float, ordinals: list[int]) -> None:
    records = read_records(work.member.mixture)
    named = ", ".join(records[ordinal] for ordinal in ordinals[:3])
    kept = checkpoints.complete(work.member.checkpoints)
    last = f"checkpoint-{kept[-1].step} is the last good one" if kept else "no checkpoint was written yet"
    at = looked_at(work.steps, work.member.plan.training.warmup_ratio)
    too_high = at is not None and 0 < work.journal.steps < at  # before any update it is not the rate
    kind = RateTooHigh if too_high else UserError
    raise kind(
        f"the {quantity} became {value} at step {work.journal.steps + 1}, in the batch with examples"
        f" {ordinals[:8]} (records {named}); {last}",
        file=work.member.mixture,
        field="training.learning_rate",
        value=work.learning_rate,
        fix="Look at these rows, or lower the learning rate",
    )


def _saved(work: Work, folder: Path, on: str) -> None:
    settings, step = work.member.plan.training, work.journal.steps
    work.journal.save(folder)
    checkpoints.commit(folder, step, work.recipe, work.journal.loss_at("validation", step), on)
    checkpoints.prune(
        work.member.checkpoints,
        work.recipe,
        settings.keep_best,
        settings.keep_last,
        exportable=work.exportable,
        always=work.kept_steps,
    )


def _choose(work: Work, observer: Observer) -> checkpoints.Checkpoint:
    """Choose the checkpoint to export: the best by validation loss, else the last, of those that verify and
    forgot no more than declared. One that was saved by time or on a preemption is to go on from, and never
    chosen: when it was saved must not decide which model it is.
    """
    at, exportable = work.evaluated_at, work.exportable
    best = checkpoints.best_first if "validation" in work.held_out else checkpoints.newest_first
    verifies = False
    for checkpoint in checkpoints.usable(
        work.member.checkpoints, work.recipe, work.progress.warn, first=best
    ):
        if checkpoint.step not in at:
            continue
        if checkpoint.step in exportable:
            return checkpoint
        verifies = True
    if not verifies:
        raise UserError(
            "no checkpoint at an evaluation of this training verifies",
            file=work.member.checkpoints,
            fix="Check the disk, then run it again: it goes on from the newest that does",
        )
    passed = observer.stopped[1] if observer.stopped else observer.past
    raise UserError(
        "no checkpoint is within the limits of forgetting" + (f": {passed}" if passed else ""),
        field="training.watch",
        fix="Lower the learning rate, mix in more general data, or raise the limit",
    )


def _export(run: TrainingRun, work: Work, trainer: Any, weights: Weights | None) -> None:
    from ft_dagster.training.methods.base import load_tokenizer

    payload = work.member.payload
    shutil.rmtree(payload, ignore_errors=True)
    payload.mkdir(parents=True)
    work.method.save(trainer.model, payload, run.base.digest, weights)
    load_tokenizer(run.base.folder).save_pretrained(payload)
