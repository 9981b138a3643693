rule geometry:
    """Weight geometry of one layer's modules, every run and pair, from the thin factors: one file a module."""
    input:
        adapters=[file for run in RUNS for file in adapter(run)],
        base=model_files("base") if WHOLE_RUNS else [],
        code=code("geometry"),
    output:
        modules=expand(
            f"{RESULTS}/geometry/layers.{{{{layer}}}}.{{module}}.json", module=MODULES
        ),
        provenance=f"{RESULTS}/provenance/geometry/{{layer}}.json",
    log:
        f"{RESULTS}/logs/geometry/{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/geometry/{{layer}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000 + 2000 * len(WHOLE_RUNS),  # theirs are dense
        runtime=60,
    params:
        runs=[
            argument
            for run in RUNS
            for argument in ("--run", f"{run}={RESULTS}/runs/{run}")
        ],
        modules=lambda w: [
            argument
            for name in MODULES
            for argument in ("--module", f"layers.{w.layer}.{name}")
        ],
        base=base_argument(),
        top_k=STUDY.measures.geometry.top_k,
        folder=lambda _, output: folder(output.modules),
    shell:
        "deltageom geometry {params.runs:q} {params.modules:q} {params.base:q} --top-k {params.top_k}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"
