"""Tokens a second of the rollouts job against the bare engine on the same prompts, and of one engine against the other.

    python -m benchmarks.engines                                        # CPU, minutes; vLLM where it is installed
    python -m benchmarks.engines --device cuda --size 600m --prompts 512

The job does what `deltageom rollouts` does: prompts through the chat template, a seed a completion, log-probs (or,
with `rollouts.log_probs: false`, none), shards on the disk, text, one parquet file. Bare is what one would write by
hand with the same engine, `LLM.generate` or `model.generate` in batches of like length; samples, temperature and
tokens are the same, no seeds, no log-probs, nothing written. "Asked the same" is vLLM alone again, with a seed and
log-probs for every completion. "LoRA" is the package's engine with an adapter beside the weights, as evaluation has
it, without the job around it. Each contender runs in a process of its own, in rounds of all of them; the clock starts
when the engine is loaded and has answered eight prompts. A ratio is taken within a round, and given as median and
range over the rounds. Weights are random, so that nearly every completion has the most tokens allowed; those made are
counted.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import rows, shapes
from benchmarks.contender import CONFIG
from benchmarks.tables import markdown, ratio

WARM_UP = 8
CONTENDERS = [
    *("transformers, bare", "transformers, job", "transformers, LoRA"),
    *("vllm, bare", "vllm, asked the same", "vllm, job", "vllm, job without log-probs", "vllm, LoRA"),
]
RATIOS = [
    ("transformers, job", "transformers, bare"),
    ("vllm, job", "vllm, bare"),
    ("vllm, job without log-probs", "vllm, bare"),
    ("vllm, job", "vllm, asked the same"),
    ("vllm, bare", "transformers, bare"),
    ("vllm, job", "transformers, job"),
    ("transformers, LoRA", "transformers, bare"),
    ("vllm, LoRA", "vllm, bare"),
]


def measure(name: str, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    engine, kind = name.split(", ")
    started = time.perf_counter()
    if kind.startswith("job"):
        generate = job(folder, given, engine, log_probs=kind == "job")
    elif kind == "LoRA":
        generate = with_lora(folder, given, engine)
    elif engine == "vllm":
        generate = bare_vllm(folder, given, the_same=kind != "bare")
    else:
        generate = bare_transformers(folder, given)
    generate(WARM_UP)
    loaded = time.perf_counter()
    tokens = generate(given.prompts)
    seconds = time.perf_counter() - loaded
    found = {"tokens_a_second": tokens / seconds, "tokens": tokens, "start_seconds": loaded - started}
    if given.device == "cuda":
        import torch

        found["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20  # vLLM is in this process too
    return found


def job(folder: Path, given: argparse.Namespace, engine: str, log_probs: bool) -> Callable[[int], int]:
    """The job itself; its engine, loaded once, is kept for the second call, which is the one that is timed."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from deltageom.generation import generate as generation
    from deltageom.generation.engine import Engine, Setup
    from deltageom.problems.problem import Problem
    from deltageom.rollouts import sample
    from deltageom.study.settings import RolloutSettings

    settings = RolloutSettings.model_validate(
        {
            "rollouts": CONFIG["rollouts"]
            | {"engine": engine, "samples": given.samples, "max_tokens": given.tokens, "batch_size": given.batch_size}
            | {"log_probs": log_probs},
            "prompt": {"template": "{question}", "system": None},
            "base": _base(given),
            "device": given.device,
            "transformers": CONFIG["transformers"] if engine == "transformers" else None,
            "vllm": CONFIG["vllm"] | {"eager": given.eager, "max_model_length": _longest(folder, given)},
        }
    )
    kept: list[Engine] = []
    load = generation.load_engine

    def once(name: str, setup: Setup) -> Engine:
        if not kept:
            kept.append(load(name, setup))
        return kept[0]

    generation.load_engine = once
    base = str(folder / "base")

    def generate(prompts: int) -> int:
        problems = [Problem(f"p{number}", text, "1", None) for number, text in enumerate(texts(folder)[:prompts])]
        output = folder / f"{engine}.parquet"
        sample.sample(settings, base, base, problems, output, generation.Job(folder / "scratch", given.shard_size))
        return int(pc.sum(pc.list_value_length(pq.read_table(output)["token_ids"])).as_py())

    return generate


def with_lora(folder: Path, given: argparse.Namespace, engine: str) -> Callable[[int], int]:
    from deltageom.generation.engine import Sampling, Setup, load_engine
    from deltageom.generation.generate import complete, requests
    from deltageom.models.load import load_tokenizer
    from deltageom.problems.problem import Problem
    from deltageom.study.running import Vllm
    from deltageom.study.schema import Base

    base, source = Base.model_validate(_base(given)), str(folder / "base")
    adapter = folder / "adapter"
    if not adapter.is_dir():
        shapes.save_adapter(adapter, given.size)
    tokenizer = load_tokenizer(source, base)
    longest = _longest(folder, given)
    vllm = Vllm.model_validate(CONFIG["vllm"] | {"eager": given.eager})
    loaded = load_engine(engine, Setup(source, base, given.device, adapter, given.batch_size, longest, vllm, lora=True))

    def generate(prompts: int) -> int:
        encoded = [tokenizer.encode(text) for text in texts(folder)[:prompts]]
        problems = [Problem(f"p{number}", "", "1", None) for number in range(len(encoded))]
        asked = requests(problems, encoded, given.samples, seed=0)
        made = complete(loaded, asked, Sampling(1.0, 1.0, 0, given.tokens))
        return sum(len(completion.token_ids) for completion in made)

    return generate


def bare_vllm(folder: Path, given: argparse.Namespace, the_same: bool) -> Callable[[int], int]:
    """`the_same`: with a seed and log-probs for every completion, as the job asks for; nothing else is the job's."""
    from deltageom.generation.engines.vllm import _prepare_environment

    _prepare_environment()
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(folder / "base"),
        dtype=shapes.dtype(given.device),
        max_model_len=_longest(folder, given),
        max_num_seqs=given.batch_size,
        enforce_eager=given.eager,
        **({"logprobs_mode": "processed_logprobs"} if the_same else {}),
        **(
            {"enable_chunked_prefill": False} if given.device == "cpu" and the_same else {}
        ),  # as generation/engines/vllm.py
    )

    def generate(prompts: int) -> int:
        asked = texts(folder)[:prompts]
        if the_same:
            asked = [text for text in asked for _ in range(given.samples)]
            policies = [
                SamplingParams(temperature=1.0, max_tokens=given.tokens, seed=number, logprobs=0)
                for number in range(len(asked))
            ]
        else:
            policies = SamplingParams(n=given.samples, temperature=1.0, max_tokens=given.tokens)
        made = llm.generate(asked, policies, use_tqdm=False)
        return sum(len(output.token_ids) for request in made for output in request.outputs)

    return generate


def bare_transformers(folder: Path, given: argparse.Namespace) -> Callable[[int], int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, shapes.dtype(given.device))
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype).to(given.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")

    def generate(prompts: int) -> int:
        asked = sorted(texts(folder)[:prompts], key=len)
        size, tokens = given.batch_size // given.samples, 0
        for start in range(0, len(asked), size):
            batch = tokenizer(asked[start : start + size], return_tensors="pt", padding=True).to(given.device)
            with torch.inference_mode():
                made = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    num_return_sequences=given.samples,
                    max_new_tokens=given.tokens,
                )
            new = made[:, batch["input_ids"].shape[1] :]
            tokens += int((new != tokenizer.pad_token_id).sum())
        return tokens

    return generate


def texts(folder: Path) -> list[str]:
    written: list[str] = json.loads((folder / "prompts.json").read_text())
    return written


def _base(given: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = CONFIG["base"] | {
        "layers": shapes.layers(given.size),
        "dtype": shapes.dtype(given.device),
    }
    return settings


def _longest(folder: Path, given: argparse.Namespace) -> int:
    """Twice the words: vLLM refuses texts of more characters than so many of the longest token, which has no space."""
    return 2 * max(len(text.split()) for text in texts(folder)) + int(given.tokens)


def write_prompts(folder: Path, size: str, prompts: int) -> None:
    """Words of the tokenizer, one a token, in lengths as prompts have them."""
    import numpy as np

    random = np.random.default_rng(0)
    length = rows.lognormal(shapes.SIZES[size][1][0])
    made = [
        " ".join(f"t{word}" for word in random.integers(1, shapes.vocabulary(size), length(random)))
        for _ in range(max(prompts, WARM_UP))
    ]
    (folder / "prompts.json").write_text(json.dumps(made))


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [["contender", "tokens / s", "tokens", "start, s"]]
    for name, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        row = [f"{middle['tokens_a_second']:,.0f}", f"{middle['tokens']:,.0f}", f"{middle['start_seconds']:.1f}"]
        lines.append([name, *row])
    ratios = [["", "against", "ratio of tokens / s (range)"]]
    for name, against in RATIOS:
        if name in found and against in found:
            rates = ([one["tokens_a_second"] for one in found[which]] for which in (name, against))
            ratios.append([name, against, ratio(*rates)])
    return markdown(lines) + "\n\n" + markdown(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(shapes.SIZES), default="tiny")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="of a completion, at most")
    parser.add_argument("--batch-size", type=int, default=128, help="sequences at once")
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="vLLM without compilation")
    parser.add_argument("--only", nargs="*", choices=["transformers", "vllm"], help="these engines alone")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        print("\n" + json.dumps(measure(given.contender, given.folder, given)))
        return
    names = [name for name in CONTENDERS if not given.only or name.split(",")[0] in given.only]
    if importlib.util.find_spec("vllm") is None:
        names = [name for name in names if not name.startswith("vllm")]
        print("vLLM is not installed here: transformers alone", file=sys.stderr)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes.save(folder / "base", given.size, given.device)
        write_prompts(folder, given.size, given.prompts)
        for round_ in range(given.rounds):
            for contender in names[round_ % len(names) :] + names[: round_ % len(names)]:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.engines",
                    *sys.argv[1:],
                    "--contender",
                    contender,
                    "--folder",
                    name,
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{contender} failed:\n{done.stderr}")
                found[contender].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {round_ + 1}, {contender}: {found[contender][-1]}", file=sys.stderr)
    print(table(found))


if __name__ == "__main__":
    main()
