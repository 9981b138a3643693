rule connectivity:
    """Boxed-answer loss along the path between two runs' deltas, both adapters scaled in one loaded model."""
    input:
        base=model_files("base"),
        a=lambda w: adapter(w.a),
        b=lambda w: adapter(w.b),
        problems=f"{RESULTS}/problems/{STUDY.measures.connectivity.benchmark}.jsonl",
        code=code("connectivity"),
    output:
        path=f"{RESULTS}/connectivity/{{a}}/{{b}}.csv",
        provenance=f"{RESULTS}/provenance/connectivity/{{a}}/{{b}}.json",
    log:
        f"{RESULTS}/logs/connectivity/{{a}}/{{b}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/connectivity/{{a}}/{{b}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=3000 if not GPUS else 64000,
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
        b=lambda _, input: folder(input.b),
    shell:
        "deltageom connectivity --settings {params.settings:q} --base {params.base:q} --a {params.a:q}"
        " --b {params.b:q} --problems {input.problems:q} --output {output.path:q}"
        " --provenance {output.provenance:q} --log {log:q}"
