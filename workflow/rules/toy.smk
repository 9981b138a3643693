rule pretrain:
    """The toy base: a tiny Qwen3 and its tokenizer, pre-trained on generated worked solutions."""
    output:
        model=expand("results/{{owner}}/base/{file}", file=MODEL_FILES),
        provenance="results/{owner}/provenance/pretrain.json",
    log:
        "results/{owner}/logs/pretrain.log",
    benchmark:
        "results/{owner}/benchmarks/pretrain.tsv"
    wildcard_constraints:
        owner=owners("pretrain"),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *code("pretrain"),
        shipped=lambda _: shipped.made()["files"],
        settings=lambda w: of("pretrain", w).told("pretrain"),
        folder=lambda _, output: folder(output.model),
    shell:
        "deltageom pretrain --settings {params.settings:q} --output {params.folder:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule teacher:
    """The toy base trained further on careful solutions: a stronger generator of rollouts."""
    input:
        base=lambda w: of("teacher", w).model_files("base"),
    output:
        model=expand("results/{{owner}}/teacher/{file}", file=MODEL_FILES),
        provenance="results/{owner}/provenance/teacher.json",
    log:
        "results/{owner}/logs/teacher.log",
    benchmark:
        "results/{owner}/benchmarks/teacher.tsv"
    wildcard_constraints:
        owner=owners("teacher"),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *code("teacher"),
        settings=lambda w: of("teacher", w).told("teacher"),
        base=lambda _, input: folder(input.base),
        folder=lambda _, output: folder(output.model),
    shell:
        "deltageom teacher --settings {params.settings:q} --base {params.base:q} --output {params.folder:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"
