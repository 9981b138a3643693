rule behaviour:
    """KL between the base and a run per token, on what each of them writes for held-out prompts."""
    input:
        base=lambda w: of("behaviour", w).model_files("base"),
        run=lambda w: of("behaviour", w).adapter(w.run),
        problems=lambda w: of("behaviour", w).problems(
            STUDY.measures.behaviour.benchmark
        ),
    output:
        rows="results/{owner}/behaviour/{run}.csv",
        provenance="results/{owner}/provenance/behaviour/{run}.json",
    log:
        "results/{owner}/logs/behaviour/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/behaviour/{run}.tsv"
    wildcard_constraints:
        owner=owners("behaviour"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 240,
    params:
        *measure_code("behaviour"),
        settings=lambda w: of("behaviour", w).told("behaviour"),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("behaviour", w).model("base"),
                "run": folder(input.run),
                "problems": input.problems,
            },
        ),
    shell:
        "deltageom measure behaviour --settings {params.settings:q} {params.inputs:q} --output {output.rows:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
