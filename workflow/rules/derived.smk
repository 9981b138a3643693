rule derive:
    """One run that is computed from the weight updates of others, and not trained: a LoRA adapter like theirs."""
    input:
        operands=lambda w: of("derive/{run}", w).adapters(
            STUDY.derived[w.run].operands()
        ),
    output:
        model=expand("results/{{owner}}/runs/{{run}}/{file}", file=ADAPTER_FILES),
        selection="results/{owner}/runs/{run}/selection.json",
        provenance="results/{owner}/provenance/derive/{run}.json",
    log:
        "results/{owner}/logs/derive/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/derive/{run}.tsv"
    wildcard_constraints:
        owner=owners("derive"),
        run=any_of(sorted(STUDY.derived)),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),  # the update in float64
        runtime=60,
    params:
        *code("derive"),
        settings=lambda w: of("derive/{run}", w).told(f"derive/{w.run}"),
        runs=lambda w: run_arguments(
            of("derive/{run}", w), STUDY.derived[w.run].operands()
        ),
        folder=lambda _, output: folder(output.model),
    shell:
        "deltageom derive --settings {params.settings:q} {params.runs:q} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"
