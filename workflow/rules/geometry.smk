rule base_spectrum:
    """The leading singular triplets of one layer's base weights, which every run is held against: once a base."""
    input:
        base=lambda w: of("base_spectrum", w).model_files("base"),
    output:
        spectra=expand(
            "results/{{owner}}/base_spectrum/layers.{{layer}}.{module}.safetensors",
            module=MODULES,
        ),
        provenance="results/{owner}/provenance/base_spectrum/{layer}.json",
    log:
        "results/{owner}/logs/base_spectrum/{layer}.log",
    benchmark:
        "results/{owner}/benchmarks/base_spectrum/{layer}.tsv"
    wildcard_constraints:
        owner=owners("base_spectrum"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=60,
    params:
        *code("base-spectrum"),
        base=lambda w: of("base_spectrum", w).base_arguments(),
        modules=lambda w: module_arguments(w.layer),
        rank=lambda _: BASE_RANK,
        folder=lambda _, output: folder(output.spectra),
    shell:
        "deltageom base-spectrum {params.base:q} {params.modules:q} --rank {params.rank} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule geometry:
    """Weight geometry of one layer's modules, every run and pair, from the thin factors: one file per module.

    Its pairs are kept as long as their adapters are the same, so a run that joins a study adds its own alone.
    """
    input:
        adapters=lambda w: of("geometry", w).adapters(RUNS),
        base=lambda w: (
            of("geometry", w).model_files("base") if WHOLE_RUNS or BASE_RANK else []
        ),
        spectra=base_spectra,
    output:
        modules=update(
            expand(
                "results/{{owner}}/geometry/layers.{{layer}}.{module}.json",
                module=MODULES,
            )
        ),
        provenance="results/{owner}/provenance/geometry/{layer}.json",
    log:
        "results/{owner}/logs/geometry/{layer}.log",
    benchmark:
        "results/{owner}/benchmarks/geometry/{layer}.tsv"
    wildcard_constraints:
        owner=owners("geometry"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000 + 2000 * len(WHOLE_RUNS)),  # theirs are dense
        runtime=60,
    params:
        *code("geometry"),
        runs=lambda w: run_arguments(of("geometry", w), RUNS),
        modules=lambda w: module_arguments(w.layer),
        base=lambda w: (
            of("geometry", w).base_arguments() if WHOLE_RUNS or BASE_RANK else []
        ),
        spectra=lambda _, input: spectra_arguments(input.spectra),
        top_k=[
            argument
            for top_k in STUDY.measures.geometry.top_k
            for argument in ("--top-k", top_k)
        ],
        # of `output`, so that Snakemake compares it with nothing: what is found there is checked
        earlier=lambda w, output: named_each(
            "--earlier", of("geometry", w).earlier("geometry", "geometry")
        ),
        folder=lambda _, output: folder(output.modules),
    shell:
        "deltageom geometry {params.runs:q} {params.modules:q} {params.base:q} {params.spectra:q} {params.top_k}"
        " {params.earlier:q} --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"
