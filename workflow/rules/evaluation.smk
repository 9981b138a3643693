# of `evaluation.jobs` more than one: each its share, and then the rule `evaluate` merges theirs
rule evaluate_part:
    """One part of a model's answers, kept in shards; the mark says that all of the part are there."""
    input:
        base=lambda w: of("evaluate/{model}", w).model_files("base"),
        adapter=lambda w: of("evaluate/{model}", w).adapter(w.model),
        benchmarks=lambda w: [
            of("evaluate/{model}", w).problems(name) for name in BENCHMARKS
        ],
    output:
        mark=temp("results/{owner}/shards/evaluate-{model}/{part}-of-{parts}.json"),
    log:
        "results/{owner}/logs/evaluate_part/{model}/{part}-of-{parts}.log",
    benchmark:
        "results/{owner}/benchmarks/evaluate_part/{model}/{part}-of-{parts}.tsv"
    wildcard_constraints:
        owner=owners("evaluate", before="evaluate-"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=generation_gpus(STUDY.evaluation.engine),
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60 if not GPUS else 720,
        shard_size=STUDY.execution.shard_size,
        tensor_parallel=STUDY.execution.tensor_parallel,
        memory_share=str(STUDY.execution.memory_share),
    params:
        *engine_code("evaluate", STUDY.evaluation.engine),
        settings=lambda w: of("evaluate/{model}", w).told(f"evaluate/{w.model}"),
        base=lambda w: of("evaluate/{model}", w).model("base"),
        adapter=lambda w: of("evaluate/{model}", w).adapter_argument(w.model),
        benchmarks=lambda w: benchmark_arguments(of("evaluate/{model}", w)),
        folder=lambda w: f"results/{w.owner}/evaluation/{w.model}",
        # of `output`, so that Snakemake compares it with nothing: what is found there is checked
        earlier=lambda w, output: named_each(
            "--earlier",
            of("evaluate/{model}", w).earlier(
                f"evaluate/{w.model}", f"evaluation/{w.model}"
            ),
        ),
        scratch=lambda _, output: folder(output.mark),
    shell:
        "deltageom evaluate --settings {params.settings:q} --base {params.base:q} {params.adapter:q}"
        " {params.benchmarks:q} {params.earlier:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --part {wildcards.part} --parts {wildcards.parts}"
        " --shard-size {resources.shard_size} --tensor-parallel {resources.tensor_parallel}"
        " --memory-share {resources.memory_share} --gpus {resources.gpu} --provenance {output.mark:q} --log {log:q}"


rule evaluate:
    """Answers of the base or a run to every benchmark: one path, one engine start, one record per completion."""
    input:
        base=lambda w: of("evaluate/{model}", w).model_files("base"),
        adapter=lambda w: of("evaluate/{model}", w).adapter(w.model),
        benchmarks=lambda w: [
            of("evaluate/{model}", w).problems(name) for name in BENCHMARKS
        ],
        parts=lambda w: marks(
            f"results/{w.owner}/shards/evaluate-{w.model}", STUDY.evaluation.jobs
        ),
    output:
        # kept by the job where they are still true: a new benchmark is answered alone
        records=update(
            expand(
                "results/{{owner}}/evaluation/{{model}}/{benchmark}.jsonl",
                benchmark=BENCHMARKS,
            )
        ),
        identity=update("results/{owner}/evaluation/{model}/identity.json"),
        provenance="results/{owner}/provenance/evaluate/{model}.json",
    log:
        "results/{owner}/logs/evaluate/{model}.log",
    benchmark:
        "results/{owner}/benchmarks/evaluate/{model}.tsv"
    wildcard_constraints:
        owner=owners("evaluate"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=generation_gpus(STUDY.evaluation.engine, STUDY.evaluation.jobs),
        mem_mb=merged_memory(STUDY.evaluation.jobs, 3000),
        runtime=60 if not GPUS else 720,
        parts=STUDY.evaluation.jobs,
        shard_size=STUDY.execution.shard_size,
        tensor_parallel=STUDY.execution.tensor_parallel,
        memory_share=str(STUDY.execution.memory_share),
    params:
        *engine_code("evaluate", STUDY.evaluation.engine),
        settings=lambda w: of("evaluate/{model}", w).told(f"evaluate/{w.model}"),
        base=lambda w: of("evaluate/{model}", w).model("base"),
        adapter=lambda w: of("evaluate/{model}", w).adapter_argument(w.model),
        benchmarks=lambda w: benchmark_arguments(of("evaluate/{model}", w)),
        folder=lambda _, output: folder(output.records),
        # of `output`, so that Snakemake compares it with nothing: what is found there is checked
        earlier=lambda w, output: named_each(
            "--earlier",
            of("evaluate/{model}", w).earlier(
                f"evaluate/{w.model}", f"evaluation/{w.model}"
            ),
        ),
        scratch=lambda w: f"results/{w.owner}/shards/evaluate-{w.model}",
    shell:
        "deltageom evaluate --settings {params.settings:q} --base {params.base:q} {params.adapter:q}"
        " {params.benchmarks:q} {params.earlier:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --parts {resources.parts} --shard-size {resources.shard_size} --tensor-parallel {resources.tensor_parallel}"
        " --memory-share {resources.memory_share} --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule grade:
    """A model's records with what each of two graders says: no GPU, so that a change of a grader generates nothing."""
    input:
        records=lambda w: [
            of("grade/{model}", w).answers(w.model, benchmark)
            for benchmark in BENCHMARKS
        ],
    output:
        graded=expand(
            "results/{{owner}}/graded/{{model}}/{benchmark}.jsonl",
            benchmark=BENCHMARKS,
        ),
        provenance="results/{owner}/provenance/grade/{model}.json",
    log:
        "results/{owner}/logs/grade/{model}.log",
    benchmark:
        "results/{owner}/benchmarks/grade/{model}.tsv"
    wildcard_constraints:
        owner=owners("grade"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=120,
    params:
        *code("grade"),
        primary=STUDY.grading.primary,
        folder=lambda _, output: folder(output.graded),
    shell:
        "deltageom grade {input.records:q} --primary {params.primary} --output {params.folder:q} --workers {threads}"
        " --provenance {output.provenance:q} --log {log:q}"
