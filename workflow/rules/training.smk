rule reference:
    """The base's log-probs of the rollouts, and its samples on held-out prompts: once, for every run that needs them."""
    input:
        base=model_files("base"),
        rollouts=f"{RESULTS}/rollouts/rollouts.parquet",
        problems=(
            f"{RESULTS}/problems/{STUDY.reference.benchmark}.jsonl"
            if STUDY.reference.benchmark
            else []
        ),
        code=code("reference"),
    output:
        log_probs=f"{RESULTS}/reference/log_probs.parquet",
        held_out=f"{RESULTS}/reference/held_out.parquet",
        provenance=f"{RESULTS}/provenance/reference.json",
    log:
        f"{RESULTS}/logs/reference.log",
    benchmark:
        f"{RESULTS}/benchmarks/reference.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 720,
    params:
        settings=lambda _: settings(
            reference=STUDY.reference,
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
            transformers=STUDY.transformers,
        ),
        base=lambda _: model_path("base"),
        problems=lambda _, input: (
            ["--problems", input.problems] if input.problems else []
        ),
        folder=lambda _, output: folder(output.log_probs),
    shell:
        "deltageom reference --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " {params.problems:q} --output {params.folder:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule train:
    """One run by its method on the shared rollouts: a LoRA adapter, from the same base and the same initial A."""
    input:
        unpack(train_inputs),
        base=model_files("base"),
        rollouts=f"{RESULTS}/rollouts/rollouts.parquet",
        code=lambda w: code("train", f"methods.{STUDY.runs[w.run].method}"),
    output:
        model=expand(f"{RESULTS}/runs/{{{{run}}}}/{{file}}", file=ADAPTER_FILES),
        metrics=f"{RESULTS}/runs/{{run}}/metrics.parquet",
        selection=f"{RESULTS}/runs/{{run}}/selection.json",
        provenance=f"{RESULTS}/provenance/train/{{run}}.json",
    log:
        f"{RESULTS}/logs/train/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{run}}.tsv"
    wildcard_constraints:
        run=any_of(run for run in RUNS if run not in WHOLE_RUNS),
    conda:
        ENVIRONMENT
    threads: 1 if GPUS else STUDY.execution.processes
    resources:
        gpu=GPUS * STUDY.execution.processes,
        mem_mb=memory(3000 * STUDY.execution.processes if not GPUS else 64000),
        runtime=60 if not GPUS else 1440,
        # resources, not params, for how a run is trained: a change of these is no reason to train it again
        processes=STUDY.execution.processes,
        checkpoint_every=STUDY.execution.checkpoint_every or 0,
        report_to=",".join(STUDY.execution.report_to) or "none",
    params:
        settings=lambda w: settings(
            STUDY.runs[w.run], run=w.run, base=STUDY.base, device=STUDY.device
        ),
        base=lambda _: model_path("base"),
        others=train_arguments,
        folder=lambda _, output: folder(output.model),
        scratch=lambda w: f"{RESULTS}/scratch/{w.run}",
    shell:
        "deltageom train --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " {params.others:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --processes {resources.processes} --checkpoint-every {resources.checkpoint_every}"
        " --report-to {resources.report_to:q} --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


if WHOLE_RUNS:

    use rule train as train_whole with:
        output:
            model=expand(f"{RESULTS}/runs/{{{{run}}}}/{{file}}", file=CHECKPOINT_FILES),
            metrics=f"{RESULTS}/runs/{{run}}/metrics.parquet",
            selection=f"{RESULTS}/runs/{{run}}/selection.json",
            provenance=f"{RESULTS}/provenance/train/{{run}}.json",
        wildcard_constraints:
            run=any_of(WHOLE_RUNS),
