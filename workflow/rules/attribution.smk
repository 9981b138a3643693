rule attribution:
    """Loss of a run's own correct answers with one layer or kind of module of its update alone, and without it."""
    input:
        base=lambda w: of("attribution", w).model_files("base"),
        run=lambda w: of("attribution", w).adapter(w.run),
        answers=lambda w: of("attribution", w).graded(
            w.run, STUDY.measures.attribution.benchmark
        ),
    output:
        rows="results/{owner}/attribution/{run}.csv",
        provenance="results/{owner}/provenance/attribution/{run}.json",
    log:
        "results/{owner}/logs/attribution/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/attribution/{run}.tsv"
    wildcard_constraints:
        owner=owners("attribution"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 240,
    params:
        *measure_code("attribution"),
        settings=lambda _: settings(
            attribution=STUDY.measures.attribution,
            base=STUDY.base,
            device=STUDY.device,
        ),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("attribution", w).model("base"),
                "run": folder(input.run),
                "answers": input.answers,
            },
        ),
    shell:
        "deltageom measure attribution --settings {params.settings:q} {params.inputs:q} --output {output.rows:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
