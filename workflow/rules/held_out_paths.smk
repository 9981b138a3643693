rule held_out_paths:
    """Loss of two runs' own correct answers along the paths between a run's delta and those of the runs after it."""
    input:
        base=lambda w: of("held_out_paths", w).model_files("base"),
        a=lambda w: of("held_out_paths", w).adapter(w.a),
        b=lambda w: of("held_out_paths", w).adapters(runs_after(w.a)),
        answers=lambda w: list(answers_on_paths(w).values()),
    output:
        paths="results/{owner}/held_out_paths/{a}.csv",
        provenance="results/{owner}/provenance/held_out_paths/{a}.json",
    log:
        "results/{owner}/logs/held_out_paths/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/held_out_paths/{a}.tsv"
    wildcard_constraints:
        owner=owners("held_out_paths"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *measure_code("held_out_paths"),
        settings=lambda _: settings(
            held_out_paths=STUDY.measures.held_out_paths.path(),
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
        ),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("held_out_paths", w).model("base"),
                "a": folder(input.a),
                **answers_on_paths(w),
            },
        ),
        runs=lambda w: run_arguments(of("held_out_paths", w), runs_after(w.a)),
    shell:
        "deltageom measure held_out_paths --settings {params.settings:q} {params.inputs:q} {params.runs:q}"
        " --output {output.paths:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
