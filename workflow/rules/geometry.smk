rule base_spectrum:
    """The leading singular triplets of one layer's base weights, which every run is held against: once a base."""
    input:
        base=model_files("base"),
        code=code("base-spectrum"),
    output:
        spectra=expand(
            f"{RESULTS}/base_spectrum/layers.{{{{layer}}}}.{{module}}.safetensors",
            module=MODULES,
        ),
        provenance=f"{RESULTS}/provenance/base_spectrum/{{layer}}.json",
    log:
        f"{RESULTS}/logs/base_spectrum/{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/base_spectrum/{{layer}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=60,
    params:
        base=base_arguments(),
        modules=lambda w: module_arguments(w.layer),
        rank=lambda _: BASE_RANK,
        folder=lambda _, output: folder(output.spectra),
    shell:
        "deltageom base-spectrum {params.base:q} {params.modules:q} --rank {params.rank} --output {params.folder:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule geometry:
    """Weight geometry of one layer's modules, every run and pair, from the thin factors: one file a module.

    Its pairs are kept as long as their adapters are the same, so a run that joins a study adds its own alone.
    """
    input:
        adapters=[file for run in RUNS for file in adapter(run)],
        base=model_files("base") if WHOLE_RUNS or BASE_RANK else [],
        spectra=base_spectra,
        code=code("geometry"),
    output:
        modules=update(
            expand(
                f"{RESULTS}/geometry/layers.{{{{layer}}}}.{{module}}.json",
                module=MODULES,
            )
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
        mem_mb=memory(2000 + 2000 * len(WHOLE_RUNS)),  # theirs are dense
        runtime=60,
    params:
        runs=named("--run", {run: f"{RESULTS}/runs/{run}" for run in RUNS}),
        modules=lambda w: module_arguments(w.layer),
        base=base_arguments() if WHOLE_RUNS or BASE_RANK else [],
        spectra=lambda _, input: spectra_arguments(input.spectra),
        top_k=[
            argument
            for top_k in STUDY.measures.geometry.top_k
            for argument in ("--top-k", top_k)
        ],
        folder=lambda _, output: folder(output.modules),
    shell:
        "deltageom geometry {params.runs:q} {params.modules:q} {params.base:q} {params.spectra:q} {params.top_k}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"
