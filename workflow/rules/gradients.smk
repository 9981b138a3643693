rule base_gradient:
    """The gradient of a run's loss at the base, on its first global batches, as the adapter of a step along it."""
    input:
        unpack(gradient_inputs),
        base=lambda w: of("base_gradient/{run}", w).model_files("base"),
        rollouts=lambda w: of("base_gradient/{run}", w).rollouts(w.run),
    output:
        model=expand(
            "results/{{owner}}/base_gradient/{{run}}/{file}", file=ADAPTER_FILES
        ),
        provenance="results/{owner}/provenance/base_gradient/{run}.json",
    log:
        "results/{owner}/logs/base_gradient/{run}.log",
    benchmark:
        "results/{owner}/benchmarks/base_gradient/{run}.tsv"
    wildcard_constraints:
        owner=owners("base_gradient"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=memory(3000 if not GPUS else 64000),
        runtime=60,
    params:
        *code("base-gradient"),
        method=lambda w: method_code(w.run, "base-gradient"),
        settings=lambda w: of("base_gradient/{run}", w).told(f"base_gradient/{w.run}"),
        base=lambda w: of("base_gradient/{run}", w).model("base"),
        others=train_arguments,
        folder=lambda _, output: folder(output.model),
        scratch=lambda w: f"results/{w.owner}/shards/base_gradient-{w.run}",
    shell:
        "deltageom base-gradient --settings {params.settings:q} --base {params.base:q} --rollouts {input.rollouts:q}"
        " {params.others:q} --output {params.folder:q} --scratch {params.scratch:q}"
        " --gpus {resources.gpu} --provenance {output.provenance:q} --log {log:q}"


rule gradients:
    """The gradient of a run at the base beside its trained delta, and both beside those of each of the runs after it."""
    input:
        gradients=lambda w: [
            file
            for run in adapted_from(w.a)
            for file in of("gradients", w).base_gradient(run)
        ],
        adapters=lambda w: of("gradients", w).adapters(adapted_from(w.a)),
    output:
        rows="results/{owner}/gradients/{a}.csv",
        provenance="results/{owner}/provenance/gradients/{a}.json",
    log:
        "results/{owner}/logs/gradients/{a}.log",
    benchmark:
        "results/{owner}/benchmarks/gradients/{a}.tsv"
    wildcard_constraints:
        owner=owners("gradients"),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        *measure_code("gradients"),
        inputs=lambda w: named(
            "--input",
            {
                run: folder(of("gradients", w).base_gradient(run))
                for run in adapted_from(w.a)
            },
        ),
        runs=lambda w: run_arguments(of("gradients", w), adapted_from(w.a)),
    shell:
        "deltageom measure gradients {params.inputs:q} {params.runs:q} --output {output.rows:q}"
        " --provenance {output.provenance:q} --log {log:q}"
