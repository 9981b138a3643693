"""Runs' deltas in one loaded base model, each times a weight: points of the space that they span, without merging."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer

from deltageom.deltas.folder import is_checkpoint
from deltageom.models.load import Model, load_adapter, load_model, load_run
from deltageom.study.schema import Base, Device

Weights = dict[str, torch.Tensor]


def everywhere(_: str) -> bool:
    return True


class WeightedDeltas:
    """The base and the deltas that `add` has brought, by their names; `weigh` gives the model at a point."""

    def __init__(self, base: str, settings: Base, device: Device) -> None:
        self.base, self.settings, self.device = base, settings, device
        self.model = load_model(base, settings, device)
        # by their names before PEFT wraps the modules, which keeps the tensors and renames them
        self.parameters: Weights = dict(self.model.named_parameters())
        self.start: Weights = {}  # the base's own values, once a checkpoint is about to move them
        self.checkpoints: dict[str, Weights] = {}
        self.adapters: list[str] = []

    def add(self, name: str, folder: Path) -> None:
        if not is_checkpoint(folder):
            self.model = load_adapter(self.model, folder, name)
            self.adapters.append(name)
            return
        run = load_run(self.base, self.settings, self.device, folder)
        self.checkpoints[name] = dict(run.named_parameters())
        self.start = self.start or {key: value.detach().clone() for key, value in self.parameters.items()}

    def remove(self, name: str) -> None:
        if name in self.checkpoints:
            del self.checkpoints[name]
            return
        self.adapters.remove(name)
        if self.adapters:
            self.model.delete_adapter(name)
        else:  # PEFT takes no adapter where it has none left
            self.model = self.model.unload()

    @contextmanager
    def beside(self, name: str, folder: Path | None) -> Iterator[None]:
        """With one delta more for a while; none for the base itself, whose delta is zero whatever its weight."""
        if folder:
            self.add(name, folder)
        yield
        if folder:
            self.remove(name)

    @torch.no_grad()
    def weigh(self, weights: Mapping[str, float], within: Callable[[str], bool] = everywhere) -> Model:
        """The model with the sum of weight * delta: adapters by their scales, checkpoints in every parameter.

        Where a module's name, of an adapter, or a parameter's, of a checkpoint, is not `within`, the base stays as it
        is. Parameters are computed in float32 from the base's own values, never from an earlier point's: weight 0
        gives the base's exactly, weight 1 the checkpoint's up to one rounding.
        """
        for name, start in self.start.items():
            moving = self.checkpoints if within(name) else {}
            moves = [weights[run] * (self.checkpoints[run][name].float() - start) for run in moving]
            self.parameters[name].copy_(sum(moves, start.float()))
        if self.adapters:
            self.model.base_model.set_adapter(self.adapters)
        for name, layer in self._adapted():
            for adapter in self.adapters:
                layer.set_scale(adapter, weights[adapter] if within(name) else 0.0)
        return self.model

    @torch.no_grad()
    def squared_norm(self, run: str, within: Callable[[str], bool] = everywhere) -> float:
        """The squared Frobenius norm of the part of a run's delta that is `within`, in float64."""
        total = 0.0
        for name, start in self.start.items():
            if run in self.checkpoints and within(name):
                total += float((self.checkpoints[run][name].double() - start.double()).square().sum())
        for name, layer in self._adapted():
            if run in layer.lora_A and within(name):
                a, b = (side[run].get_parameter("weight").double() for side in (layer.lora_A, layer.lora_B))
                rank = math.sqrt(layer.r[run]) if layer.use_rslora.get(run) else layer.r[run]
                total += float((b.T @ b * (a @ a.T)).sum()) * (layer.lora_alpha[run] / rank) ** 2
        return total

    def _adapted(self) -> Iterator[tuple[str, LoraLayer]]:
        return ((name, layer) for name, layer in self.model.named_modules() if isinstance(layer, LoraLayer))
