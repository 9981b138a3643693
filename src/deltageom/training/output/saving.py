"""What a run leaves of its model: the adapter or the whole model at the end, and the adapter at chosen steps."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from deltageom.deltas.folder import MODEL_CONFIG, MODEL_WEIGHTS, WEIGHTS, snapshot
from deltageom.files import whole_file
from deltageom.training import lora, resume

CHECKPOINT_FILES = (MODEL_CONFIG, "generation_config.json", MODEL_WEIGHTS)


class Snapshots(TrainerCallback):
    """Keeps the adapter's weights after each of `steps` in the scratch folder; `publish` puts them into the output's.

    A step's snapshot is on the disk before a checkpoint of that step is, so a training that goes on from a checkpoint
    has every snapshot before it, and writes the later ones again.
    """

    def __init__(self, trainer: Any, steps: Sequence[int], scratch: Path) -> None:
        self.trainer = trainer
        self.steps = steps
        self.scratch = scratch

    def check(self, resumed: Path | None) -> None:
        """Raises UserError if one that the training before `resumed`, a checkpoint, has kept is gone."""

        def places(done: int) -> list[Path]:
            return [snapshot(self.scratch, step) for step in self.steps if step <= done]

        resume.check_kept(places, resumed, self.scratch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if state.global_step in self.steps and self.trainer.is_world_process_zero():
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            self.scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.scratch) as name:
                _save_adapter(model, Path(name))
                _put(Path(name, WEIGHTS), snapshot(self.scratch, state.global_step))

    def publish(self, output: Path) -> dict[str, Any]:
        for step in self.steps:
            _put(snapshot(self.scratch, step), snapshot(output, step))
        return {}


def write_model(trainer: Any, output: Path, scratch: Path) -> None:
    """PEFT's two files, or transformers' three, each in its place once it is whole."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        if isinstance(model, PreTrainedModel):
            model.save_pretrained(folder, max_shard_size="1000GB")
            files: tuple[str, ...] = CHECKPOINT_FILES
        else:
            _save_adapter(model, folder)
            files = lora.FILES
            lora.sort_targets(folder)
        for file in files:
            _put(folder / file, output / file)


def _save_adapter(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, save_embedding_layers=False)  # "auto" asks the hub about the base


def _put(made: Path, place: Path) -> None:
    with whole_file(place) as aside:
        shutil.copyfile(made, aside)
