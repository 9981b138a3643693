# Each table and figure by the section of the report that it belongs to.
TABLE_SECTIONS = {
    "accuracy": "Accuracy",
    "barriers": "Linear mode connectivity",
    "cka": "Hidden states",
    "comparisons": "Accuracy",
    "connectivity": "Linear mode connectivity",
    "cosine_matrix": "Weight updates",
    "decontamination": "Training data",
    "disagreements": "Accuracy",
    "geometry_global": "Weight updates",
    "geometry_layer": "Weight updates",
    "geometry_module": "Weight updates",
    "graders": "Accuracy",
    "pass_at_k": "Accuracy",
    "training": "Training",
    "training_curves": "Training",
}
FIGURE_SECTIONS = {
    "accuracy": "Accuracy",
    "cka_by_layer": "Hidden states",
    "connectivity_paths": "Linear mode connectivity",
    "cosine_by_layer": "Weight updates",
    "cosine_heatmap": "Weight updates",
    "orthogonal_fraction_by_layer": "Weight updates",
    "principal_angles": "Weight updates",
    "training_curves": "Training",
}
TABLES = expand(
    f"{RESULTS}/tables/{{name}}.{{kind}}", name=TABLE_SECTIONS, kind=["csv", "md"]
)
FIGURES = expand(
    f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURE_SECTIONS, kind=["svg", "png"]
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
        cka=expand(f"{RESULTS}/cka/{{a}}.csv", a=RUNS[:-1]),
        code=code("tables"),
    output:
        tables=in_sections(TABLES, TABLE_SECTIONS, ".csv", "table"),
        provenance=f"{RESULTS}/provenance/tables.json",
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
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
        figures=in_sections(FIGURES, FIGURE_SECTIONS, ".svg", "figure"),
        provenance=f"{RESULTS}/provenance/figures.json",
    log:
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
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
        summary=reported(f"{RESULTS}/summary.md", "Summary", "page"),
        provenance=f"{RESULTS}/provenance/summary.json",
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        settings=lambda _: settings(COMPARED),
        tables=lambda _, input: folder(input.tables),
        figures=lambda _, input: folder(input.figures),
    shell:
        "deltageom summary --settings {params.settings:q} --tables {params.tables:q} --figures {params.figures:q}"
        " --output {output.summary:q} --provenance {output.provenance:q} --log {log:q}"


rule provenance:
    """Every job's provenance in one file, and the digests of the results: again only where one of these has changed."""
    input:
        records=[f"{RESULTS}/provenance/{job}.json" for job in job_names(STUDY)],
        results=[
            *(file for run in RUNS for file in adapter(run)),
            f"{RESULTS}/rollouts/rollouts.parquet",
            *expand(
                f"{RESULTS}/graded/{{model}}/{{benchmark}}.jsonl",
                model=MODELS,
                benchmark=BENCHMARKS,
            ),
            *TABLES,
            *FIGURES,
            f"{RESULTS}/summary.md",
        ],
        code=code("provenance"),
    output:
        merged=reported(f"{RESULTS}/provenance.json", "Provenance", "JSON"),
        provenance=f"{RESULTS}/provenance/provenance.json",
    log:
        f"{RESULTS}/logs/provenance.log",
    benchmark:
        f"{RESULTS}/benchmarks/provenance.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        settings=lambda _: settings(COMPARED),
        records=lambda _, output: folder(output.provenance),
    shell:
        "deltageom provenance --settings {params.settings:q} --records {params.records:q} --results {input.results:q}"
        " --output {output.merged:q} --provenance {output.provenance:q} --log {log:q}"
