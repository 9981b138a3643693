rule logit_lens:
    """After how many layers the predictions of the base and of a run stand, on the base's answers."""
    input:
        base=lambda w: of("logit_lens", w).model_files("base"),
        run=lambda w: of("logit_lens", w).adapter(w.run),
        answers=lambda w: of("logit_lens", w).graded(
            "base", STUDY.measures.logit_lens.benchmark
        ),
    output:
        rows="results/{owner}/logit_lens/{run}.csv",
        provenance="results/{owner}/provenance/logit_lens/{run}.json",
    log:
        "results/{owner}/logs/logit_lens/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/logit_lens/{run}.tsv"
    wildcard_constraints:
        owner=owners("logit_lens"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 240,
    params:
        *measure_code("logit_lens"),
        settings=lambda _: settings(
            logit_lens=STUDY.measures.logit_lens,
            base=STUDY.base,
            device=STUDY.device,
        ),
        inputs=lambda w, input: named(
            "--input",
            {
                "base": of("logit_lens", w).model("base"),
                "run": folder(input.run),
                "answers": input.answers,
            },
        ),
    shell:
        "deltageom measure logit_lens --settings {params.settings:q} {params.inputs:q} --output {output.rows:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
