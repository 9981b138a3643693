rule representations:
    """A run's hidden states against the base's, and its shift beside those of each of the runs after it."""
    input:
        base=lambda w: of("representations", w).hidden_states("base"),
        a=lambda w: of("representations", w).hidden_states(w.a),
        b=lambda w: [
            of("representations", w).hidden_states(run) for run in runs_after(w.a)
        ],
    output:
        rows="results/{owner}/representations/{a}.csv",
        provenance="results/{owner}/provenance/representations/{a}.json",
    log:
        "results/{owner}/logs/representations/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/representations/{a}.tsv"
    wildcard_constraints:
        owner=owners("representations"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=60,
    params:
        *measure_code("representations"),
        settings=lambda w: of("representations", w).told("representations"),
        inputs=lambda _, input: named("--input", {"base": input.base, "a": input.a}),
        runs=lambda w: named(
            "--run",
            {
                run: of("representations", w).hidden_states(run)
                for run in runs_after(w.a)
            },
        ),
    shell:
        "deltageom measure representations --settings {params.settings:q} {params.inputs:q} {params.runs:q}"
        " --output {output.rows:q} --provenance {output.provenance:q} --log {log:q}"
