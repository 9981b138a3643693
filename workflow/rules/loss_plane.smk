rule loss_plane:
    """Loss of three models' own correct answers on the plane through them."""
    input:
        base=lambda w: of("loss_plane", w).model_files("base"),
        models=lambda w: [
            file
            for model in STUDY.measures.loss_plane.models
            for file in of("loss_plane", w).adapter(model)
        ],
        answers=lambda w: list(models_on_plane(w).values()),
    output:
        points="results/{owner}/loss_plane/points.csv",
        provenance="results/{owner}/provenance/loss_plane/points.json",
    log:
        "results/{owner}/logs/loss_plane/points.log",
    benchmark:
        "results/{owner}/benchmarks/loss_plane/points.tsv"
    wildcard_constraints:
        owner=owners("loss_plane"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 240,
    params:
        *measure_code("loss_plane"),
        settings=lambda _: settings(
            loss_plane=STUDY.measures.loss_plane,
            base=STUDY.base,
            device=STUDY.device,
        ),
        inputs=lambda w: named(
            "--input",
            {"base": of("loss_plane", w).model("base"), **models_on_plane(w)},
        ),
        runs=lambda w: run_arguments(
            of("loss_plane", w),
            [model for model in STUDY.measures.loss_plane.models if model != "base"],
        ),
    shell:
        "deltageom measure loss_plane --settings {params.settings:q} {params.inputs:q} {params.runs:q}"
        " --output {output.points:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
