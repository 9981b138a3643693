rule hidden_states:
    """Every layer's hidden states of the CKA prompts, from the base or a run."""
    input:
        base=lambda w: of("hidden_states/{model}", w).model_files("base"),
        adapter=lambda w: of("hidden_states/{model}", w).adapter(w.model),
        problems=lambda w: of("hidden_states/{model}", w).problems(
            STUDY.measures.cka.benchmark
        ),
        answers=lambda w: base_answers(of("hidden_states/{model}", w)),
    output:
        hidden="results/{owner}/hidden/{model}.safetensors",
        provenance="results/{owner}/provenance/hidden_states/{model}.json",
    log:
        "results/{owner}/logs/hidden_states/{model}.log",
    benchmark:
        "results/{owner}/benchmarks/hidden_states/{model}.tsv"
    wildcard_constraints:
        owner=owners("hidden_states"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *code("hidden-states"),
        settings=lambda w: of("hidden_states/{model}", w).told(
            f"hidden_states/{w.model}"
        ),
        base=lambda w: of("hidden_states/{model}", w).model("base"),
        adapter=lambda w: of("hidden_states/{model}", w).adapter_argument(w.model),
        answers=lambda _, input: ["--answers", input.answers] if input.answers else [],
    shell:
        "deltageom hidden-states --settings {params.settings:q} --base {params.base:q} {params.adapter:q}"
        " --problems {input.problems:q} {params.answers:q} --output {output.hidden:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule cka:
    """Linear CKA of a run with each of the runs after it, layer by layer, biased and debiased."""
    input:
        a=lambda w: of("cka", w).hidden_states(w.a),
        b=lambda w: [of("cka", w).hidden_states(run) for run in runs_after(w.a)],
    output:
        cka="results/{owner}/cka/{a}.csv",
        provenance="results/{owner}/provenance/cka/{a}.json",
    log:
        "results/{owner}/logs/cka/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/cka/{a}.tsv"
    wildcard_constraints:
        owner=owners("cka"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        *measure_code("cka"),
        inputs=lambda _, input: named("--input", {"a": input.a}),
        runs=lambda w: named(
            "--run",
            {run: of("cka", w).hidden_states(run) for run in runs_after(w.a)},
        ),
    shell:
        "deltageom measure cka {params.inputs:q} {params.runs:q} --output {output.cka:q}"
        " --provenance {output.provenance:q} --log {log:q}"
