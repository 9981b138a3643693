rule tables:
    """Every table, csv for programs and md for people, from the records of all runs, pairs and modules."""
    input:
        unpack(lambda w: table_records(places_of(w))),
    output:
        tables=reported_if(".csv", TABLES, REPORTED_TABLES, "table"),
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
        *code("tables", *MEASURE_CODE),
        settings=lambda w: table_settings(places_of(w).study),
        results=lambda w: places_of(w).results,
        shared=lambda w: named("--shared", places_of(w).shared()),
        folder=lambda _, output: folder(output.tables),
    shell:
        "deltageom tables --settings {params.settings:q} --results {params.results:q} {params.shared:q}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"


if len(REPLICATES) > 1:

    use rule tables as replicate_tables with:
        output:
            tables=expand(
                "results/{{owner}}/tables/{name}.{kind}",
                name=REPORTED_TABLES,
                kind=["csv", "md"],
            ),
            provenance="results/{owner}/provenance/tables.json",
        log:
            "results/{owner}/logs/tables.log",
        benchmark:
            "results/{owner}/benchmarks/tables.tsv"
        wildcard_constraints:
            owner=any_of(places.study.study for places in REPLICATES[1:]),

    rule replicates:
        """Means, spreads and intervals over the replicates, and paired differences between runs."""
        input:
            tables=[
                f"{places.results}/tables/{name}.csv"
                for places in REPLICATES
                for name in REPORTED_TABLES
            ],
            graded=[file for places in REPLICATES for file in graded_of(places)],
        output:
            tables=reported_if(".csv", ACROSS, results.REPLICATES, "table"),
            provenance=f"{RESULTS}/provenance/replicates.json",
        log:
            f"{RESULTS}/logs/replicates.log",
        benchmark:
            f"{RESULTS}/benchmarks/replicates.tsv"
        conda:
            "../../envs/cpu.yaml"
        resources:
            mem_mb=memory(2000),
            runtime=30,
        params:
            *code("replicates", *MEASURE_CODE),
            settings=lambda _: settings(
                compare_with=STUDY.measures.compare_with,
                same_problems="base" not in STUDY.replicates.vary,
                statistics=STUDY.statistics,
            ),
            replicates=lambda _: named_each(
                "--replicate", [f"{places.results}/tables" for places in REPLICATES]
            ),
            graded=lambda _: [
                argument
                for number, places in enumerate(REPLICATES)
                for argument in named(
                    "--graded",
                    {
                        f"{number}/{model}/{benchmark}": places.graded(
                            model, benchmark
                        )
                        for model in MODELS
                        for benchmark in BENCHMARKS
                    },
                )
            ],
            folder=lambda _, output: folder(output.tables),
        shell:
            "deltageom replicates --settings {params.settings:q} {params.replicates:q} {params.graded:q}"
            " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"


rule figures:
    """Every figure, svg, pdf and png, from the tables alone."""
    input:
        tables=[*TABLES, *ACROSS],
    output:
        figures=reported_if(".svg", FIGURES, REPORTED_FIGURES, "figure"),
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
        *code("figures", *MEASURE_CODE),
        settings=lambda _: settings(compare_with=STUDY.measures.compare_with),
        tables=lambda _, input: folder(input.tables),
        folder=lambda _, output: folder(output.figures),
    shell:
        "deltageom figures --settings {params.settings:q} --tables {params.tables:q} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule summary:
    """One screen; the long page with all tables and figures, which say n, seed and variant; the tables in LaTeX."""
    input:
        tables=[*TABLES, *ACROSS],
        figures=FIGURES,
    output:
        summary=reported(f"{RESULTS}/summary.md", results.PAGES["summary"], "page"),
        details=reported_if(".md", DETAILS, results.PAGES, "page"),
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
        *code("summary", *MEASURE_CODE),
        # the page quotes them
        methods=lambda _: {
            run.method: methods.full_name(run.method) for run in STUDY.runs.values()
        },
        settings=lambda _: settings(compared(STUDY)),
        tables=lambda _, input: folder(input.tables),
        figures=lambda _, input: folder(input.figures),
        folder=lambda _, output: folder(output.summary),
    shell:
        "deltageom summary --settings {params.settings:q} --tables {params.tables:q} --figures {params.figures:q}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"


rule provenance:
    """Every job's provenance in one file, and the digests of the results: again only where one of these has changed."""
    input:
        records=lambda w: job_records(places_of(w)),
        results=[
            *results_of(MAIN),
            *ACROSS,
            *FIGURES,
            f"{RESULTS}/summary.md",
            *DETAILS,
            *[f"{places.results}/provenance.json" for places in REPLICATES[1:]],
        ],
    output:
        merged=reported(
            f"{RESULTS}/provenance.json", results.PAGES["provenance"], "JSON"
        ),
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
        *code("provenance"),
        settings=lambda w: settings(compared(places_of(w).study)),
        records=lambda _, output: folder(output.provenance),
        shared=lambda w: named("--shared", places_of(w).shared()),
    shell:
        "deltageom provenance --settings {params.settings:q} --records {params.records:q} {params.shared:q}"
        " --results {input.results:q} --output {output.merged:q} --provenance {output.provenance:q} --log {log:q}"


if len(REPLICATES) > 1:

    use rule provenance as replicate_provenance with:
        input:
            records=lambda w: job_records(places_of(w)),
            results=lambda w: results_of(places_of(w)),
        output:
            merged="results/{owner}/provenance.json",
            provenance="results/{owner}/provenance/provenance.json",
        log:
            "results/{owner}/logs/provenance.log",
        benchmark:
            "results/{owner}/benchmarks/provenance.tsv"
        wildcard_constraints:
            owner=any_of(places.study.study for places in REPLICATES[1:]),


rule page:
    """The study as one interactive page, from its tables, records and provenance: a file that asks nothing of anyone."""
    input:
        tables=[
            file
            for file in (*TABLES, *ACROSS, *REPLICATED_GEOMETRY)
            if file.endswith(".csv")
        ],
        graded=graded_of(MAIN),
        geometry=[MAIN.geometry(module) for module in ALL_MODULES],
        merged=f"{RESULTS}/provenance.json",
    output:
        page=f"{RESULTS}/report.html",
        provenance=f"{RESULTS}/provenance/page.json",
    log:
        f"{RESULTS}/logs/page.log",
    benchmark:
        f"{RESULTS}/benchmarks/page.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        *code("report", *MEASURE_CODE),
        # files and docstrings that the page shows are none of the code's meaning
        parts=lambda _: parts.digests({run.method for run in STUDY.runs.values()}),
        folder=lambda _, input: folder(input.merged),
    shell:
        "deltageom report {params.folder:q} --output {output.page:q}"
        " --provenance {output.provenance:q} --log {log:q}"
