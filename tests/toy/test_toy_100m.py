"""The study toy-100m: its size as documented, and its jobs, shrunk, through the real Snakemake on a CPU."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import Qwen3ForCausalLM

from deltageom.problems.world import documents
from deltageom.study.load import load_study
from deltageom.study.resolved import Study
from deltageom.toy import pretraining
from deltageom.toy.tokenizer import train_tokenizer
from tests.conftest import ROOT, copy_project, snakemake

RUNS = {
    *("sft", "sft_seed7", "rft", "dft", "rift", "rift_linear", "offline_grpo"),
    *("dpo", "dpo_lr", "dpo_steps", "dpo_norm_stop", "dpo_norm_scale"),
}
# What only this study has: its world, its base's size and dtype, and the matched runs. Without the methods that the
# smoke study trains, whose jobs are minutes of imports. dpo_norm_stop reaches SFT's norm by its learning rate.
# So small a teacher is right once in a hundred times: 768 rollouts have the pairs that DPO needs whatever is drawn.
SHRUNK_RUNS = {"sft", "dpo", "dpo_steps", "dpo_norm_stop", "dpo_norm_scale"}
SHRUNK = """
extends: toy-100m
device: cpu
base: {layers: 2}
toy: {documents: 960, batch_size: 16, hidden: 64, layers: 2, heads: 4, head_dim: 16, intermediate: 96}
teacher: {documents: 1920}
problems: {limit: 48}
rollouts: {samples: 16, temperature: 0.8, max_tokens: 48, batch_size: 256}
reference: {prompts: 4, max_tokens: 16}
training: {steps: 3, batch_size: 8, micro_batch_size: 8, kl_every: 2, lora: {rank: 4, alpha: 8.0}}
runs:
  sft_seed7: null
  rft: null
  dft: null
  rift: null
  rift_linear: null
  offline_grpo: null
  dpo_lr: null
  dpo: {batch_size: 4, micro_batch_size: 4}
  dpo_steps: {batch_size: 4, micro_batch_size: 4, steps: 6, kl_every: 3}
  dpo_norm_stop: {batch_size: 4, micro_batch_size: 4, steps: 6, learning_rate: 2.0e-2}
  dpo_norm_scale: {batch_size: 4, micro_batch_size: 4}
benchmarks: {easy: {limit: 12}, hard: {limit: 12}, hard_sampled: {limit: 4, samples: 2}}
decoding: {max_tokens: 16}
measures:
  geometry: {top_k: [2, 4], base_rank: 8}
  connectivity: {problems: 4, points: 3}
  cka: {prompts: 8}
"""


@pytest.fixture(scope="module")
def real() -> Study:
    return load_study({"study": "toy-100m"}, ROOT)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("toy-100m") / "project")
    (folder / "studies" / "shrunk.yaml").write_text(SHRUNK)
    done = snakemake(folder, "--config", "study=shrunk")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results" / "shrunk"


def test_the_size_is_what_the_documentation_says(real: Study) -> None:
    size = real.toy
    assert size.layers == real.base.layers
    texts = documents(pretraining.TOKENIZER_DOCUMENTS, size.seed, False, size.world)
    tokenizer = train_tokenizer((part for text in texts for part in text), size.vocabulary)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(pretraining.configuration(size, tokenizer))
    count = sum(p.numel() for p in model.parameters())
    assert 9e7 < count < 1.1e8
    for path in ("studies/toy-100m.yaml", "docs/toy.md"):
        assert f"{count:,} parameters" in (ROOT / path).read_text(), path


def test_it_compares_what_the_paper_compares_and_matched_dpo(real: Study) -> None:
    assert set(real.runs) == RUNS
    sft, dpo = (real.runs[run].training for run in ("sft", "dpo"))
    assert dpo.learning_rate == pytest.approx(sft.learning_rate / 10)
    matched = {run: real.runs[run].training for run in RUNS if run.startswith("dpo_")}
    assert matched["dpo_lr"].learning_rate == sft.learning_rate
    assert matched["dpo_steps"].steps * matched["dpo_steps"].learning_rate == pytest.approx(
        sft.steps * sft.learning_rate
    )
    assert matched["dpo_norm_stop"].match_norm.how == "stop"
    assert matched["dpo_norm_scale"].match_norm.how == "scale"
    for run in real.runs.values():
        assert run.training.micro_batch_size == run.training.batch_size  # nothing is accumulated
    assert (real.problems.limit, real.rollouts.samples, real.rollouts.generator) == (2000, 8, "teacher")
    # one pass, as the study's file says
    assert real.problems.limit * real.rollouts.samples == sft.steps * sft.batch_size


def test_no_row_of_the_study_is_longer_than_its_limits(real: Study) -> None:
    """Careful solutions end within max_tokens, and any prompt and completion within max_length."""
    size = real.toy
    texts = list(documents(4000, size.seed, True, size.world))
    tokenizer = train_tokenizer((part for text in texts for part in text), size.vocabulary)
    rows = pretraining._encode(tokenizer, real.prompt, texts)
    completions = [int((weights == 1).sum()) for _, weights in rows]
    assert max(completions) < min(real.rollouts.max_tokens, real.benchmarks["hard"].max_tokens)
    prompt = max(len(ids) - n for (ids, _), n in zip(rows, completions, strict=True))
    assert prompt + real.rollouts.max_tokens < real.runs["sft"].training.max_length


def test_the_shrunk_study_ends_with_every_run_and_measure(project: Path) -> None:
    assert {folder.name for folder in (project / "runs").iterdir()} == SHRUNK_RUNS
    selections = {run: json.loads((project / "runs" / run / "selection.json").read_text()) for run in SHRUNK_RUNS}
    stopped = {run: selection["stopped"] for run, selection in selections.items()}
    assert stopped.pop("dpo_norm_stop") == "norm"
    assert set(stopped.values()) == {"steps"}
    tables = project / "tables"
    pairs = len(SHRUNK_RUNS) * (len(SHRUNK_RUNS) - 1) // 2
    for name in ("connectivity", "cka"):
        table = pd.read_csv(tables / f"{name}.csv")
        assert table[["a", "b"]].drop_duplicates().shape[0] == pairs, name
    assert (project / "summary.md").is_file()


def test_the_base_is_of_the_study_in_size_and_dtype(project: Path) -> None:
    config = json.loads((project / "base" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]) == (64, 2, 4)
    for model in ("base", "teacher"):
        with safe_open(project / model / "model.safetensors", "pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_problems_are_of_the_studys_world(project: Path) -> None:
    def steps(split: str) -> list[int]:
        lines = (project / "problems" / f"{split}.jsonl").read_text().splitlines()
        return [len(re.findall("=", json.loads(line)["solution"])) for line in lines]

    assert 5 <= min(steps("hard")) <= max(steps("hard")) <= 8
    assert max(steps("easy")) <= 3
    assert 0 < sum(n > 3 for n in steps("train")) < 24
    world = yaml.safe_load((ROOT / "studies" / "toy-100m.yaml").read_text())["toy"]["world"]
    assert (world["hard_events"], world["hard_scale"]) == ([4, 7], 10)
