rule problems:
    """One problem set as jsonl: the training prompts (`train`) or a benchmark. Cheap, so it runs first."""
    input:
        file=dataset_file,
        code=code("problems"),
    output:
        problems=f"{RESULTS}/problems/{{dataset}}.jsonl",
        provenance=f"{RESULTS}/provenance/problems/{{dataset}}.json",
    log:
        f"{RESULTS}/logs/problems/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/problems/{{dataset}}.tsv"
    priority: 100
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        settings=lambda w: settings(
            dataset=dataset_of(w.dataset),
            seed=STUDY.embedded.seed,
            world=STUDY.embedded.world,
        ),
    shell:
        "deltageom problems --settings {params.settings:q} --output {output.problems:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule decontaminate:
    """Training problems that share a run of words with a benchmark's: counted, and dropped if the study says so."""
    input:
        train=f"{RESULTS}/problems/train.jsonl",
        benchmarks=expand(
            f"{RESULTS}/problems/{{benchmark}}.jsonl", benchmark=BENCHMARKS
        ),
        code=code("decontaminate"),
    output:
        files=expand(f"{RESULTS}/decontamination/{{file}}", file=DECONTAMINATION_FILES),
        provenance=f"{RESULTS}/provenance/decontaminate.json",
    log:
        f"{RESULTS}/logs/decontaminate.log",
    benchmark:
        f"{RESULTS}/benchmarks/decontaminate.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        settings=lambda _: settings(decontamination=STUDY.decontamination),
        benchmarks=named(
            "--benchmark",
            {name: f"{RESULTS}/problems/{name}.jsonl" for name in BENCHMARKS},
        ),
        folder=lambda _, output: folder(output.files),
    shell:
        "deltageom decontaminate --settings {params.settings:q} --train {input.train:q} {params.benchmarks:q}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"


rule pretrain:
    """The embedded base: a tiny Qwen3 and its tokenizer, pre-trained on generated worked solutions."""
    input:
        code=code("pretrain"),
    output:
        model=expand(f"{RESULTS}/base/{{file}}", file=MODEL_FILES),
        provenance=f"{RESULTS}/provenance/pretrain.json",
    log:
        f"{RESULTS}/logs/pretrain.log",
    benchmark:
        f"{RESULTS}/benchmarks/pretrain.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        settings=lambda _: settings(
            embedded=STUDY.embedded,
            prompt=STUDY.prompt,
            device=STUDY.device,
            dtype=STUDY.base.dtype,
        ),
        folder=lambda _, output: folder(output.model),
    shell:
        "deltageom pretrain --settings {params.settings:q} --output {params.folder:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule teacher:
    """The embedded base trained further on careful solutions: a stronger generator of rollouts."""
    input:
        base=expand(f"{RESULTS}/base/{{file}}", file=MODEL_FILES),
        code=code("teacher"),
    output:
        model=expand(f"{RESULTS}/teacher/{{file}}", file=MODEL_FILES),
        provenance=f"{RESULTS}/provenance/teacher.json",
    log:
        f"{RESULTS}/logs/teacher.log",
    benchmark:
        f"{RESULTS}/benchmarks/teacher.tsv"
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        settings=lambda _: settings(
            embedded=STUDY.embedded,
            teacher=STUDY.teacher,
            prompt=STUDY.prompt,
            device=STUDY.device,
            dtype=STUDY.base.dtype,
        ),
        base=lambda _, input: folder(input.base),
        folder=lambda _, output: folder(output.model),
    shell:
        "deltageom teacher --settings {params.settings:q} --base {params.base:q} --output {params.folder:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
