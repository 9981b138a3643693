"""Whole models as a run without an adapter leaves them."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from deltageom.deltas.adapter import Adapter


@torch.no_grad()
def perturbed(base: Path, folder: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    """Every parameter of the base moved at random, norms and embeddings too."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += (0.1 * torch.randn(parameter.shape, generator=generator)).to(dtype)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def merged(base: Path, adapter: Path, folder: Path) -> Path:
    """The base with the adapter's delta added in float64, saved in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    run = Adapter(adapter)
    for module in run.modules:
        factors = run.read(module)
        delta = factors.scale * factors.b @ factors.a
        model.get_submodule(f"model.{module}").weight += torch.from_numpy(delta)
    model.float().save_pretrained(folder)
    return folder
