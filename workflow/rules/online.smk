rule train_online:
    """One run by a method that samples while it trains: a LoRA adapter, and the samples that it drew."""
    input:
        unpack(online_inputs),
    output:
        model=expand("results/{{owner}}/runs/{{run}}/{file}", file=ADAPTER_FILES),
        samples="results/{owner}/runs/{run}/samples.parquet",
        metrics="results/{owner}/runs/{run}/metrics.parquet",
        selection="results/{owner}/runs/{run}/selection.json",
        provenance="results/{owner}/provenance/train/{run}.json",
    log:
        "results/{owner}/logs/train/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/train/{run}.tsv"
    wildcard_constraints:
        owner=owners("train"),
        run=any_of(run for run in ONLINE_RUNS if run not in SNAPSHOT_RUNS),
    conda:
        ENVIRONMENT
    threads: 1 if GPUS else STUDY.execution.processes
    resources:
        gpu=GPUS * STUDY.execution.processes,
        mem_mb=memory(3000 * STUDY.execution.processes if not GPUS else 64000),
        runtime=120 if not GPUS else 2880,
        processes=STUDY.execution.processes,
        checkpoint_every=STUDY.execution.checkpoint_every or 0,
        memory_share=str(STUDY.online.memory_share),
        report_to=",".join(STUDY.execution.report_to) or "none",
    params:
        *code("train-online"),
        method=lambda w: method_code(w.run, "train-online"),
        settings=lambda w: of("train/{run}", w).told(f"train/{w.run}"),
        base=lambda w: of("train/{run}", w).model("base"),
        others=online_arguments,
        folder=lambda _, output: folder(output.model),
        scratch=lambda w: f"results/{w.owner}/scratch/{w.run}",
    shell:
        "deltageom train-online --settings {params.settings:q} --base {params.base:q} --problems {input.problems:q}"
        " {params.others:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --processes {resources.processes} --checkpoint-every {resources.checkpoint_every}"
        " --memory-share {resources.memory_share} --report-to {resources.report_to:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


if set(SNAPSHOT_RUNS) & set(ONLINE_RUNS):

    use rule train_online as train_online_with_snapshots with:
        output:
            model=expand("results/{{owner}}/runs/{{run}}/{file}", file=ADAPTER_FILES),
            samples="results/{owner}/runs/{run}/samples.parquet",
            snapshots=expand(
                "results/{{owner}}/runs/{{run}}/snapshots/{step}.safetensors",
                step=SNAPSHOTS,
            ),
            metrics="results/{owner}/runs/{run}/metrics.parquet",
            selection="results/{owner}/runs/{run}/selection.json",
            provenance="results/{owner}/provenance/train/{run}.json",
        wildcard_constraints:
            owner=owners("train"),
            run=any_of(run for run in ONLINE_RUNS if run in SNAPSHOT_RUNS),
