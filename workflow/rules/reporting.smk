# What the report shows, and what its rules read.
# What only a study of several replicates has.
REPLICATE_TABLES = list(results.REPLICATES) if len(REPLICATES) > 1 else []
REPORTED_TABLES = results.tables(MEASURES) | (results.DERIVED if STUDY.derived else {})
REPORTED_FIGURES = results.figures(f"``{STUDY.measures.compare_with}``", MEASURES)
if len(REPLICATES) > 1:
    REPORTED_FIGURES |= results.REPLICATE_FIGURES
TABLES = expand(
    f"{RESULTS}/tables/{{name}}.{{kind}}", name=REPORTED_TABLES, kind=["csv", "md"]
)
ACROSS = expand(
    f"{RESULTS}/tables/{{name}}.{{kind}}", name=REPLICATE_TABLES, kind=["csv", "md"]
)
# where the other replicates' updates lie on the page's map
REPLICATED_GEOMETRY = [
    f"{places.results}/tables/geometry_global.csv" for places in REPLICATES[1:]
]
FIGURES = expand(
    f"{RESULTS}/figures/{{name}}.{{kind}}",
    name=REPORTED_FIGURES,
    kind=["svg", "pdf", "png"],
)


# What the job `summary` writes, apart from the summary itself.
PRINTED = ["accuracy", "comparisons", "geometry", *REPLICATE_TABLES[:1]]
DETAILS = [
    f"{RESULTS}/details.md",
    *expand(f"{RESULTS}/tables/{{name}}.tex", name=PRINTED),
]


def reported(path, result, kind):
    """A file that `snakemake --report` shows, with its caption, which Snakemake reads from a file.

    One label: of two the report makes a switch, where half of a section's files have one value and half the other,
    and then wants every file to have a counterpart.
    """
    name = Path(path).stem
    caption = Path(".snakemake", "captions", kind, f"{name}.rst").absolute()
    caption.parent.mkdir(parents=True, exist_ok=True)
    caption.write_text(f"{result.caption}\n")
    return report(
        path,
        caption=str(caption),
        category=result.section,
        labels={"result": f"{name.replace('_', ' ')} ({kind})"},
    )


def reported_if(suffix, paths, captions, kind):
    """The paths, those with the suffix shown in the report."""
    return [
        (
            reported(path, captions[Path(path).stem], kind)
            if path.endswith(suffix)
            else path
        )
        for path in paths
    ]


def places_of(wildcards):
    """The replicate whose tables or provenance are made: the study itself, or that of the folder."""
    folder = wildcards.get("owner", STUDY.study)
    return next(places for places in REPLICATES if places.study.study == folder)


def table_records(places):
    """What the tables of a replicate are made from."""
    return {
        "selections": [f"{places.run(run)}/selection.json" for run in RUNS],
        "metrics": [f"{places.run(run)}/metrics.parquet" for run in TRAINED],
        "evaluations": graded_of(places),
        "decontamination": places.decontamination("report.json"),
        "geometry": [places.geometry(module) for module in ALL_MODULES],
        "measures": [
            f"{places.at(name)}/{record}"
            for name, measure in MEASURES.items()
            for record in measure.records(sorted(measure.takes(STUDY.with_derived())))
        ],
    }


def graded_of(places):
    return [
        places.graded(model, benchmark) for model in MODELS for benchmark in BENCHMARKS
    ]


def table_settings(study):
    return settings(
        runs={name: run.model_dump(mode="json") for name, run in study.runs.items()},
        order=study.all_runs(),
        benchmarks=BENCHMARKS,
        modules=ALL_MODULES,
        measures=list(MEASURES),
        statistics=study.statistics,
        compare_with=study.measures.compare_with,
    )


def compared(study):
    """Without how jobs run, which is nothing that the summary speaks of."""
    execution = Execution(
        processes=1,
        jobs_per_gpu=1,
        checkpoint_every=None,
        report_to=[],
        shard_size=1,
        tensor_parallel=1,
        memory_share=1.0,
        warm_start=True,
    )
    return study.model_copy(update={"execution": execution})


def results_of(places):
    """The results that a replicate's provenance has the digests of, the study's own page and figures apart."""
    toy = STUDY.base.model == TOY_BASE
    return [
        *(places.model_files("base") if toy else []),
        *(places.model_files("teacher") if "teacher" in STAGES else []),
        *(
            [places.reference(name) for name in ("log_probs", "held_out")]
            if "reference" in STAGES
            else []
        ),
        *places.adapters(RUNS),
        *[file for run in TRAINED for file in places.snapshots(run)],
        *[f"{places.run(run)}/samples.parquet" for run in ONLINE_RUNS],
        places.rollouts(),
        *graded_of(places),
        *expand(
            f"{places.results}/tables/{{name}}.{{kind}}",
            name=REPORTED_TABLES,
            kind=["csv", "md"],
        ),
    ]


def job_records(places):
    return [
        f"{places.at(sharing.stage_of(job, places.view.owners))}/provenance/{job}.json"
        for job in job_names(places.study)
    ]
