"""Where the files of a replicate lie: of each stage in the folder of its owner, see sharing.py."""

from collections.abc import Iterable
from pathlib import Path

from deltageom.study import sharing
from deltageom.study.schema import TOY_BASE

MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
CHECKPOINT_FILES = ("config.json", "generation_config.json", "model.safetensors")


class Places:
    """The files of one replicate, as paths from the project's folder."""

    def __init__(self, view: sharing.View) -> None:
        self.view, self.study = view, view.study
        self.results = f"results/{view.study.study}"

    def at(self, stage: str) -> str:
        """The folder of a stage's files: of the study, of one that it extends, or of another replicate."""
        return f"results/{self.view.owners.get(stage, self.study.study)}"

    def told(self, stage: str) -> str:
        """What the job of a stage is told, as JSON: the owner's has the same, else it would not be the owner."""
        return self.view.stages[stage].told

    def shared(self) -> dict[str, str]:
        """By stage the folder of those whose files lie elsewhere, for commands that read many."""
        return {stage: self.at(stage) for stage in self.view.owners if self.at(stage) != self.results}

    def earlier(self, stage: str, place: str) -> list[str]:
        """Where the stage's job finds what others have made of the same, the nearest first."""
        chain = self.view.chain
        return [f"results/{name}/{place}" for name in reversed(chain[: chain.index(self.view.owners[stage])])]

    def problems(self, name: str) -> str:
        return f"{self.at(f'problems/{name}')}/problems/{name}.jsonl"

    def decontamination(self, file: str) -> str:
        return f"{self.at('decontaminate')}/decontamination/{file}"

    def trained_on(self) -> str:
        """The problems that are sampled and trained on."""
        on = sharing.trained_on(self.study)
        return self.decontamination("train.jsonl") if on == "decontaminate" else self.problems("train")

    def completions(self) -> str:
        return f"{self.at(sharing.completions(self.study))}/rollouts/completions.parquet"

    def rollouts(self, run: str | None = None) -> str:
        """What a run is trained on: the study's rollouts, or the samples of the online run that it names."""
        of = self.study.runs[run].training.rollouts_of if run else None
        if of:
            return f"{self.run(of)}/samples.parquet"
        return f"{self.at('reward')}/rollouts/rollouts.parquet"

    def reference(self, file: str) -> str:
        return f"{self.at('reference')}/reference/{file}.parquet"

    def mismatched(self, run: str) -> list[str]:
        """The base's log-probs that a run's KL term reads; none where it has no such term."""
        return [f"{self.at(stage)}/{stage}.parquet" for stage in sharing.mismatched(self.study.runs[run])]

    def model(self, name: str) -> str:
        """Folder or hub id of `base`, `teacher` or another model."""
        if name == "teacher":
            return f"{self.at('teacher')}/teacher"
        if name == "base":
            return f"{self.at('pretrain')}/base" if self.study.base.model == TOY_BASE else self.study.base.model
        return name

    def model_files(self, name: str) -> list[str]:
        """The files of a model that a job must wait for or that may change; none for a hub model."""
        path = self.model(name)
        if name == "teacher" or (name == "base" and self.study.base.model == TOY_BASE):
            return [f"{path}/{file}" for file in MODEL_FILES]
        return sorted(str(file) for kind in ("*.json", "*.safetensors") for file in Path(path).glob(kind))

    def base_arguments(self) -> list[str]:
        """The base, which a checkpoint's delta is measured from, and which runs may be held against."""
        revision = self.study.base.revision
        return ["--base", self.model("base"), *(["--revision", revision] if revision else [])]

    def run(self, name: str) -> str:
        return f"{self.at(sharing.run_stage(self.study, name))}/runs/{name}"

    def adapter(self, run: str) -> list[str]:
        """The files of a run's adapter, or of its whole model where it has none; none for the base."""
        if run == "base":
            return []
        whole = run in self.study.runs and self.study.runs[run].training.adapter == "none"
        return [f"{self.run(run)}/{file}" for file in (CHECKPOINT_FILES if whole else ADAPTER_FILES)]

    def snapshots(self, run: str) -> list[str]:
        """The files of a run's adapter as it was after each of the steps that it names."""
        steps = self.study.runs[run].training.snapshots or []
        return [f"{self.run(run)}/snapshots/{step}.safetensors" for step in steps]

    def adapters(self, runs: Iterable[str]) -> list[str]:
        return [file for run in runs for file in self.adapter(run)]

    def adapter_argument(self, model: str) -> list[str]:
        return [] if model == "base" else ["--adapter", self.run(model)]

    def base_gradient(self, run: str) -> list[str]:
        """The files of a run's gradient at the base, which are those of an adapter."""
        folder = f"{self.at(f'base_gradient/{run}')}/base_gradient/{run}"
        return [f"{folder}/{file}" for file in ADAPTER_FILES]

    def hidden_states(self, model: str) -> str:
        return f"{self.at(f'hidden_states/{model}')}/hidden/{model}.safetensors"

    def answers(self, model: str, benchmark: str) -> str:
        return f"{self.at(f'evaluate/{model}')}/evaluation/{model}/{benchmark}.jsonl"

    def graded(self, model: str, benchmark: str) -> str:
        return f"{self.at(f'grade/{model}')}/graded/{model}/{benchmark}.jsonl"

    def geometry(self, module: str) -> str:
        return f"{self.at('geometry')}/geometry/{module}.json"

    def spectrum(self, module: str) -> str:
        return f"{self.at('base_spectrum')}/base_spectrum/{module}.safetensors"
