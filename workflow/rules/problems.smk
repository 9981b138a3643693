rule problems:
    """One problem set as jsonl: the training prompts (`train`) or a benchmark. Cheap, so it runs first."""
    input:
        file=dataset_file,
    output:
        problems="results/{owner}/problems/{dataset}.jsonl",
        provenance="results/{owner}/provenance/problems/{dataset}.json",
    log:
        "results/{owner}/logs/problems/{dataset}.log",
    benchmark:
        "results/{owner}/benchmarks/problems/{dataset}.tsv"
    wildcard_constraints:
        owner=owners("problems"),
    priority: 100
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(2000),
        runtime=30,
        # a resource: where no problem is dropped, another grader is no reason to sample them again
        grader=lambda w: STUDY.grading.grader(w.dataset),
    params:
        *code("problems"),
        settings=lambda w: of("problems/{dataset}", w).told(f"problems/{w.dataset}"),
    shell:
        "deltageom problems --settings {params.settings:q} --grader {resources.grader} --output {output.problems:q}"
        " --provenance {output.provenance:q} --log {log:q}"


rule decontaminate:
    """Training problems that share a run of words with a benchmark's: counted, and dropped if the study says so."""
    input:
        train=lambda w: of("decontaminate", w).problems("train"),
        benchmarks=lambda w: [
            of("decontaminate", w).problems(name) for name in BENCHMARKS
        ],
    output:
        files=expand(
            "results/{{owner}}/decontamination/{file}",
            file=["train.jsonl", "overlaps.jsonl", "report.json"],
        ),
        provenance="results/{owner}/provenance/decontaminate.json",
    log:
        "results/{owner}/logs/decontaminate.log",
    benchmark:
        "results/{owner}/benchmarks/decontaminate.tsv"
    wildcard_constraints:
        owner=owners("decontaminate"),
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        *code("decontaminate"),
        settings=lambda w: of("decontaminate", w).told("decontaminate"),
        benchmarks=lambda w: benchmark_arguments(of("decontaminate", w)),
        folder=lambda _, output: folder(output.files),
    shell:
        "deltageom decontaminate --settings {params.settings:q} --train {input.train:q} {params.benchmarks:q}"
        " --output {params.folder:q} --provenance {output.provenance:q} --log {log:q}"
