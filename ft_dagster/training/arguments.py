"""Makes the arguments of transformers' Trainer of a training."""

from __future__ import annotations

from typing import Any

from ft_dagster.program import write_json
from ft_dagster.training import ranks, zero
from ft_dagster.training.work import Work


def training_arguments(work: Work) -> Any:
    from trl import SFTConfig

    settings, device = work.member.plan.training, work.member.plan.device
    deepspeed = zero.configuration(work.member, ranks.world())
    if deepspeed and ranks.is_first():
        write_json(work.member.evidence / zero.FILE, deepspeed)
    arguments = SFTConfig(
        output_dir=str(work.member.checkpoints),
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio,  # below 1: a share of the steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        max_steps=work.steps,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        bf16=settings.precision == "bf16",
        deepspeed=deepspeed,
        use_cpu=device.kind == "cpu",
        seed=work.member.seed,
        optim="adamw_torch" if deepspeed else "adamw_torch_fused",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=device.kind == "cuda",
        save_strategy="no",  # `WatchCallback` says when
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        ddp_timeout=work.patience,
    )
    if deepspeed:
        zero.join()
    return arguments
