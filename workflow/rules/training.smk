rule reference:
    """The base's log-probs of the rollouts, and its samples on held-out prompts: once, for every run that needs them."""
    input:
        base=lambda w: of("reference", w).model_files("base"),
        rollouts=lambda w: of("reference", w).rollouts(),
        problems=lambda w: (
            of("reference", w).problems(STUDY.reference.benchmark)
            if STUDY.reference.benchmark
            else []
        ),
    output:
        log_probs="results/{owner}/reference/log_probs.parquet",
        held_out="results/{owner}/reference/held_out.parquet",
        provenance="results/{owner}/provenance/reference.json",
    log:
        "results/{owner}/logs/reference.log",
    benchmark:
        "results/{owner}/benchmarks/reference.tsv"
    wildcard_constraints:
        owner=owners("reference"),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 720,
    params:
        *code("reference"),
        settings=lambda w: of("reference", w).told("reference"),
        base=lambda w: of("reference", w).model("base"),
        problems=lambda _, input: (
            ["--problems", input.problems] if input.problems else []
        ),
        folder=lambda _, output: folder(output.log_probs),
    shell:
        "deltageom reference --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " {params.problems:q} --output {params.folder:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule mismatched:
    """The base's log-probs of mismatched completions: once, for every run whose KL term is estimated on them."""
    input:
        base=lambda w: of("mismatched/{pairs}", w).model_files("base"),
        rollouts=lambda w: of("mismatched/{pairs}", w).rollouts(),
    output:
        log_probs="results/{owner}/mismatched/{pairs}.parquet",
        provenance="results/{owner}/provenance/mismatched/{pairs}.json",
    log:
        "results/{owner}/logs/mismatched/{pairs}.log",
    benchmark:
        "results/{owner}/benchmarks/mismatched/{pairs}.tsv"
    wildcard_constraints:
        owner=owners("mismatched"),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 720,
    params:
        *code("mismatched"),
        settings=lambda w: of("mismatched/{pairs}", w).told(f"mismatched/{w.pairs}"),
        base=lambda w: of("mismatched/{pairs}", w).model("base"),
    shell:
        "deltageom mismatched --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " --output {output.log_probs:q} --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule train:
    """One run by its method on the shared rollouts: a LoRA adapter, from the same base and the same initial A."""
    input:
        unpack(train_inputs),
        base=lambda w: of("train/{run}", w).model_files("base"),
        rollouts=lambda w: of("train/{run}", w).rollouts(w.run),
    output:
        model=expand("results/{{owner}}/runs/{{run}}/{file}", file=ADAPTER_FILES),
        metrics="results/{owner}/runs/{run}/metrics.parquet",
        selection="results/{owner}/runs/{run}/selection.json",
        provenance="results/{owner}/provenance/train/{run}.json",
    log:
        "results/{owner}/logs/train/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/train/{run}.tsv"
    wildcard_constraints:
        owner=owners("train"),
        run=any_of(
            run
            for run in TRAINED
            if run not in (*WHOLE_RUNS, *SNAPSHOT_RUNS, *ONLINE_RUNS)
        ),
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
        *code("train"),
        method=lambda w: method_code(w.run),
        settings=lambda w: of("train/{run}", w).told(f"train/{w.run}"),
        base=lambda w: of("train/{run}", w).model("base"),
        others=train_arguments,
        folder=lambda _, output: folder(output.model),
        scratch=lambda w: f"results/{w.owner}/scratch/{w.run}",
    shell:
        "deltageom train --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " {params.others:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --processes {resources.processes} --checkpoint-every {resources.checkpoint_every}"
        " --report-to {resources.report_to:q} --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


if WHOLE_RUNS:

    use rule train as train_whole with:
        output:
            model=expand("results/{{owner}}/runs/{{run}}/{file}", file=CHECKPOINT_FILES),
            metrics="results/{owner}/runs/{run}/metrics.parquet",
            selection="results/{owner}/runs/{run}/selection.json",
            provenance="results/{owner}/provenance/train/{run}.json",
        wildcard_constraints:
            owner=owners("train"),
            run=any_of(WHOLE_RUNS),


if set(SNAPSHOT_RUNS) - set(ONLINE_RUNS):

    use rule train as train_with_snapshots with:
        output:
            model=expand("results/{{owner}}/runs/{{run}}/{file}", file=ADAPTER_FILES),
            snapshots=expand(
                "results/{{owner}}/runs/{{run}}/snapshots/{step}.safetensors",
                step=SNAPSHOTS,
            ),
            metrics="results/{owner}/runs/{run}/metrics.parquet",
            selection="results/{owner}/runs/{run}/selection.json",
            provenance="results/{owner}/provenance/train/{run}.json",
        wildcard_constraints:
            owner=owners("train"),
            run=any_of(run for run in SNAPSHOT_RUNS if run not in ONLINE_RUNS),
