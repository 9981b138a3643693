"""Load the base model and its tokenizer: thin wrappers that turn a missing folder, hub or GPU into one clear error."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from deltageom.deltas.folder import is_checkpoint
from deltageom.deltas.tensors import ModelTensors
from deltageom.errors import UserError
from deltageom.hardware import cuda, memory
from deltageom.models.prompts import Tokenizer
from deltageom.study import base_config
from deltageom.study.schema import Base, Device

# A PreTrainedModel, PEFT-wrapped or not, and a Tokenizer: transformers types neither for such use.
Model = Any


def load_model(source: str, base: Base, device: Device) -> Model:
    """The model at `source` (a folder or hub id) in the study's dtype, in eval mode on `device`.

    Raises UserError if it cannot be loaded or there is no such device.
    """
    return _causal_lm(source, base, device).to(device).eval()


def load_run(base_path: str, base: Base, device: Device, folder: Path | None) -> Model:
    """The base itself (`folder` None), the base with a run's adapter, or the checkpoint of a run without one.

    Each in the study's dtype and by the base's configuration, so that base and runs take one path; an adapter stays
    beside the weights, never merged. Raises UserError for a folder that is neither, a checkpoint whose tensors are
    not the base's in name and shape, and for what load_model does.
    """
    if folder is None:
        return load_model(base_path, base, device)
    if is_checkpoint(folder):
        return _load_checkpoint(base_path, base, device, folder)
    return load_adapter(load_model(base_path, base, device), folder)


def check_layers(model: Model, base: Base) -> None:
    """The study names the layers before there is a model. Raises UserError if it named others than there are."""
    base_config.check_layers(base, model.config.get_text_config().num_hidden_layers)


def autocast(model: Model) -> torch.autocast:
    """One arithmetic for every pass through a bfloat16 model: products in bfloat16, as the trainers compute them.

    Without it PEFT multiplies an adapter's float32 factors in float32, and evaluation would differ from training.
    """
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)


def load_adapter(model: Model, folder: Path, name: str = "default") -> Model:
    """The model with the adapter beside its weights, and beside those that it already has; never merged."""
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name)
            return model.eval()
        return PeftModel.from_pretrained(model, folder, adapter_name=name).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the adapter {folder}: {error}") from error


def load_tokenizer(source: str, base: Base) -> Tokenizer:
    """The tokenizer at `source`. Raises UserError if it has no chat template or no end-of-sequence token, and for the
    base if it has other layers than the study says: commands ask before they generate.
    """
    if source == base.model:
        load_configuration(source, base)
    tokenizer: Tokenizer = _from_pretrained(AutoTokenizer, source, base)
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of {source} has no chat template: prompts cannot be built without one")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {source} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_generation_config(source: str, base: Base) -> Any:
    """The model's own, or transformers' default where it has none."""
    options: dict[str, Any] = {"revision": base.revision} if base.revision else {}
    try:
        return GenerationConfig.from_pretrained(source, **options)
    except OSError:
        return GenerationConfig()


def context_length(source: str, base: Base) -> int:
    """Tokens that the model's positions reach. Raises UserError if its configuration cannot be loaded."""
    config = load_configuration(source, base)
    return int(config.get_text_config().max_position_embeddings)


def _load_checkpoint(base_path: str, base: Base, device: Device, folder: Path) -> Model:
    model, found = _causal_lm(
        str(folder),
        base,
        device,
        config=load_configuration(base_path, base),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # transformers would leave such tensors random: they are named below instead
    )
    wrong = [
        *(f"{name} is {tuple(here)}, not {tuple(wanted)}" for name, here, wanted in sorted(found["mismatched_keys"])),
        *(f"{name} is missing" for name in sorted(found["missing_keys"])),
        *(f"{name} is none of the base's" for name in sorted(found["unexpected_keys"])),
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{folder}: no checkpoint of the base {base_path}: {'; '.join(wrong[:3])}{more}")
    return model.to(device).eval()


def _causal_lm(source: str, base: Base, device: Device, config: Any = None, **options: Any) -> Any:
    cuda.check_device(device)
    config = config or load_configuration(source, base)
    weights = memory.dtype_bytes(base.dtype) * _parameters(source, base, config)
    keys = "base.model, or base.dtype if it is float32; or lower execution.jobs_per_gpu"
    memory.check({"weights": weights}, *memory.free_memory(device), f"loading {source}", keys)
    return _from_pretrained(
        AutoModelForCausalLM,
        source,
        base,
        config=config,
        dtype=getattr(torch, base.dtype),
        attn_implementation=base.attention,
        **options,
    )


def load_configuration(source: str, base: Base) -> Any:
    """The model's. Raises UserError if it cannot be loaded, or is the base's and has other layers than the study."""
    config = _from_pretrained(AutoConfig, source, base)
    if source == base.model:
        base_config.check_layers(base, getattr(config.get_text_config(), "num_hidden_layers", None))
    return config


def _parameters(source: str, base: Base, config: Any) -> int:
    """Numbers in a model's weights, by its files where they are on this machine, else by its shape; 0 if unknown."""
    folder = base_config.folder(source, base.revision)
    if folder:
        with suppress(UserError):  # a damaged file is the loader's to explain
            stored = ModelTensors(folder)
            tied = getattr(config.get_text_config(), "tie_word_embeddings", False)
            names = (name for name in stored.names if not (tied and name == "lm_head.weight"))
            return sum(math.prod(stored.shape(name)) for name in names)
    sizes = memory.sizes(config)
    return sizes.parameters() if sizes else 0


def _from_pretrained(factory: Any, source: str, base: Base, **options: Any) -> Any:
    is_path = source.startswith((".", "/", "~")) or Path(source).is_dir()
    if is_path and not (Path(source) / "config.json").is_file():
        raise UserError(f"{source} is no model folder: it has no config.json")
    try:
        return factory.from_pretrained(
            source, revision=base.revision, trust_remote_code=base.trust_remote_code, **options
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        hub = "" if is_path else "; without network, name a folder that holds the model instead of a hub id"
        raise UserError(f"cannot load {source}: {error}{hub}") from error
