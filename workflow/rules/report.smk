TABLE_NAMES = [
    "accuracy",
    "barriers",
    "cka",
    "comparisons",
    "connectivity",
    "cosine_matrix",
    "decontamination",
    "disagreements",
    "geometry_global",
    "geometry_layer",
    "geometry_module",
    "graders",
    "pass_at_k",
    "training",
    "training_curves",
]
FIGURE_NAMES = [
    "accuracy",
    "cka_by_layer",
    "connectivity_paths",
    "cosine_by_layer",
    "cosine_heatmap",
    "orthogonal_fraction_by_layer",
    "principal_angles",
    "training_curves",
]
TABLES = expand(
    f"{RESULTS}/tables/{{name}}.{{kind}}", name=TABLE_NAMES, kind=["csv", "md"]
)
FIGURES = expand(
    f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURE_NAMES, kind=["svg", "png"]
)


rule tables:
    """Every table, csv for programs and md for people, from the records of all runs, pairs and modules."""
    input:
        selections=expand(f"{RESULTS}/runs/{{run}}/selection.json", run=RUNS),
        metrics=expand(f"{RESULTS}/runs/{{run}}/metrics.parquet", run=RUNS),
        evaluations=expand(
            f"{RESULTS}/graded/{{model}}/{{benchmark}}.jsonl",
            model=MODELS,
            benchmark=BENCHMARKS,
        ),
        decontamination=f"{RESULTS}/decontamination/report.json",
        geometry=expand(f"{RESULTS}/geometry/{{module}}.json", module=ALL_MODULES),
        connectivity=expand(f"{RESULTS}/connectivity/{{a}}.csv", a=RUNS[:-1]),
        cka=[f"{RESULTS}/cka/{a}/{b}.csv" for a, b in PAIRS],
        code=code("tables"),
    output:
        tables=TABLES,
        provenance=f"{RESULTS}/provenance/tables.json",
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda _: settings(
            runs={
                name: run.model_dump(mode="json") for name, run in STUDY.runs.items()
            },
            order=list(STUDY.runs),
            benchmarks=BENCHMARKS,
            modules=ALL_MODULES,
            statistics=STUDY.statistics,
            reference=STUDY.measures.reference,
        ),
        results=lambda _: RESULTS,
        folder=lambda _, output: folder(output.tables),
    shell:
        "deltageom tables --settings {params.settings:q} --results {params.results:q} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule figures:
    """Every figure, svg and png, from the tables alone."""
    input:
        tables=TABLES,
        code=code("figures"),
    output:
        figures=FIGURES,
        provenance=f"{RESULTS}/provenance/figures.json",
    log:
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda _: settings(reference=STUDY.measures.reference),
        tables=lambda _, input: folder(input.tables),
        folder=lambda _, output: folder(output.figures),
    shell:
        "deltageom figures --settings {params.settings:q} --tables {params.tables:q} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule summary:
    """The page that puts tables and figures together, with captions that say n, seed and variant."""
    input:
        tables=TABLES,
        figures=FIGURES,
        code=code("summary", *(f"methods.{run.method}" for run in STUDY.runs.values())),
    output:
        summary=f"{RESULTS}/summary.md",
        provenance=f"{RESULTS}/provenance/summary.json",
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda _: settings(COMPARED),
        tables=lambda _, input: folder(input.tables),
        figures=lambda _, input: folder(input.figures),
    shell:
        "deltageom summary --settings {params.settings:q} --tables {params.tables:q} --figures {params.figures:q}"
        " --output {output.summary:q} --provenance {output.provenance:q} --log {log:q}"
