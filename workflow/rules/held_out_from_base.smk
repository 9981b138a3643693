rule held_out_from_base:
    """Loss of the base's and a run's own correct answers along the path from the base to the run."""
    input:
        base=lambda w: of("held_out_from_base", w).model_files("base"),
        a=lambda w: of("held_out_from_base", w).adapter(w.run),
        answers=lambda w: list(answers_from_base(w).values()),
    output:
        paths="results/{owner}/held_out_from_base/{run}.csv",
        provenance="results/{owner}/provenance/held_out_from_base/{run}.json",
    log:
        "results/{owner}/logs/held_out_from_base/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/held_out_from_base/{run}.tsv"
    wildcard_constraints:
        owner=owners("held_out_from_base"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *measure_code("held_out_from_base"),
        settings=lambda w: of("held_out_from_base", w).told("held_out_from_base"),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("held_out_from_base", w).model("base"),
                "a": folder(input.a),
                **answers_from_base(w),
            },
        ),
    shell:
        "deltageom measure held_out_from_base --settings {params.settings:q} {params.inputs:q} --output {output.paths:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
