COMPLETIONS = f"{RESULTS}/rollouts/completions.parquet"

if STUDY.rollouts.file is None:

    rule rollouts:
        """K completions a training problem from the study's generator, kept in shards until all are there."""
        input:
            base=model_files("base"),
            generator=model_files(STUDY.rollouts.generator),
            problems=TRAINED_ON,
            code=engine_code("rollouts", STUDY.rollouts.engine),
        output:
            completions=COMPLETIONS,
            provenance=f"{RESULTS}/provenance/rollouts.json",
        log:
            f"{RESULTS}/logs/rollouts.log",
        benchmark:
            f"{RESULTS}/benchmarks/rollouts.tsv"
        conda:
            ENVIRONMENT
        threads: 2
        resources:
            gpu=generation_gpus(STUDY.rollouts.engine),
            mem_mb=memory(3000 if not GPUS else 64000),
            runtime=60 if not GPUS else 2880,
            shard_size=STUDY.execution.shard_size,
            tensor_parallel=STUDY.execution.tensor_parallel,
            memory_share=str(STUDY.execution.memory_share),
        params:
            settings=lambda _: settings(
                rollouts=STUDY.rollouts,
                prompt=STUDY.prompt,
                base=STUDY.base,
                device=STUDY.device,
                transformers=transformers_settings(STUDY.rollouts.engine),
                vllm=STUDY.vllm,
            ),
            base=lambda _: model_path("base"),
            generator=lambda _: model_path(STUDY.rollouts.generator),
            scratch=f"{RESULTS}/shards/rollouts",
        shell:
            "deltageom rollouts --settings {params.settings:q} --base {params.base:q}"
            " --generator {params.generator:q} --problems {input.problems:q} --output {output.completions:q}"
            " --scratch {params.scratch:q} --shard-size {resources.shard_size}"
            " --tensor-parallel {resources.tensor_parallel} --memory-share {resources.memory_share}"
            " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"

else:

    rule import_rollouts:
        """Finished rollouts of the training problems, checked, in the base's token ids."""
        input:
            base=model_files("base"),
            file=STUDY.rollouts.file,
            problems=TRAINED_ON,
            dropped=(
                f"{RESULTS}/decontamination/overlaps.jsonl" if DROPS_OVERLAPS else []
            ),
            code=code("import-rollouts"),
        output:
            completions=COMPLETIONS,
            provenance=f"{RESULTS}/provenance/import_rollouts.json",
        log:
            f"{RESULTS}/logs/import_rollouts.log",
        benchmark:
            f"{RESULTS}/benchmarks/import_rollouts.tsv"
        conda:
            "../../envs/cpu.yaml"
        resources:
            mem_mb=memory(3000),
            runtime=60,
        params:
            settings=lambda _: settings(
                rollouts=STUDY.rollouts, prompt=STUDY.prompt, base=STUDY.base
            ),
            base=lambda _: model_path("base"),
            dropped=lambda _, input: (
                ["--dropped", input.dropped] if input.dropped else []
            ),
        shell:
            "deltageom import-rollouts --settings {params.settings:q} --base {params.base:q} --file {input.file:q}"
            " --problems {input.problems:q} {params.dropped:q} --output {output.completions:q}"
            " --provenance {output.provenance:q} --log {log:q}"


rule reward:
    """Grades of the completions, by both graders, and the reference solutions: the table that every run reads."""
    input:
        base=model_files("base"),
        completions=COMPLETIONS,
        problems=TRAINED_ON,
        code=code("reward"),
    output:
        rollouts=f"{RESULTS}/rollouts/rollouts.parquet",
        card=f"{RESULTS}/rollouts/README.md",
        provenance=f"{RESULTS}/provenance/reward.json",
    log:
        f"{RESULTS}/logs/reward.log",
    benchmark:
        f"{RESULTS}/benchmarks/reward.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=memory(6000),  # the table, and what each worker of the second grader may take
        runtime=240,
    params:
        settings=lambda _: settings(
            study=STUDY.study,
            problems=STUDY.problems,
            rollouts=STUDY.rollouts,
            prompt=STUDY.prompt,
            base=STUDY.base,
        ),
        base=lambda _: model_path("base"),
        folder=lambda _, output: folder(output.rollouts),
    shell:
        "deltageom reward --settings {params.settings:q} --base {params.base:q}"
        " --completions {input.completions:q} --problems {input.problems:q} --workers {threads}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"
