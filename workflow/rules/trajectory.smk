rule trajectory:
    """A run's update after each step of its snapshots, beside its own end and those of the runs after it."""
    input:
        ends=lambda w: of("trajectory", w).adapter(w.a),
        snapshots=lambda w: [
            file
            for run in (w.a, *runs_after(w.a, SNAPSHOT_RUNS))
            for file in of("trajectory", w).snapshots(run)
        ],
        configurations=lambda w: [
            of("trajectory", w).adapter(run)[0]
            for run in runs_after(w.a, SNAPSHOT_RUNS)
        ],
    output:
        rows="results/{owner}/trajectory/{a}.csv",
        provenance="results/{owner}/provenance/trajectory/{a}.json",
    log:
        "results/{owner}/logs/trajectory/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/trajectory/{a}.tsv"
    wildcard_constraints:
        owner=owners("trajectory"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        *measure_code("trajectory"),
        settings=lambda _: settings(snapshots=SNAPSHOTS),
        inputs=lambda w: named("--input", {"a": of("trajectory", w).run(w.a)}),
        runs=lambda w: run_arguments(
            of("trajectory", w), runs_after(w.a, SNAPSHOT_RUNS)
        ),
    shell:
        "deltageom measure trajectory --settings {params.settings:q} {params.inputs:q} {params.runs:q}"
        " --output {output.rows:q} --provenance {output.provenance:q} --log {log:q}"
