rule train:
    """One run: a LoRA adapter on the shared rollouts, by its method, from the same base and the same initial A."""
    input:
        base=model_files("base"),
        rollouts=f"{RESULTS}/rollouts/rollouts.parquet",
        code=lambda w: code("train", f"methods.{STUDY.runs[w.run].method}"),
    output:
        adapter=expand(f"{RESULTS}/runs/{{{{run}}}}/{{file}}", file=ADAPTER_FILES),
        metrics=f"{RESULTS}/runs/{{run}}/metrics.csv",
        selection=f"{RESULTS}/runs/{{run}}/selection.json",
        provenance=f"{RESULTS}/provenance/train/{{run}}.json",
    log:
        f"{RESULTS}/logs/train/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{run}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=3000 if not GPUS else 64000,
        runtime=60 if not GPUS else 1440,
    params:
        settings=lambda w: settings(
            STUDY.runs[w.run], run=w.run, base=STUDY.base, device=STUDY.device
        ),
        base=lambda _: model_path("base"),
        folder=lambda _, output: folder(output.adapter),
        scratch=lambda w: f"{RESULTS}/scratch/{w.run}",
    shell:
        "deltageom train --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " --output {params.folder:q} --scratch {params.scratch:q}"
        " --provenance {output.provenance:q} --log {log:q}"
