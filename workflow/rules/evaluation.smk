rule evaluate:
    """Greedy pass@1 of the base or a run on every benchmark, through one path, one record an item."""
    input:
        base=model_files("base"),
        adapter=adapter_of,
        benchmarks=expand(
            f"{RESULTS}/problems/{{benchmark}}.jsonl", benchmark=BENCHMARKS
        ),
        code=engine_code("evaluate", STUDY.evaluation.engine),
    output:
        records=expand(
            f"{RESULTS}/evaluation/{{{{model}}}}/{{benchmark}}.jsonl",
            benchmark=BENCHMARKS,
        ),
        provenance=f"{RESULTS}/provenance/evaluate/{{model}}.json",
    log:
        f"{RESULTS}/logs/evaluate/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=3000 if not GPUS else 64000,
        runtime=60 if not GPUS else 720,
    params:
        settings=lambda _: settings(
            evaluation=STUDY.evaluation,
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
        ),
        base=lambda _: model_path("base"),
        adapter=adapter_argument,
        benchmarks=[
            argument
            for name in BENCHMARKS
            for argument in ("--benchmark", f"{name}={RESULTS}/problems/{name}.jsonl")
        ],
        folder=lambda _, output: folder(output.records),
    shell:
        "deltageom evaluate --settings {params.settings:q} --base {params.base:q} {params.adapter:q}"
        " {params.benchmarks:q} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"
