rule held_out_accuracy:
    """Answers at points of the paths between a run's delta and those of the runs after it, and of the base's if asked."""
    input:
        base=lambda w: of("held_out_accuracy", w).model_files("base"),
        a=lambda w: of("held_out_accuracy", w).adapter(w.a),
        b=lambda w: of("held_out_accuracy", w).adapters(runs_after(w.a)),
        problems=lambda w: of("held_out_accuracy", w).problems(
            STUDY.measures.held_out_paths.benchmark
        ),
    output:
        rows="results/{owner}/held_out_accuracy/{a}.csv",
        provenance="results/{owner}/provenance/held_out_accuracy/{a}.json",
    log:
        "results/{owner}/logs/held_out_accuracy/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/held_out_accuracy/{a}.tsv"
    wildcard_constraints:
        owner=owners("held_out_accuracy"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=240 if not GPUS else 720,
    params:
        *measure_code("held_out_accuracy"),
        settings=lambda w: of("held_out_accuracy", w).told("held_out_accuracy"),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("held_out_accuracy", w).model("base"),
                "a": folder(input.a),
                "problems": input.problems,
            },
        ),
        runs=lambda w: run_arguments(of("held_out_accuracy", w), runs_after(w.a)),
    shell:
        "deltageom measure held_out_accuracy --settings {params.settings:q} {params.inputs:q} {params.runs:q}"
        " --output {output.rows:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
