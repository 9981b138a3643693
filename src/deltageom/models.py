"""Load the base model and its tokenizer: thin wrappers that turn a missing folder, hub or GPU into one clear error."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from deltageom.errors import UserError
from deltageom.schema import Base, Device, Prompt

# A PreTrainedModel, PEFT-wrapped or not, and a Tokenizer: transformers types neither for such use.
Model = Any
Tokenizer = Any


def load_model(source: str, base: Base, device: Device) -> Model:
    """The model at `source` (a folder or hub id) in the study's dtype, in eval mode on `device`.

    Raises UserError if it cannot be loaded or there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but no CUDA GPU is visible here: set `device: cpu` or run on a GPU node")
    model: Model = _from_pretrained(
        AutoModelForCausalLM,
        source,
        base,
        dtype=getattr(torch, base.dtype),
        attn_implementation=base.attention,
    )
    model.to(device)
    return model.eval()


def check_layers(model: Model, base: Base) -> None:
    """The study names the layers before there is a model. Raises UserError if it named others than there are."""
    layers = model.config.get_text_config().num_hidden_layers
    if layers != base.layers:
        raise UserError(f"base.layers is {base.layers}, but {base.model} has {layers} layers: correct the study")


def load_adapter(model: Model, folder: Path) -> Model:
    """The model with the adapter beside its weights, never merged: base and runs take one path."""
    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the adapter {folder}: {error}") from error


def load_tokenizer(source: str, base: Base) -> Tokenizer:
    """The tokenizer at `source`. Raises UserError if it has no chat template or no end-of-sequence token."""
    tokenizer: Tokenizer = _from_pretrained(AutoTokenizer, source, base)
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of {source} has no chat template: prompts cannot be built without one")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {source} has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def conversation(prompt: Prompt, question: str) -> list[dict[str, str]]:
    """The messages that put a question to a model."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": prompt.template.format(question=question)}]


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, question: str) -> list[int]:
    """Token ids of the question in the study's prompt and the chat template, up to where the assistant speaks."""
    messages = conversation(prompt, question)
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def _from_pretrained(factory: Any, source: str, base: Base, **options: Any) -> Any:
    is_path = source.startswith((".", "/", "~")) or Path(source).is_dir()
    if is_path and not (Path(source) / "config.json").is_file():
        raise UserError(f"{source} is no model folder: it has no config.json")
    try:
        return factory.from_pretrained(
            source, revision=base.revision, trust_remote_code=base.trust_remote_code, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot load {source}: {error}") from error
