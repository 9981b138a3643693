rule connectivity:
    """Boxed-answer loss along the paths between a run's delta and those of the runs after it, in one loaded model."""
    input:
        base=model_files("base"),
        a=lambda w: adapter(w.a),
        b=lambda w: [file for run in runs_after(w.a) for file in adapter(run)],
        problems=f"{RESULTS}/problems/{STUDY.measures.connectivity.benchmark}.jsonl",
        code=code("connectivity"),
    output:
        paths=f"{RESULTS}/connectivity/{{a}}.csv",
        provenance=f"{RESULTS}/provenance/connectivity/{{a}}.json",
    log:
        f"{RESULTS}/logs/connectivity/{{a}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/connectivity/{{a}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        settings=lambda _: settings(
            connectivity=STUDY.measures.connectivity,
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
        ),
        base=lambda _: model_path("base"),
        a=lambda _, input: folder(input.a),
        b=lambda w: named(
            "--b", {run: f"{RESULTS}/runs/{run}" for run in runs_after(w.a)}
        ),
    shell:
        "deltageom connectivity --settings {params.settings:q} --base {params.base:q} --a {params.a:q}"
        " {params.b:q} --problems {input.problems:q} --output {output.paths:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
