if STUDY.rollouts.file is None:

    # GPU jobs of `rollouts.jobs` more than one: each its share, and then the rule `rollouts` merges theirs
    rule rollouts_part:
        """One part of the completions, kept in shards; the mark says that all of the part are there."""
        input:
            base=lambda w: of("rollouts", w).model_files("base"),
            generator=lambda w: of("rollouts", w).model_files(STUDY.rollouts.generator),
            problems=lambda w: of("rollouts", w).trained_on(),
        output:
            mark=temp("results/{owner}/shards/rollouts/{part}-of-{parts}.json"),
        log:
            "results/{owner}/logs/rollouts_part/{part}-of-{parts}.log",
        benchmark:
            "results/{owner}/benchmarks/rollouts_part/{part}-of-{parts}.tsv"
        wildcard_constraints:
            owner=owners("rollouts"),
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
            *engine_code("rollouts", STUDY.rollouts.engine),
            settings=lambda w: of("rollouts", w).told("rollouts"),
            base=lambda w: of("rollouts", w).model("base"),
            generator=lambda w: of("rollouts", w).model(STUDY.rollouts.generator),
            completions=lambda w: f"results/{w.owner}/rollouts/completions.parquet",
            scratch=lambda _, output: folder(output.mark),
        shell:
            "deltageom rollouts --settings {params.settings:q} --base {params.base:q}"
            " --generator {params.generator:q} --problems {input.problems:q} --output {params.completions:q}"
            " --scratch {params.scratch:q} --part {wildcards.part} --parts {wildcards.parts}"
            " --shard-size {resources.shard_size}"
            " --tensor-parallel {resources.tensor_parallel} --memory-share {resources.memory_share}"
            " --gpus {resources.gpu} --provenance {output.mark:q} --log {log:q}"

    rule rollouts:
        """K completions a training problem from the study's generator, kept in shards until all are there."""
        input:
            base=lambda w: of("rollouts", w).model_files("base"),
            generator=lambda w: of("rollouts", w).model_files(STUDY.rollouts.generator),
            problems=lambda w: of("rollouts", w).trained_on(),
            parts=lambda w: marks(
                f"results/{w.owner}/shards/rollouts", STUDY.rollouts.jobs
            ),
        output:
            completions="results/{owner}/rollouts/completions.parquet",
            provenance="results/{owner}/provenance/rollouts.json",
        log:
            "results/{owner}/logs/rollouts.log",
        benchmark:
            "results/{owner}/benchmarks/rollouts.tsv"
        wildcard_constraints:
            owner=owners("rollouts"),
        conda:
            ENVIRONMENT
        threads: 2
        resources:
            gpu=generation_gpus(STUDY.rollouts.engine, STUDY.rollouts.jobs),
            mem_mb=merged_memory(STUDY.rollouts.jobs, 16000),
            runtime=60 if not GPUS else 2880,
            parts=STUDY.rollouts.jobs,
            shard_size=STUDY.execution.shard_size,
            tensor_parallel=STUDY.execution.tensor_parallel,
            memory_share=str(STUDY.execution.memory_share),
        params:
            *engine_code("rollouts", STUDY.rollouts.engine),
            settings=lambda w: of("rollouts", w).told("rollouts"),
            base=lambda w: of("rollouts", w).model("base"),
            generator=lambda w: of("rollouts", w).model(STUDY.rollouts.generator),
            scratch=lambda w: f"results/{w.owner}/shards/rollouts",
        shell:
            "deltageom rollouts --settings {params.settings:q} --base {params.base:q}"
            " --generator {params.generator:q} --problems {input.problems:q} --output {output.completions:q}"
            " --scratch {params.scratch:q} --parts {resources.parts} --shard-size {resources.shard_size}"
            " --tensor-parallel {resources.tensor_parallel} --memory-share {resources.memory_share}"
            " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"

else:

    rule import_rollouts:
        """Finished rollouts of the training problems, checked, in the base's token ids."""
        input:
            base=lambda w: of("import_rollouts", w).model_files("base"),
            file=STUDY.rollouts.file,
            problems=lambda w: of("import_rollouts", w).trained_on(),
            dropped=lambda w: (
                of("import_rollouts", w).decontamination("overlaps.jsonl")
                if STUDY.decontamination.overlap == "drop"
                else []
            ),
        output:
            completions="results/{owner}/rollouts/completions.parquet",
            provenance="results/{owner}/provenance/import_rollouts.json",
        log:
            "results/{owner}/logs/import_rollouts.log",
        benchmark:
            "results/{owner}/benchmarks/import_rollouts.tsv"
        wildcard_constraints:
            owner=owners("import_rollouts"),
        conda:
            "../../envs/cpu.yaml"
        resources:
            mem_mb=memory(3000),
            runtime=60,
        params:
            *code("import-rollouts"),
            settings=lambda w: of("import_rollouts", w).told("import_rollouts"),
            base=lambda w: of("import_rollouts", w).model("base"),
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
        base=lambda w: of("reward", w).model_files("base"),
        completions=lambda w: of("reward", w).completions(),
        problems=lambda w: of("reward", w).trained_on(),
    output:
        rollouts="results/{owner}/rollouts/rollouts.parquet",
        card="results/{owner}/rollouts/README.md",
        provenance="results/{owner}/provenance/reward.json",
    log:
        "results/{owner}/logs/reward.log",
    benchmark:
        "results/{owner}/benchmarks/reward.tsv"
    wildcard_constraints:
        owner=owners("reward"),
    conda:
        "../../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=memory(6000),  # the table, and what each worker of the second grader may take
        runtime=240,
    params:
        *code("reward"),
        settings=lambda w: card_settings(w.owner, of("reward", w).study),
        base=lambda w: of("reward", w).model("base"),
        folder=lambda _, output: folder(output.rollouts),
    shell:
        "deltageom reward --settings {params.settings:q} --base {params.base:q}"
        " --completions {input.completions:q} --problems {input.problems:q} --workers {threads}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"
