"""A job in the study's words."""

from __future__ import annotations

import re
from collections.abc import Mapping

ALL = "all"  # the rule that asks for everything and does nothing
DONE = {
    "problems": "made the problems {dataset}",
    "decontaminate": "looked for benchmark problems among the training problems",
    "pretrain": "made the base",
    "teacher": "made the teacher",
    "rollouts": "sampled the rollouts",
    "rollouts_part": "sampled part {part} of {parts} of the rollouts",
    "import_rollouts": "read the rollouts",
    "reward": "graded the rollouts",
    "reference": "scored the rollouts with the base",
    "mismatched": "scored mismatched completions with the base",
    "train": "trained {run}",
    "train_whole": "trained {run}, every weight",
    "train_with_snapshots": "trained {run}",
    "train_online": "trained {run} on its own samples",
    "train_online_with_snapshots": "trained {run} on its own samples",
    "derive": "derived {run}",
    "evaluate": "answered the benchmarks with {model}",
    "evaluate_part": "answered part {part} of {parts} of the benchmarks with {model}",
    "grade": "graded the answers of {model}",
    "hidden_states": "recorded the hidden states of {model}",
    "base_spectrum": "took the spectra of the base, layer {layer}",
    "geometry": "compared the updates, layer {layer}",
    "base_gradient": "took the gradient of {run} at the base",
    "gradients": "compared the gradient of {a} with those of the runs after it",
    "attribution": "took {run} apart by layer and by kind of module",
    "behaviour": "compared what {run} and the base write",
    "connectivity": "walked from {a} to the runs after it",
    "held_out_accuracy": "answered on the paths from {a} to the runs after it",
    "held_out_from_base": "walked from the base to {run}, on held-out answers",
    "held_out_paths": "walked from {a} to the runs after it, on held-out answers",
    "logit_lens": "read what {run} predicts after each layer",
    "loss_plane": "took the loss on the plane through three models",
    "cka": "compared the hidden states of {a} with those of the runs after it",
    "representations": "compared the hidden states of {a} with the base's and those of the runs after it",
    "trajectory": "followed the update of {a}, beside those of the runs after it",
    "tables": "made the tables",
    "replicate_tables": "made the tables",
    "replicates": "compared the replicates",
    "figures": "drew the figures",
    "summary": "wrote the summary",
    "page": "wrote the report",
    "provenance": "put the provenance together",
    "replicate_provenance": "put the provenance together",
}


def done(rule: str, wildcards: Mapping[str, str]) -> str:
    """`trained sft (replicate 2)`; a rule of one's own by its name."""
    try:
        told = DONE[rule].format_map(wildcards)
    except KeyError:
        told = " ".join([rule, *of(wildcards)])
    return f"{told}{_where(wildcards)}"


def name(rule: str, wildcards: Mapping[str, str]) -> str:
    """`train sft (replicate 2)`"""
    return f"{' '.join([rule, *of(wildcards)])}{_where(wildcards)}"


def of(wildcards: Mapping[str, str]) -> list[str]:
    """Which of a rule's jobs it is, apart from the folder: `sft`, `1-of-3`."""
    found = {key: value for key, value in wildcards.items() if key != "owner"}
    if "parts" in found:
        found["part"] += f"-of-{found.pop('parts')}"
    return list(found.values())


def replicate(wildcards: Mapping[str, str]) -> int | None:
    """Its number where the job's files lie in the folder of a replicate, from 2 on."""
    found = re.search(r"/replicates/(\d+)$", wildcards.get("owner", ""))
    return int(found[1]) if found else None


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _where(wildcards: Mapping[str, str]) -> str:
    number = replicate(wildcards)
    return f" (replicate {number})" if number else ""
