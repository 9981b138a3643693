rule evaluate:
    """Answers of the base or a run to every benchmark: one path, one engine start, one record a completion."""
    input:
        base=model_files("base"),
        adapter=adapter_of,
        benchmarks=expand(
            f"{RESULTS}/problems/{{benchmark}}.jsonl", benchmark=BENCHMARKS
        ),
        code=engine_code("evaluate", STUDY.evaluation.engine),
    output:
        # kept by the job where they are still true: a new benchmark is answered alone
        records=update(
            expand(
                f"{RESULTS}/evaluation/{{{{model}}}}/{{benchmark}}.jsonl",
                benchmark=BENCHMARKS,
            )
        ),
        identity=update(f"{RESULTS}/evaluation/{{model}}/identity.json"),
        provenance=f"{RESULTS}/provenance/evaluate/{{model}}.json",
    log:
        f"{RESULTS}/logs/evaluate/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{model}}.tsv"
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
        settings=lambda _: settings(
            evaluation=STUDY.evaluation,
            decodings={
                name: benchmark.decoding.model_dump(mode="json")
                for name, benchmark in STUDY.benchmarks.items()
            },
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
            transformers=transformers_settings(STUDY.evaluation.engine),
            vllm=STUDY.vllm,
        ),
        base=lambda _: model_path("base"),
        adapter=adapter_argument,
        benchmarks=named(
            "--benchmark",
            {name: f"{RESULTS}/problems/{name}.jsonl" for name in BENCHMARKS},
        ),
        folder=lambda _, output: folder(output.records),
        scratch=lambda w: f"{RESULTS}/shards/evaluate-{w.model}",
    shell:
        "deltageom evaluate --settings {params.settings:q} --base {params.base:q} {params.adapter:q}"
        " {params.benchmarks:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --shard-size {resources.shard_size} --tensor-parallel {resources.tensor_parallel}"
        " --memory-share {resources.memory_share} --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule grade:
    """A model's records with what each of two graders says: no GPU, so that a change of a grader generates nothing."""
    input:
        records=expand(
            f"{RESULTS}/evaluation/{{{{model}}}}/{{benchmark}}.jsonl",
            benchmark=BENCHMARKS,
        ),
        code=code("grade"),
    output:
        graded=expand(
            f"{RESULTS}/graded/{{{{model}}}}/{{benchmark}}.jsonl", benchmark=BENCHMARKS
        ),
        provenance=f"{RESULTS}/provenance/grade/{{model}}.json",
    log:
        f"{RESULTS}/logs/grade/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/grade/{{model}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(3000),
        runtime=120,
    params:
        folder=lambda _, output: folder(output.graded),
    shell:
        "deltageom grade {input.records:q} --output {params.folder:q} --workers {threads}"
        " --provenance {output.provenance:q} --log {log:q}"
