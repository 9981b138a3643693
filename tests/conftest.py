"""Shared parts: a tiny random model of the toy's kind, and a copy of the project to run Snakemake in."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deltageom.study.schema import Base, Prompt

if TYPE_CHECKING:
    from tests.comparison.comparing import Compare

# The toy at its smallest: every job runs, no number means anything. One run's length follows another's, and one trains
# every weight.
SMOKE = """
extends: toy
replicates: {count: 1}
toy: {documents: 2400}
teacher: {documents: 800}
problems: {limit: 96}
benchmarks: {easy: {limit: 16}, hard: {limit: 16}, hard_sampled: {limit: 6, samples: 4}}
rollouts: {samples: 8, max_tokens: 48, temperature: 1.0}
reference: {prompts: 4, max_tokens: 16}
training: {steps: 3, batch_size: 8, micro_batch_size: 4, kl_every: 2}
runs:
  sft_seed7: null
  dft: null
  rift_linear: null
  dpo_as_long: {method: dpo, match_norm: {run: sft, how: scale}}
  whole: {method: sft, adapter: none, learning_rate: 1.0e-4}
decoding: {max_tokens: 32}
measures:
  connectivity: {problems: 8, points: 3}
  cka: {prompts: 8}
"""
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
FULL = "--logger-deltageom-full"  # of a dry run each job with its inputs, outputs and reason, as Snakemake prints them


@pytest.fixture(scope="session")
def base_settings() -> Base:
    return Base(
        model="toy",
        revision=None,
        layers=2,
        modules=[
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        ],
        dtype="float32",
        attention="sdpa",
        trust_remote_code=False,
    )


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    return Prompt(template="{question}", system=None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen3 and its tokenizer, saved: too small to solve anything, real in every part."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), head_dim=16)


def save_tiny_model(folder: Path, head_dim: int) -> Path:
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from deltageom.problems.world import documents
    from deltageom.toy.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(part for text in documents(200, 0, careful=True) for part in text)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=head_dim,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.3,  # far from uniform, so that a wrong mask or position shows
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random adapters of the tiny model, of other ranks and scales."""
    return save_tiny_adapters(tiny_model, tmp_path_factory)


def save_tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for seed, (name, rank, alpha) in enumerate([("first", 4, 8.0), ("second", 2, 2.0)]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            init_lora_weights=False,
            target_modules=["self_attn.q_proj", "self_attn.o_proj"],
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
    return folders


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's own files in a folder of their own, to be edited and run."""
    return copy_project(tmp_path / "project")


@pytest.fixture
def compare(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Compare":
    """`deltageom compare` with these arguments."""
    from tests.comparison.comparing import in_process

    for library in ("OMP", "OPENBLAS", "MKL"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    return in_process(capfd)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters and a checkpoint, by name."""
    from tests.deltas import tiny_checkpoints

    whole = tiny_checkpoints.perturbed(tiny_model, tmp_path_factory.mktemp("checkpoint") / "whole", seed=1)
    return {**tiny_adapters, "whole": whole}


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke study, run once from nothing for all workers of this test run. To be copied, never changed."""
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if os.environ.get("PYTEST_XDIST_WORKER") is None else folder.parent) / "smoke_study"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "finished").exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_project(folder)
            (folder / "studies" / "smoke.yaml").write_text(SMOKE)
            done = snakemake(folder, "--config", "study=smoke")
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "finished").touch()
    return folder


@pytest.fixture(scope="module")
def finished(smoke_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished smoke study for one module's tests."""
    folder = tmp_path_factory.mktemp("smoke") / "project"
    shutil.copytree(smoke_study, folder, symlinks=True)
    return folder


@pytest.fixture
def study(finished: Path) -> Iterator[Path]:
    """The smoke study's file, put back after an edit."""
    path = finished / "studies" / "smoke.yaml"
    yield path
    path.write_text(SMOKE)


def planned(project: Path, *arguments: str) -> Counter[str]:
    """The jobs, by rule, that a dry run of the smoke study would do."""
    done = snakemake(project, "--dry-run", FULL, "--config", "study=smoke", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    jobs = Counter(re.findall(r"^(?:local)?rule (\w+):$", output, flags=re.MULTILINE))
    return Counter({rule: n for rule, n in jobs.items() if rule != "all"})


def copy_project(folder: Path) -> Path:
    folder.mkdir()
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder)
    for name in ("workflow", "studies", "envs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "profiles").symlink_to("workflow/profiles")
    return folder


def environment(project: Path) -> dict[str, str]:
    """For Snakemake in the project's copy: jobs run its sources.

    Passive: the workers of a parallel test run share the cores, and spinning threads would starve each other.
    """
    return os.environ | {"PYTHONPATH": str(project / "src"), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def snakemake(project: Path, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """The real Snakemake in the project's copy, whose own sources the jobs run."""
    return subprocess.run(
        [BIN / "snakemake", "--cores", "2", *arguments],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
