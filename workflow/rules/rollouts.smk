rule rollouts:
    """K completions a training problem, from the study's generator, graded: one file that every run reads."""
    input:
        base=model_files("base"),
        generator=model_files(STUDY.rollouts.generator),
        problems=f"{RESULTS}/problems/train.jsonl",
        code=engine_code("rollouts", STUDY.rollouts.engine),
    output:
        rollouts=f"{RESULTS}/rollouts/rollouts.parquet",
        provenance=f"{RESULTS}/provenance/rollouts.json",
    log:
        f"{RESULTS}/logs/rollouts.log",
    benchmark:
        f"{RESULTS}/benchmarks/rollouts.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=3000 if not GPUS else 64000,
        runtime=60 if not GPUS else 2880,
    params:
        settings=lambda _: settings(
            rollouts=STUDY.rollouts,
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
        ),
        base=lambda _: model_path("base"),
        generator=lambda _: model_path(STUDY.rollouts.generator),
    shell:
        "deltageom rollouts --settings {params.settings:q} --base {params.base:q}"
        " --generator {params.generator:q} --problems {input.problems:q} --output {output.rollouts:q}"
        " --provenance {output.provenance:q} --log {log:q}"
