rule hidden_states:
    """Every layer's hidden states of the CKA prompts, from the base or a run."""
    input:
        base=model_files("base"),
        adapter=adapter_of,
        problems=f"{RESULTS}/problems/{STUDY.measures.cka.benchmark}.jsonl",
        code=code("hidden-states"),
    output:
        hidden=f"{RESULTS}/hidden/{{model}}.safetensors",
        provenance=f"{RESULTS}/provenance/hidden_states/{{model}}.json",
    log:
        f"{RESULTS}/logs/hidden_states/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/hidden_states/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        settings=lambda _: settings(
            cka=STUDY.measures.cka,
            prompt=STUDY.prompt,
            base=STUDY.base,
            device=STUDY.device,
        ),
        base=lambda _: model_path("base"),
        adapter=adapter_argument,
    shell:
        "deltageom hidden-states --settings {params.settings:q} --base {params.base:q} {params.adapter:q}"
        " --problems {input.problems:q} --output {output.hidden:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule cka:
    """Linear CKA of a run with each of the runs after it, layer by layer, biased and debiased."""
    input:
        a=f"{RESULTS}/hidden/{{a}}.safetensors",
        b=lambda w: [f"{RESULTS}/hidden/{run}.safetensors" for run in runs_after(w.a)],
        code=code("cka"),
    output:
        cka=f"{RESULTS}/cka/{{a}}.csv",
        provenance=f"{RESULTS}/provenance/cka/{{a}}.json",
    log:
        f"{RESULTS}/logs/cka/{{a}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cka/{{a}}.tsv"
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        b=lambda w: named(
            "--b",
            {run: f"{RESULTS}/hidden/{run}.safetensors" for run in runs_after(w.a)},
        ),
    shell:
        "deltageom cka --a {input.a:q} {params.b:q} --output {output.cka:q}"
        " --provenance {output.provenance:q} --log {log:q}"
