"""Group data: what is declared, the base model, the general corpora, the tenant's rows, the mixture."""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.bases import make_base, read_record, refuse_unstacked
from ft_dagster.assets.bench import (
    SHARED,
    Bench,
    check,
    digest_of,
    failures,
    stage_asset,
)
from ft_dagster.data.corpus import build_general_corpus
from ft_dagster.data.dataset import build_task_dataset
from ft_dagster.data.derived import base_folder, new_token_ids_of, parent_artifact
from ft_dagster.data.fingerprint import fingerprint_sources
from ft_dagster.data.mixture import build_mixture, declared_warnings
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks import tasks_digest
from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.planning.methods.defaults import MAX_LENGTH
from ft_dagster.report.plots import as_markdown_image, mixture_bar
from ft_dagster.report.tables import markdown_table
from ft_dagster.resources.artifacts import ArtifactStore
from ft_dagster.resources.tenants import Tenants
from ft_dagster.spec import Declared
from ft_dagster.spec.overrides import with_overrides
from ft_dagster.store import Artifact, Attempt, read_head, write_head
from ft_dagster.store.stage import Recipe, make

GROUP = "data"


@stage_asset(group=GROUP, kinds={"yaml"})
def declaration(bench: Bench) -> dg.MaterializeResult[Any]:
    """The tenant's declaration, frozen with the fingerprints of its sources and evaluation tasks.

    Everything downstream reads this frozen form, so a run never mixes two states of the files.
    """
    declared = with_overrides(bench.tenants.declared(bench.key), bench.overrides)
    spec, content = declared.spec, frozen_declaration(declared, bench.project, bench.cache)

    def build(attempt: Attempt) -> dict[str, Any]:
        text = json.dumps(content, indent=1, sort_keys=True)
        (attempt.payload / "declaration.json").write_text(text, "utf-8")
        (attempt.evidence / "declared.yaml").write_text(declared.file.read_text("utf-8"), "utf-8")
        (attempt.evidence / "origins.json").write_text(json.dumps(declared.origins, indent=1), "utf-8")
        if bench.overrides:
            (attempt.evidence / "overrides.json").write_text(json.dumps(bench.overrides, indent=1), "utf-8")
        return {"sources": len(spec.data.sources), "files": sum(len(s) for s in content["sources"])}

    artifact = bench.make("declaration", build, spec=content)
    write_head(bench.store, bench.heads, artifact, bench.context.run_id)
    values = [
        [name, json.dumps(_value(content["spec"], name)), origin] for name, origin in declared.origins.items()
    ]
    return bench.report(
        artifact,
        {
            "description": spec.description,
            "objective": spec.objective,
            "method": spec.method.name,
            "file": dg.MetadataValue.path(str(declared.file)),
            "values": dg.MetadataValue.md(markdown_table(["field", "value", "from"], values)),
        },
    )


def frozen_declaration(declared: Declared, project: Path, cache: Path) -> dict[str, Any]:
    """declaration.json: the declaration with the fingerprints of its sources and tasks as they are now."""
    spec = declared.spec
    return {
        "schema_version": 1,
        "variant": str(declared.key),
        "spec": spec.model_dump(mode="json"),
        "sources": fingerprint_sources(spec.data.sources, project, declared_in=declared.file, cache=cache),
        "tasks": {
            role: tasks_digest(
                getattr(spec.evaluation, role), project, field=f"evaluation.{role}", asked_by=declared.file
            )
            for role in ("task", "general")
        },
    }


@stage_asset(group=GROUP, kinds={"huggingface"}, deps=["declaration"])
def base_model(bench: Bench) -> dg.MaterializeResult[Any]:
    """The model that training starts from: a reference plus the digest of each of its files.

    Safetensors only; nothing is copied unless `base_model.keep` asks for it. With new tokens, or a parent's
    adapter folded in, a folder is made; a parent's whole model is used where it lies.
    """
    artifact = make_base(bench)
    record = read_record(bench, artifact)
    shown = ("reference", "revision", "architecture", "parameters", "weights_bytes", "dtype", "chat_template")
    parent = artifact.figures.get("parent") or {}
    more = {
        "parent": f"{parent['variant']} v{parent['version']} ({parent['mode']})" if parent else None,
        "new_tokens": ", ".join((record.get("derived") or {}).get("new_tokens", [])) or None,
    }
    metadata = {**{name: record[name] for name in shown}, **more}
    return bench.report(artifact, {name: value for name, value in metadata.items() if value is not None})


@dg.asset(
    group_name=GROUP, kinds={"parquet"}, code_version=str(STAGE_VERSIONS["general_corpus"]),
)  # fmt: skip
def general_corpus(
    context: dg.AssetExecutionContext, tenants: Tenants, artifacts: ArtifactStore
) -> dg.MaterializeResult[Any]:
    """Every general corpus of corpora/*.yaml, shared by all tenants, with a held-out part of its own.

    Mixed into the training data against forgetting; a mixture's key takes only its own corpus' digest.
    """
    store = artifacts.open()
    made: dict[str, Artifact] = {}
    with failures(context, artifacts.retries):
        for name, spec in tenants.corpora().items():
            sources = fingerprint_sources(
                spec.sources,
                tenants.folder,
                declared_in=tenants.folder / "corpora" / f"{name}.yaml",
                field="sources",
                cache=artifacts.cache,
            )
            recipe = Recipe(
                "general_corpus", f"{SHARED}/corpora/{name}",
                spec={"corpus": spec.model_dump(mode="json"), "sources": sources},
            )  # fmt: skip

            def build(
                attempt: Attempt, name: str = name, spec: Any = spec, sources: Any = sources
            ) -> dict[str, Any]:
                return build_general_corpus(
                    name, spec, tenants.folder, attempt.payload, context.log.info,
                    frozen=sources, cache=artifacts.cache,
                )  # fmt: skip

            made[name] = make(store, artifacts.work, recipe, build)
            write_head(store, f"{SHARED}/corpora/{name}", made[name], context.run_id)
    rows = [[name, corpus.digest[:12], json.dumps(corpus.figures)] for name, corpus in made.items()]
    return dg.MaterializeResult(
        metadata={
            "corpora": dg.MetadataValue.md(markdown_table(["corpus", "digest", "figures"], rows)),
            "dagster/row_count": sum(c.figures["documents"]["train"] for c in made.values()),
        },
        data_version=dg.DataVersion(digest_of({name: corpus.digest for name, corpus in made.items()})),
    )


@stage_asset(
    group=GROUP,
    kinds={"parquet"},
    deps=["declaration"],
    checks={"rows_kept": "Rows remain to train on, and the share that was dropped is below a half"},
)
def task_dataset(bench: Bench) -> dg.MaterializeResult[Any]:
    """The tenant's rows: validated, deduplicated, decontaminated against the evaluation, and split.

    Every dropped row is counted by reason. Base-agnostic: nothing is rendered or tokenized yet.
    """
    spec, frozen = bench.spec, bench.frozen
    texts = _evaluation_texts(bench) if spec.data.decontaminate.enabled else None
    inputs = {"sources": digest_of(frozen["sources"])}
    if texts is not None:
        inputs["evaluation_texts"] = texts.digest

    def build(attempt: Attempt) -> dict[str, Any]:
        file = None if texts is None else bench.payload(texts) / "texts.parquet"
        return build_task_dataset(
            spec, bench.project, file, attempt.payload, bench.context.log.info,
            declared_in=bench.declared_in, frozen=frozen["sources"], cache=bench.cache,
        )  # fmt: skip

    slices = spec.slice("data.sources", "data.splits", "data.deduplicate", "data.decontaminate")
    artifact = bench.make("task_dataset", build, inputs=inputs, spec=slices)
    figures = artifact.figures
    dropped, read = sum(figures["dropped"].values()), figures["read"]
    reasons = [[reason, count] for reason, count in figures["dropped"].items()]
    return bench.report(
        artifact,
        {
            "dagster/row_count": sum(figures["rows"].values()),
            "rows": figures["rows"],
            "rows_read": read,
            "rows_dropped": dropped,
            "dropped": dg.MetadataValue.md(markdown_table(["reason", "rows"], reasons)),
        },
        [
            check(
                "rows_kept",
                dropped * 2 <= read,
                f"{dropped:,} of {read:,} rows dropped",
                dropped=dropped,
                read=read,
            )
        ],
    )


@stage_asset(
    group=GROUP,
    kinds={"parquet"},
    deps=["base_model", "task_dataset", "general_corpus"],
    checks={
        "trained_tokens": "Every source has tokens that carry a label: the loss mask is not silently empty",
        "general_share": "The realized share of general text is the one that was asked for",
    },
)
def training_mixture(bench: Bench) -> dg.MaterializeResult[Any]:
    """The training examples: rendered with the base's template, tokenized, span-masked, mixed, unpacked.

    General text is interleaved until its share of the trained tokens is the declared one.
    """
    spec = bench.spec
    dataset, base = bench.upstream("task_dataset"), bench.upstream("base_model")
    inputs = {"task_dataset": dataset.digest, "base_model": base.digest}
    corpus = _corpus(bench)
    if corpus is not None:
        inputs["general_corpus"] = corpus.digest
    base_folder = locate(bench, base)
    max_length = spec.training.max_length or min(MAX_LENGTH.value, _context_length(base_folder))

    def build(attempt: Attempt) -> dict[str, Any]:
        corpus_folder = None if corpus is None else bench.payload(corpus)
        figures = build_mixture(
            spec, bench.payload(dataset), base_folder, corpus_folder, max_length, attempt.payload,
            bench.context.log.info, declared_in=bench.declared_in,
        )  # fmt: skip
        sample = figures.pop("sample")
        if spec.data.samples != "off":
            (attempt.evidence / "sample.txt").write_text(sample, "utf-8")
        return figures

    slices = spec.slice("data.general", "data.train_on", "data.on_too_long", "objective", "training.seed")
    artifact = bench.make(
        "training_mixture", build, inputs=inputs, spec={**slices, "max_length": max_length},
        seed=spec.training.seed,
    )  # fmt: skip
    return bench.report(artifact, _mixture_metadata(bench, artifact), _mixture_checks(artifact))


_COUNTS = ("documents", "examples", "tokens", "trained_tokens", "truncated")


def _mixture_metadata(bench: Bench, artifact: Artifact) -> dict[str, Any]:
    figures = artifact.figures
    train = figures["splits"]["train"]
    rows = [[source, *map(part.get, _COUNTS)] for source, part in train["by_source"].items()]
    headers = ["source", "documents", "examples", "tokens", "trained tokens", "truncated"]
    warnings = [*figures["warnings"], *declared_warnings(bench.spec, figures)]
    metadata = {
        "dagster/row_count": train["examples"],
        "tokens": train["tokens"],
        "trained_tokens": train["trained_tokens"],
        "general_share": figures["general_share"]["realized"],
        "longest_example_tokens": figures["longest"],
        "dropped": figures["dropped"],
        "sources": dg.MetadataValue.md(markdown_table(headers, rows)),
        "mixture": dg.MetadataValue.md(as_markdown_image(mixture_bar(train["by_source"]))),
        "warnings": dg.MetadataValue.md("\n".join(f"- {w}" for w in warnings) or "none"),
    }
    if bench.spec.data.samples == "metadata":
        sample = (bench.folder(artifact) / "evidence" / "sample.txt").read_text("utf-8")
        metadata["sample"] = dg.MetadataValue.md(f"```\n{sample}\n```")
    return metadata


def _mixture_checks(artifact: Artifact) -> list[dg.AssetCheckResult]:
    figures = artifact.figures
    sources = figures["splits"]["train"]["by_source"]
    empty = [source for source, part in sources.items() if part["trained_tokens"] == 0]
    share = figures["general_share"]
    return [
        check(
            "trained_tokens", not empty,
            f"no trained tokens in {', '.join(empty)}" if empty else "every source is trained on",
            **{f"trained_tokens {source}": part["trained_tokens"] for source, part in sources.items()},
        ),
        check(
            "general_share", abs(share["asked"] - share["realized"]) <= 0.01,
            f"asked {share['asked']:.1%}, realized {share['realized']:.2%}", **share,
        ),
    ]  # fmt: skip


def locate(bench: Bench, base: Artifact) -> Path:
    """The base model's folder on this machine, its files' sizes checked."""
    return base_folder(bench.store, base, bench.project, bench.cache)


def new_token_ids(bench: Bench, base: Artifact) -> list[int]:
    """Rows of the base's vocabulary that were added for this variant, and are to be trained."""
    return new_token_ids_of(bench.store, base, bench.cache)


def parent_adapter(bench: Bench, base: Artifact) -> tuple[Path, str] | None:
    """(payload folder, digest) of the adapter that stays frozen beneath the one to be trained, if any.

    To be asked once there is a plan: raises UserError where its method trains no LoRA, or quantizes the base
    otherwise than the parent was trained on.
    """
    parent = base.figures.get("parent")
    if not parent or parent["mode"] != "stack":
        return None
    adapter = parent_artifact(bench.store, base, "model_export")
    refuse_unstacked(bench, bench.upstream("training_plan").figures["method"]["name"], bench.payload(adapter))
    return bench.payload(adapter), adapter.digest


def _corpus(bench: Bench) -> Artifact | None:
    general = bench.spec.data.general
    if general is None:
        return None
    artifact = read_head(bench.store, f"{SHARED}/corpora/{general.corpus}", "general_corpus")
    if artifact is None:
        bench.tenants.corpora()
        raise UserError(
            "this corpus has not been prepared",
            field="data.general.corpus", value=general.corpus, fix="Materialize general_corpus first",
        )  # fmt: skip
    return artifact


def _evaluation_texts(bench: Bench) -> Artifact | None:
    """The texts of the declared evaluation tasks, read once for all variants that declare them."""
    tasks = bench.frozen["tasks"]
    digests = {**tasks["task"], **tasks["general"]}
    if not digests:
        return None

    def build(attempt: Attempt) -> dict[str, Any]:
        run = {"schema_version": 1, "tasks": sorted(digests), "project": str(bench.project)}
        return bench.produce(
            "evaluation.texts", attempt, lambda output: {**run, "output": str(output)}, leased=False
        )

    return bench.make("evaluation_texts", build, spec={"tasks": digests}, prefix=SHARED)


def _context_length(base_folder: Path) -> int:
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    return int(config.get("max_position_embeddings") or MAX_LENGTH.value)


def _value(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree
