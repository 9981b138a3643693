"""Tokens a second and peak memory of every method, against TRL's own trainers on the same rows and the same model.

    python benchmarks/training.py                                     # CPU, minutes
    python benchmarks/training.py --device cuda --size 100m --peak-tflops 989

Likelihood and KTO rows are compared with stock SFTTrainer (nll), pairs with stock DPOTrainer. Each contender runs in a
process of its own, in rounds of all of them: a ratio is taken within a round, and given as median and range over the
rounds. Weights are random and rows are random ids of realistic lengths: speed depends on neither. Tokens are those of
prompt and completion, without padding; a pair has two completions. Memory is the peak above what the loaded model
needs: allocated on a GPU, resident on a CPU.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# hidden, layers, heads, key-value heads, head_dim, intermediate, vocabulary; mean tokens of prompt and completion
SIZES = {
    "tiny": ((128, 4, 4, 2, 32, 256, 512), (28, 28)),
    "2m": ((128, 4, 4, 2, 32, 384, 8192), (32, 96)),
    "100m": ((768, 12, 12, 4, 64, 2048, 32768), (128, 640)),
    "600m": ((1024, 28, 16, 8, 128, 3072, 151936), (128, 900)),
}
BATCH, MICRO = 16, 4
WARM_UP = 2  # steps before the clock starts
SFT, DPO = "TRL SFTTrainer", "TRL DPOTrainer"


def contenders() -> list[str]:
    from deltageom.methods import interface

    return [SFT, DPO, *(name for name in interface.names() if name != "sft_reference")]


def baseline(name: str) -> str:
    from deltageom.methods import interface

    if name in (SFT, DPO):
        return name
    return DPO if interface.load(name).FAMILY in ("preference", "pairwise") else SFT


def make_model(folder: Path, size: str, device: str) -> Any:
    """A Qwen3 of random weights and a tokenizer of as many words, saved; returns the tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary = SIZES[size][0]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=True,
        dtype="bfloat16" if device == "cuda" else "float32",
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t0", unk_token="t0")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    return tokenizer


def make(folder: Path, size: str, device: str) -> None:
    """The model, its tokenizer, rollouts and the base's log-probs of them, as a study would have left them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deltageom.models import VOCABULARY, vocabulary_digest

    tokenizer = make_model(folder / "base", size, device)
    (*_, vocabulary), (prompt, completion) = SIZES[size]
    random = np.random.default_rng(0)
    rows = []
    for problem in range(64):
        start = random.integers(1, vocabulary, length(random, prompt)).tolist()
        for sample in range(4):
            ids = random.integers(1, vocabulary, length(random, completion)).tolist()
            rows.append(
                {
                    "problem_id": f"p{problem}",
                    "sample": sample,
                    "source": "rollout",
                    "prompt_token_ids": start,
                    "token_ids": ids,
                    "token_log_probs": [-1.0] * len(ids),
                    "reward": float(sample % 2),
                }
            )
    table = pa.Table.from_pylist(rows).replace_schema_metadata({VOCABULARY: vocabulary_digest(tokenizer)})
    pq.write_table(table, folder / "rollouts.parquet")
    columns = {"problem_id": pa.string(), "sample": pa.int32()}
    scored = {name: [row[name] for row in rows] for name in columns} | {"base_log_prob": [-1.0] * len(rows)}
    pq.write_table(pa.Table.from_pydict(scored), folder / "reference.parquet")


def length(random: Any, mean: int) -> int:
    """Lognormal, as lengths of solutions are, cut at four times the mean."""
    return int(min(max(random.lognormal(0, 0.6) * mean * 0.84, 4), 4 * mean))


def measure(name: str, folder: Path, size: str, device: str, steps: int) -> dict[str, float]:
    """One contender, in this process: tokens a second and peak memory above the loaded model in MiB."""
    import torch
    from transformers import TrainerCallback

    trainer = build(name, folder, size, device, steps)
    clock: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if device == "cuda":
                torch.cuda.synchronize()
            clock.append(time.perf_counter())
            if state.global_step == WARM_UP and device == "cuda":
                torch.cuda.reset_peak_memory_stats()

    seen: list[float] = []
    for_log = trainer.log

    def log(logs: dict[str, float], *rest: Any) -> None:
        if "loss" in logs:
            seen.append(trainer.state.num_input_tokens_seen)
        for_log(logs, *rest)

    trainer.log = log
    trainer.add_callback(Clock())
    before = _memory(device)
    trainer.train()
    return {
        "tokens_a_second": (seen[-1] - seen[WARM_UP - 1]) / (clock[-1] - clock[WARM_UP - 1]),
        "peak_mib": _peak(device) - before,
    }


def build(name: str, folder: Path, size: str, device: str, steps: int) -> Any:
    """A trainer on the folder's rows: the method's as `training.train` builds it, or TRL's own on the same tokens."""
    import yaml
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from deltageom import lora, models, rows, training
    from deltageom.jobs import TrainSettings
    from deltageom.methods import interface

    config = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
    method_name = {SFT: "sft", DPO: "dpo"}.get(name, name)
    options = dict(config["methods"][method_name])
    if "max_pairs" in options:
        options["max_pairs"] = None
    settings = TrainSettings.model_validate(
        {
            "run": name,
            "method": method_name,
            "options": options,
            "training": config["training"]
            | {"steps": steps + WARM_UP, "batch_size": BATCH, "micro_batch_size": MICRO, "max_length": 100_000},
            "base": config["base"]
            | {"layers": SIZES[size][0][1], "dtype": "bfloat16" if device == "cuda" else "float32"},
            "device": device,
        }
    )
    paths = training.Paths(str(folder / "base"), folder / "rollouts.parquet", folder / "run", folder / "scratch")
    method = interface.load(method_name)
    chosen_options = method.Options.model_validate(options)
    tokenizer = models.load_tokenizer(paths.base, settings.base)
    reference = folder / "reference.parquet"
    dataset, _ = rows.prepare(settings, method, chosen_options, tokenizer, paths.rollouts, reference)
    if name not in (SFT, DPO):
        return training.build_trainer(settings, method, chosen_options, tokenizer, dataset, paths, training.Execution())
    shared = {
        "model": models.load_model(paths.base, settings.base, settings.device),
        "processing_class": tokenizer,
        "peft_config": lora.config(settings.training.lora, settings.base),
    }
    given = training.arguments(settings, paths, training.Execution()) | {"remove_unused_columns": True}
    if name == SFT:
        return SFTTrainer(
            args=SFTConfig(**given), train_dataset=dataset.select_columns(["input_ids", "labels"]), **shared
        )
    tokens = dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    given |= {"loss_type": ["sigmoid"], "disable_dropout": False}

    class Stock(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # token ids already; nothing else is ours

    return Stock(args=DPOConfig(**given), train_dataset=tokens, **shared)


def _memory(device: str) -> float:
    import psutil
    import torch

    return (torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss) / 2**20


def _peak(device: str) -> float:
    import torch

    if device == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def flops_a_token(size: str) -> float:
    """Of a LoRA step: the forward, and the backward to the activations, two a weight each; frozen weights get none.

    Attention scores and the adapters are left out; the head is counted for every token, though prompts skip it.
    """
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary = SIZES[size][0]
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    return 4.0 * (layers * (attention + 3 * hidden * intermediate) + hidden * vocabulary)


def table(found: dict[str, list[dict[str, float]]], size: str, peak_tflops: float | None) -> str:
    head = ["contender", "against", "tokens / s", "ratio (range)", "peak MiB", "ratio (range)"]
    lines = [head + (["of peak"] if peak_tflops else [])]
    for name, rounds in found.items():
        against = baseline(name)
        cells = [name, against if against != name else ""]
        for key, form in (("tokens_a_second", "{:,.0f}"), ("peak_mib", "{:,.0f}")):
            ratios = [one[key] / other[key] for one, other in zip(rounds, found[against], strict=True)]
            cells.append(form.format(statistics.median(one[key] for one in rounds)))
            middle = statistics.median(ratios)
            cells.append("1" if against == name else f"{middle:.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        if peak_tflops:
            rate = statistics.median(one["tokens_a_second"] for one in rounds) * flops_a_token(size)
            cells.append(f"{rate / peak_tflops / 1e12:.1%}")
        lines.append(cells)
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(SIZES), default="2m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help=f"measured, after {WARM_UP} of warm-up")
    parser.add_argument("--only", nargs="*", help="contenders; their baselines are added")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the GPU, to give the achieved fraction of it")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        found = measure(given.contender, given.folder, given.size, given.device, given.steps)
        print("\n" + json.dumps(found))
        return
    names = contenders()
    if given.only:
        names = [name for name in names if name in given.only or name in {baseline(one) for one in given.only}]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), given.size, given.device)
        shared = ["--folder", name, "--device", given.device, "--size", given.size, "--steps", str(given.steps)]
        for round_ in range(given.rounds):
            for contender in names[round_ % len(names) :] + names[: round_ % len(names)]:
                command = [sys.executable, __file__, "--contender", contender, *shared]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{contender} failed:\n{done.stderr}")
                results[contender].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {round_ + 1}, {contender}: {results[contender][-1]}", file=sys.stderr)
    print(table(results, given.size, given.peak_tflops))


if __name__ == "__main__":
    main()
