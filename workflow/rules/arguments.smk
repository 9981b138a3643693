# What rules read and are told, where that takes more than a line.
def benchmark_arguments(places):
    return named("--benchmark", {name: places.problems(name) for name in BENCHMARKS})


def dataset_of(name):
    """The data set that is written as problems/<name>.jsonl: a benchmark's, or the training prompts'."""
    return STUDY.problems if name == "train" else STUDY.benchmarks[name].dataset


def dataset_file(wildcards):
    """A local data set's file, so that an edit of it is seen; none for the toy's world and the hub."""
    dataset = dataset_of(wildcards.dataset)
    return dataset.path if dataset.source == "file" else []


def card_settings(owner, study):
    """The card names the study that the rollouts are of."""
    return settings(
        study=owner,
        problems=study.problems,
        rollouts=study.rollouts,
        prompt=study.prompt,
        base=study.base,
        grader=study.grading.grader("train"),
    )


def method_code(run, command="train"):
    """As `code`, of what the run's method adds to the command's own."""
    common = code(command)
    own = code(command, f"methods.{STUDY.runs[run].method}")
    return [file for file in own if file not in common]


def method_needs(run, what):
    return what in methods.load(STUDY.runs[run].method).needs


def train_inputs(wildcards):
    """What only some runs read: the base's log-probs, also of mismatched completions, its held-out samples, the run whose norm is matched."""
    places = of("train/{run}", wildcards)
    training = STUDY.runs[wildcards.run].training
    files = {}
    if method_needs(wildcards.run, "base"):
        files["reference"] = places.reference("log_probs")
    files["mismatched"] = places.mismatched(wildcards.run)
    if training.kl_every:
        files["held_out"] = places.reference("held_out")
    if training.match_norm:
        files["match"] = f"{places.run(training.match_norm.run)}/selection.json"
    return files


def online_inputs(wildcards):
    """The base, what is sampled, and the teacher's files where the method learns its distribution."""
    places = of("train/{run}", wildcards)
    files = train_inputs(wildcards) | {
        "base": places.model_files("base"),
        "problems": places.trained_on(),
    }
    if methods.load(STUDY.runs[wildcards.run].method).teacher:
        files["teacher"] = places.model_files(STUDY.rollouts.generator)
    return files


def online_arguments(wildcards, input):
    """As of a run on rollouts, with the teacher's place."""
    places = of("train/{run}", wildcards)
    asked = methods.load(STUDY.runs[wildcards.run].method).teacher
    teacher = ["--teacher", places.model(STUDY.rollouts.generator)] if asked else []
    return train_arguments(wildcards, input) + teacher


def gradient_inputs(wildcards):
    """The base's log-probs, also of mismatched completions, where the run's loss needs them."""
    places = of("base_gradient/{run}", wildcards)
    needs = method_needs(wildcards.run, "base")
    files = {"reference": places.reference("log_probs")} if needs else {}
    return files | {"mismatched": places.mismatched(wildcards.run)}


def adapted_from(a):
    """The run and those after it by name, without those that have no adapter."""
    return [run for run in (a, *runs_after(a)) if run not in WHOLE_RUNS]


def train_arguments(wildcards, input):
    arguments = []
    if "reference" in input.keys():
        arguments += ["--reference", input.reference]
    if input.mismatched:
        arguments += ["--mismatched", *input.mismatched]
    if "held_out" in input.keys():
        arguments += ["--held-out", input.held_out]
    if "match" in input.keys():
        arguments += ["--match", input.match]
    return arguments


def answers_on_paths(wildcards):
    """The graded answers of a run and of the runs after it, by the names that the measure has for them."""
    places, benchmark = (
        of("held_out_paths", wildcards),
        STUDY.measures.held_out_paths.benchmark,
    )
    own = {"answers": places.graded(wildcards.a, benchmark)}
    return own | {
        f"answers_of_{run}": places.graded(run, benchmark)
        for run in runs_after(wildcards.a)
    }


def answers_from_base(wildcards):
    """The graded answers of a run and of the base, by the names that the measure has for them."""
    places, benchmark = (
        of("held_out_from_base", wildcards),
        STUDY.measures.held_out_paths.benchmark,
    )
    return {
        "answers": places.graded(wildcards.run, benchmark),
        "answers_of_base": places.graded("base", benchmark),
    }


def module_arguments(layer):
    return [
        argument
        for name in MODULES
        for argument in ("--module", f"layers.{layer}.{name}")
    ]


def base_spectra(wildcards):
    """The base's singular triplets of a layer's modules, if the study asks for them."""
    return [
        of("geometry", wildcards).spectrum(f"layers.{wildcards.layer}.{module}")
        for module in MODULES
        if BASE_RANK
    ]


def spectra_arguments(spectra):
    return ["--spectra", folder(spectra), "--base-rank", BASE_RANK] if spectra else []


def base_answers(places):
    """The base's answers to the CKA prompts, if the hidden states are those of answers."""
    wanted = STUDY.measures.cka
    if wanted.pooling != "completion":
        return []
    return places.graded("base", wanted.benchmark)


def models_on_plane(wildcards):
    """Where the answers of the plane's three models are, by the names that the measure has for them."""
    places, wanted = of("loss_plane", wildcards), STUDY.measures.loss_plane
    return {
        f"answers_of_{model}": places.graded(model, wanted.benchmark)
        for model in wanted.models
    }
