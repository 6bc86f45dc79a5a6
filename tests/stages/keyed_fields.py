"""Says of each field of a declaration whose key it moves, and of each input of a stage that enters no key
why: a table that a person wrote.
"""

from __future__ import annotations

from typing import Any

from ft_dagster.stages import probe, refusals
from ft_dagster.stages.chain import CHAIN, ON_DEMAND

ALL = (*CHAIN, *ON_DEMAND)
# But what is made where a declaration leaves values open, or judges refusals, as that of the table does not.
MOVED = [stage for stage in ALL if stage not in (probe.STAGE, refusals.OF_BASE, refusals.STAGE)]
BASE, ROWS, MIX, PLAN, TUNED = (
    "base_model",
    "task_dataset",
    "training_mixture",
    "training_plan",
    "fine_tuned_model",
)
PROMPTED = "prompted_base"
BENEATH = "ancestor_overlap"  # what of the questions a parent was trained on
TEXTS, UNSAID, SCORES, BASE_EVAL, EVAL, PRODUCTION, CANDIDATE, EXPORT = (
    "evaluation_texts",
    "unsaid_tokens",
    "general_scores",
    "base_evaluation",
    "evaluation",
    "production_evaluation",
    "candidate_evaluation",
    "model_export",
)
ASKED = {BASE_EVAL, EVAL, PRODUCTION, CANDIDATE, EXPORT}  # what is asked of the variant's own task
JUDGED = {EVAL, CANDIDATE, EXPORT}  # which is refused until the answers are judged by them
NOTHING: set[str] = set()

# Field -> another value for it, and the stages whose key it moves by itself: not through what is upstream.
# The declaration's own key is moved by every field. AUTO: of `method: auto`, which ranks methods.
TABLE: dict[str, tuple[Any, set[str]]] = {
    "description": ("another", {EXPORT}),
    "owners": (["someone@acme.example"], {EXPORT}),
    "objective": ("domain_knowledge", {MIX, PLAN, EVAL, EXPORT}),
    "base_model.keep": (True, {BASE}),
    "base_model.revision": ("abc", NOTHING),  # of a hub's base; a folder has none
    "base_model.new_tokens": (["<new>"], {BASE, PLAN}),
    "base_model.alias": ("production", NOTHING),  # has one value so far
    "base_model.parent_adapter": ("stack", NOTHING),  # of a parent alone
    "data.sources": ([{"path": "data/rows.jsonl", "system": "Be brief"}], {ROWS, EXPORT}),
    "data.splits.validation": (0.2, {ROWS}),
    "data.splits.test": (0.2, {ROWS}),
    "data.splits.minimum": (5, {ROWS}),
    "data.deduplicate.method": ("off", {ROWS, BENEATH}),
    "data.deduplicate.threshold": (0.7, {ROWS, BENEATH}),
    "data.decontaminate.enabled": (False, {ROWS, MIX, BENEATH}),
    "data.decontaminate.ngram": (8, {ROWS, MIX, BENEATH}),
    "data.decontaminate.coverage": (0.6, {ROWS, MIX, BENEATH}),
    "data.general.share": (0.1, {MIX, EXPORT}),
    "data.general.share_of": ("trained", {MIX, EXPORT}),
    "data.general.held_out": (300, {MIX, EXPORT}),
    "data.general": (None, {MIX, EXPORT}),
    "data.train_on": ("assistant_turns", {MIX, *ASKED}),
    "data.reasoning": ("drop", {MIX, *ASKED, PROMPTED}),
    "data.chat_template_kwargs": ({"enable_thinking": False}, {MIX, *ASKED, PROMPTED}),
    "data.max_malformed": (0.1, {ROWS}),
    "data.on_too_long": ("drop", {MIX}),
    "data.samples": ("off", {MIX}),
    "method.name": ("qlora", {PLAN}),
    "method.rank": (8, {PLAN}),
    "method.alpha": (64.0, {PLAN}),
    "method.dropout": (0.1, {PLAN}),
    "method.target_modules": (["q_proj"], {PLAN}),
    "method.use_rslora": (True, {PLAN}),
    "method.use_dora": (True, {PLAN}),
    "method.init_lora_weights": ("gaussian", {PLAN}),
    "training.learning_rate": (1e-3, {PLAN}),
    "training.num_train_epochs": (2.0, {PLAN}),
    "training.max_steps": (7, {PLAN}),
    "training.per_device_train_batch_size": (2, {PLAN}),
    "training.gradient_accumulation_steps": (2, {PLAN}),
    "training.lr_scheduler_type": ("linear", {PLAN}),
    "training.warmup_ratio": (0.1, {PLAN}),
    "training.weight_decay": (0.1, {PLAN}),
    "training.max_grad_norm": (0.5, {PLAN}),
    "training.max_length": (64, {MIX, PLAN}),
    "training.packing": (False, {PLAN}),
    "training.share_beginnings": ("on", {PLAN}),
    "training.gradient_checkpointing": (True, {PLAN}),
    "training.precision": ("bf16", {PLAN}),
    "training.deterministic": (False, {PLAN}),
    "training.on_bad_rate": ("lower", {PLAN}),
    "training.deepspeed.stage": (2, {PLAN}),
    "training.deepspeed.bucket_mb": (100.0, {PLAN}),
    "training.watch.budget": (0.2, {PLAN}),
    "training.watch.questions": (4, {PLAN, TUNED}),
    "training.watch.general_loss_limit": (1.0, {PLAN}),
    "training.report_to": (["tensorboard"], NOTHING),  # shows the same curves elsewhere
    "training.checkpoint_minutes": (1.0, NOTHING),  # acts on no weight
    "training.evaluations": (3, {PLAN}),
    "training.keep_best": (2, {PLAN}),
    "training.keep_last": (1, {PLAN}),
    "training.seed": (7, {MIX, PLAN}),
    "evaluation.task": (
        ["tasks/sea_quiz.yaml"],
        {BENEATH, *ASKED},
    ),  # its texts are kept out of the rows already
    "evaluation.general": (
        [],
        {TEXTS, UNSAID, ROWS, MIX, BENEATH, SCORES, *ASKED},
    ),  # made on demand: texts, and the base's scores
    "evaluation.limit": (10, {SCORES, *ASKED}),
    "evaluation.max_new_tokens": (8, {PROMPTED, *ASKED}),
    "evaluation.kind": ("label", {PROMPTED, *ASKED}),
    "evaluation.num_fewshot": (0, {"unsaid_tokens", SCORES, *ASKED}),
    "evaluation.probed_rows": (4, ASKED),
    "evaluation.canaries": (["a planted string"], ASKED),
    "evaluation.membership": (20, ASKED),
    "evaluation.reserve": (2, ASKED),
    "evaluation.seed": (3, {SCORES, PROMPTED, *ASKED}),
    "evaluation.goal": (0.9, NOTHING),  # what is said of the answers, which stay
    "gates.task_margin": (0.5, JUDGED),
    "gates.general_margin": (0.5, JUDGED),
    "gates.general_loss_margin": (0.5, JUDGED),
    "gates.loss_tail": (0.05, JUDGED),
    "gates.loss_bound": (20.0, JUDGED),
    "gates.weights": ("group", JUDGED),
    "gates.largest_group": (90, JUDGED),
    "gates.regression_margin": (0.5, JUDGED),
    "gates.regression_loss_margin": (0.5, JUDGED),
    **dict.fromkeys(  # which no comparison with production goes by
        ("gates.reference_margin", "gates.reference_loss_margin", "gates.reference_loss_tail"),
        (0.5, JUDGED - {CANDIDATE}),
    ),
    "gates.reference": (1, JUDGED - {CANDIDATE}),
    "gates.degeneration_margin": (0.5, JUDGED),
    "gates.max_regurgitation": (0.9, JUDGED),
    "gates.max_membership_auc": (0.99, JUDGED),
    "gates.alpha": (0.1, JUDGED),
    "gates.undecided": ("fail", JUDGED),
    "gates.metrics": ({"sea_quiz": "acc"}, JUDGED),
    "export.format": ("merged", {EXPORT}),
    "resources.gpus": (2, {PLAN}),
    "resources.gpu_memory_gb": (10.0, NOTHING),  # which device is lent
    "resources.gpu_kind": ("A100", NOTHING),  # a host with GPUs plans by what it gets
    "resources.sharing": ("shared", NOTHING),
    "resources.cpu_slots": (2, {PLAN}),
    "resources.cpu_ranks": (2, {PLAN}),
    "resources.nodes": (2, {PLAN}),  # by the ranks of all of them together
    "resources.priority": (5, NOTHING),
    "resources.budget_usd": (5.0, NOTHING),
    "resources.deadline_hours": (5.0, NOTHING),
    "release.approvers": (["boss"], NOTHING),
    "retrain.cron": ("0 3 * * 1", NOTHING),
    "retrain.timezone": ("Europe/Madrid", NOTHING),
    "retrain.on_new_data": (True, NOTHING),
    "retrain.on_new_base": (True, NOTHING),
    "retrain.poll": (5.0, NOTHING),
    "retrain.quiet_minutes": (5.0, NOTHING),
    "retrain.least_share": (0.5, NOTHING),
    "retrain.least_rows": (5, NOTHING),
    "retrain.max_age_days": (5.0, NOTHING),
    "retrain.max_attempts": (5, NOTHING),
    "notify": (["ops"], NOTHING),
}
# Whose key an artifact moves that is made on demand: the cause is told of that one.
THROUGH = {"evaluation.general": {BASE_EVAL}}
WITH: dict[str, dict[str, Any]] = {  # what must be declared too for the value to be valid
    "base_model.revision": {},
    "training.deepspeed.stage": {"resources.cpu_ranks": 2},
    "gates.undecided": {},
}
# What `auto` chooses by moves the plan's key too.
AUTO: dict[str, Any] = {
    "data.general": None,
    "evaluation.general": [],
    "evaluation.limit": 10,
    "evaluation.membership": 20,
    "evaluation.reserve": 2,
    "evaluation.task": ["tasks/sea_quiz.yaml"],
    "export.format": "merged",
    "gates.refusals": {},
    "resources.budget_usd": 5.0,
    "resources.deadline_hours": 5.0,
}
# Where a method is open and tried: whether a field moves the key of the probe, over what else is declared.
OPEN: dict[str, Any] = {"method.name": "auto", "method.rank": None, "plan.probe": {"share": 0.1, "steps": 20}}
LIMITED: dict[str, Any] = {**OPEN, "training.watch.general_loss_limit": 0.2}
ASKED_WHILE: dict[str, Any] = {**OPEN, "training.watch.questions": 4}
LORA: dict[str, Any] = {**OPEN, "method.rank": 8}  # whatever ranks methods
PROBED: list[tuple[str, Any, dict[str, Any], bool]] = [
    ("description", "another", OPEN, False),
    ("training.evaluations", 3, OPEN, False),
    ("training.keep_best", 2, OPEN, False),
    ("training.keep_last", 1, OPEN, False),
    ("training.on_bad_rate", "lower", OPEN, False),
    ("training.report_to", ["tensorboard"], OPEN, False),
    ("training.checkpoint_minutes", 1.0, OPEN, False),
    ("training.watch.questions", 20, OPEN, False),
    ("training.watch.past_limit", "go_on", OPEN, False),
    ("training.watch.benchmark_limit", 0.05, ASKED_WHILE, False),
    ("gates.general_loss_margin", 0.5, LIMITED, False),
    ("gates.general_margin", 0.5, OPEN, False),
    *((field, value, LORA, False) for field, value in AUTO.items()),
    *((field, value, OPEN, True) for field, value in AUTO.items()),
    ("gates.general_loss_margin", 0.5, OPEN, True),
    ("training.watch.general_loss_limit", 0.2, OPEN, True),
    ("training.watch.general_loss_limit", 0.3, LIMITED, True),
    ("training.watch.budget", 0.2, OPEN, True),
    ("plan.probe.share", 0.2, OPEN, True),
    ("plan.probe.steps", 30, OPEN, True),
    ("method.name", "lora", OPEN, True),
    ("method.rank", 8, OPEN, True),
    ("method.rank", 16, LORA, True),
    ("objective", "domain_knowledge", OPEN, True),
    *(
        (field, TABLE[field][0], OPEN, True)
        for field in TABLE
        if PLAN in TABLE[field][1]
        and field.startswith(("training.", "resources."))
        and not field.startswith(
            ("training.evaluations", "training.keep", "training.on_bad", "training.watch")
        )
    ),
]
ELSEWHERE = {  # fields of the table's rest, and why no row of their own
    "schema_version": "has one value",
    "base_model.source": "what lies there is in base_model's key, by digest",
    "base_model.variant": "tests/e2e/test_parents.py: the parent's release is in base_model's key",
    "method.num_virtual_tokens": "of prompt and prefix tuning; with the rest of `method` in the plan's key",
    "data.general.sampled_from": "needs a base that writes words: tests/stages/test_base_text.py",
    "data.general.texts": "goes with sampled_from",
    "data.render": "of prompts with completions: tests/workspace/test_rendered_prompts.py",
    "data.general.corpus": "a row of its own would need a second corpus; with the rest of data.general",
    "training.deepspeed.offload": "is a part of ZeRO on GPUs; with the rest of `training` in the plan's key",
    "training.deepspeed.nvme_path": "goes with offload",
    "training.watch.benchmark_limit": "needs questions; with the rest of `training` in the plan's key",
    "training.watch.past_limit": "needs a limit; with the rest of `training` in the plan's key",
    "evaluation.call_order": "goes with kind: tool_calls; with the rest of `evaluation` in the keys of what "
    "is asked",
    "evaluation.database": "needs kind: sql; by digest in the keys of what is asked",
    "gates.refusals": "tests/stages/test_refusals.py: the answers are in the key of what is judged by them",
    "plan.probe": "tests/stages/test_probe.py: what was tried is in the plan's key",
}
ENGINE = {  # of what is asked
    "engine.python": "where vLLM is installed on this host",
    "engine.reason": "why transformers answer, as they do whatever the reason",
}
MIXED = {"task.mixed": "evidence of the mixture that the weights learned: which training rows it has"}
OWN = "what a verdict calls the tenant's own checks: their files are in the key"
RECORDED_FIELDS = {  # stage -> its inputs that enter no key, and why each may
    "declaration": {"declared": "evidence: the tenant's own text", "overrides": "evidence"},
    "base_model": {
        "source": "where the files lie, by digest in `base`",
        "parent": "the artifacts that are in the key, with the version they are called by",
    },
    "task_dataset": {"fingerprints": "its digest is the key's `sources`"},
    "training_plan": {
        "whole": "the fields by which methods are ranked: in the key where the plan chooses",
        "context": "prices, neighbours, finished trainings, questions there are, as known that day: a key's "
        "first plan stands",
        "leak": "how it was found that the base's packed examples reach each other, which the key has",
    },
    "probe": {
        "whole": "as of training_plan, with what a short training sets by itself",
        "context": "as of training_plan",
        "base": "where the base lies, by digest in the key",
        "nodes": "which machines the ranks of the key are on",
        "leak": "as of training_plan",
        "cost_limit": "what the platform lets a plan cost today: it refuses, and changes no arm",
    },
    "base_evaluation": {"called": OWN},
    "base_refusal_answers": {"own": "whose part of the store takes the answers; the prompts are in the key"},
    "evaluation": {
        "canaries": "which of the platform's the mixture has, that the weights learned",
        "policy": "its digest stands beside the verdict; export and release ask today's again",
        "called": OWN,
        "judged": "digests of gates and prompts, which are in the key; `tries` says what comes of them",
    },
    "model_export": {
        "corpus": "named on the card; it is in the key of the mixture that the weights learned",
        "called": OWN,
        "with_examples": "what the card says of the base; decides no byte of the payload",
    },
    "fine_tuned_model": {
        "nodes": "which machines the ranks of its plan are on",
        "report_to": "shows the same curves elsewhere",
        "checkpoint_minutes": "what is lost when it is killed; acts on no weight",
        "stop_above": "ends a training without an artifact",
        "stop_above_on": "goes with stop_above",
        "resume_points": "what is kept beside the weights; acts on none",
        "base": "where the base lies, by digest in the key",
    },
}
