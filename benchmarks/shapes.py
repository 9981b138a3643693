"""Qwen3 shapes of random weights, and the floating-point operations that a token takes in each."""

import json
from pathlib import Path
from typing import Any

# hidden, layers, heads, key-value heads, head_dim, intermediate, vocabulary; mean tokens of prompt and completion
SIZES = {
    "tiny": ((128, 4, 4, 2, 32, 256, 512), (28, 28)),
    "2m": ((128, 4, 4, 2, 32, 384, 8192), (32, 96)),
    "100m": ((768, 12, 12, 4, 64, 2048, 32768), (128, 640)),
    "600m": ((1024, 28, 16, 8, 128, 3072, 151936), (128, 900)),
    "4b": ((2560, 36, 32, 8, 128, 9728, 151936), (128, 1920)),  # Qwen3-4B's
}


def layers(size: str) -> int:
    return SIZES[size][0][1]


def vocabulary(size: str) -> int:
    return SIZES[size][0][-1]


def dtype(device: str) -> str:
    return "bfloat16" if device == "cuda" else "float32"


def multiplied_weights(size: str) -> int:
    """N: the weights that a token is multiplied with, the head's among them; embeddings are looked up."""
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary = SIZES[size][0]
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    return layers * (attention + 3 * hidden * intermediate) + hidden * vocabulary


def flops_a_token(size: str, forward_twice: bool = False) -> float:
    """Of a LoRA step: 2 N of the forward and 2 N of the backward to the activations; frozen weights get no gradient.

    `forward_twice` adds the 2 N of gradient checkpointing's second forward. Attention scores and the adapters are
    left out; the head is counted for every token, though prompts skip it.
    """
    return (6.0 if forward_twice else 4.0) * multiplied_weights(size)


def configuration(size: str, device: str) -> Any:
    from transformers import Qwen3Config

    hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary = SIZES[size][0]
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
        dtype=dtype(device),
    )


def random_model(size: str, device: str, attention: str = "sdpa") -> Any:
    """The same random weights on every call, made on the device itself: none are written or read."""
    import torch
    from transformers import GenerationConfig, Qwen3ForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM._from_config(
            configuration(size, device), dtype=getattr(torch, dtype(device)), attn_implementation=attention
        )
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    return model.to(device).eval()


def save_tokenizer(folder: Path, size: str) -> Any:
    """Writes the model's configuration and a tokenizer of as many words as its vocabulary, and returns that."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary(size))}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t0", unk_token="t0")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    configuration(size, "cpu").save_pretrained(folder)
    return tokenizer


def save(folder: Path, size: str, device: str) -> None:
    """Writes the model and its tokenizer, for what reads a folder."""
    save_tokenizer(folder, size)
    random_model(size, device).save_pretrained(folder)


def save_adapter(folder: Path, size: str, rank: int = 32) -> None:
    """Writes a random LoRA of the attention's four matrices, neither factor 0."""
    import torch
    from safetensors.torch import save_file

    hidden, layers, heads, kv_heads, head_dim, *_ = SIZES[size][0]
    wide, narrow = heads * head_dim, kv_heads * head_dim
    outputs_inputs = {
        "q_proj": (wide, hidden),
        "k_proj": (narrow, hidden),
        "v_proj": (narrow, hidden),
        "o_proj": (hidden, wide),
    }
    generator, tensors = torch.Generator().manual_seed(1), {}
    for layer in range(layers):
        for name, (outputs, inputs) in outputs_inputs.items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora"
            tensors[f"{key}_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{key}_B.weight"] = torch.randn(outputs, rank, generator=generator) * 1e-3
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    config |= {"base_model_name_or_path": "random", "target_modules": list(outputs_inputs)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
