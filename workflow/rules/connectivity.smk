rule connectivity:
    """Boxed-answer loss along the paths between a run's delta and those of the runs after it, in one loaded model."""
    input:
        base=lambda w: of("connectivity", w).model_files("base"),
        a=lambda w: of("connectivity", w).adapter(w.a),
        b=lambda w: of("connectivity", w).adapters(runs_after(w.a)),
        problems=lambda w: of("connectivity", w).problems(
            STUDY.measures.connectivity.benchmark
        ),
    output:
        paths="results/{owner}/connectivity/{a}.csv",
        provenance="results/{owner}/provenance/connectivity/{a}.json",
    log:
        "results/{owner}/logs/connectivity/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/connectivity/{a}.tsv"
    wildcard_constraints:
        owner=owners("connectivity"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *measure_code("connectivity"),
        settings=lambda _: settings(
            connectivity=STUDY.measures.connectivity,
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
        ),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("connectivity", w).model("base"),
                "a": folder(input.a),
                "problems": input.problems,
            },
        ),
        runs=lambda w: run_arguments(of("connectivity", w), runs_after(w.a)),
    shell:
        "deltageom measure connectivity --settings {params.settings:q} {params.inputs:q} {params.runs:q}"
        " --output {output.paths:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
