"""The LoRA adapter of a run: its configuration, its initial A, its scale, its files."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from deltageom.deltas.folder import CONFIG, WEIGHTS
from deltageom.errors import UserError
from deltageom.files import write_json
from deltageom.study.schema import Base, Lora
from deltageom.study.settings import TrainSettings

FILES = (CONFIG, WEIGHTS)
Model = Any  # a PeftModel; transformers and peft type it in part


def config(lora: Lora, base: Base) -> LoraConfig:
    """PEFT's. A regular expression, which names modules from `layers.` on, may stand behind any prefix."""
    targets = lora.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=rf"(?:.*\.)?(?:{targets})" if isinstance(targets, str) else targets,
        revision=base.revision,
    )


def layers(model: Model) -> dict[str, Any]:
    """Each adapted module by its name, 'layers.3.self_attn.q_proj'."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and (match := re.search(r"layers\.\d+\.", name)):
            found[name[match.start() :]] = module
    return found


def prepare(model: Model, settings: TrainSettings) -> None:
    """A new adapter as every run begins with it. Raises UserError as `check` does."""
    check(model, settings)
    keep_input_dtype(model)
    initialise(model, settings.training.lora.init_seed)


def check(model: Model, settings: TrainSettings) -> None:
    """Raises UserError where PEFT has adapted other modules than the study names: files are named after those."""
    found, named = set(layers(model)), set(settings.training.lora.targets(settings.base))
    if found != named:
        what, which = ("lacks", named - found) if named - found else ("also has", found - named)
        raise UserError(
            f"run {settings.run!r}: lora.target_modules names {len(named)} modules, but {settings.base.model} {what} "
            f"{', '.join(sorted(which)[:4])}: correct target_modules, or base.modules"
        )


def keep_input_dtype(model: Model) -> None:
    """No float32 copy of each adapted module's input, which autocast would only turn back into bfloat16."""
    for module in layers(model).values():
        module.cast_input_dtype_enabled = False


@torch.no_grad()
def initialise(model: Model, seed: int) -> None:
    """Draw each A anew from a generator of `seed` and the module's name alone; B stays 0.

    In float32 on the CPU, from PEFT's own distribution (kaiming_uniform with a = sqrt 5): so A depends on no
    device, dtype, method, or order of modules.
    """
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        weight: Any = module.lora_A["default"].weight
        initial = torch.empty(weight.shape, dtype=torch.float32)
        torch.nn.init.kaiming_uniform_(initial, a=math.sqrt(5), generator=generator)
        weight.copy_(initial)


@torch.no_grad()
def delta_norm(model: Model) -> float:
    """The Frobenius norm of the whole delta, all modules stacked: sum of scale^2 tr((B^T B)(A A^T)), in float64."""
    squares = []
    for module in layers(model).values():
        a, b = module.lora_A["default"].weight.double(), module.lora_B["default"].weight.double()
        squares.append(module.scaling["default"] ** 2 * ((b.T @ b) * (a @ a.T)).sum())
    return math.sqrt(max(float(torch.stack(squares).sum()), 0.0))


@torch.no_grad()
def scale(model: Model, factor: float) -> None:
    """The delta times `factor`, by B alone."""
    for module in layers(model).values():
        module.lora_B["default"].weight.mul_(factor)


def sort_targets(folder: Path) -> None:
    """PEFT keeps the targets as a set, whose order changes from process to process: equal runs have equal files."""
    content = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
    if isinstance(content["target_modules"], list):
        content["target_modules"].sort()
    write_json(folder / FILES[0], content)
