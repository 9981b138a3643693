"""What a study resolves to, and the checks over several of its sections."""

import json
import re
from pathlib import Path

import pytest

from deltageom.errors import UserError
from deltageom.study.layers import Layer
from deltageom.study.load import load_study
from deltageom.study.schema import Base, Lora
from deltageom.study.sharing import stages
from tests.study.test_load import refusal, root, write

__all__ = ["root"]  # a fixture

Q, K, UP = "self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"


def lora(target_modules: list[str] | str) -> Lora:
    return Lora(rank=2, alpha=4.0, rslora=False, dropout=0.0, target_modules=target_modules, init_seed=0)


def base(layers: int) -> Base:
    return Base(
        model="toy",
        revision=None,
        layers=layers,
        modules=[Q, K, UP],
        dtype="float32",
        attention="sdpa",
        trust_remote_code=False,
    )


def test_listed_targets_are_in_every_layer_by_name() -> None:
    expected = [f"layers.{layer}.{name}" for layer in range(11) for name in (K, Q)]
    assert lora([Q, K]).targets(base(11)) == lora([K, Q]).targets(base(11)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r".*\.self_attn\..*", [f"layers.{n}.{m}" for n in range(3) for m in (K, Q)]),
        (r"layers\.[02]\.mlp\.up_proj", [f"layers.0.{UP}", f"layers.2.{UP}"]),
        (r"layers\.1\..*", [f"layers.1.{UP}", f"layers.1.{K}", f"layers.1.{Q}"]),
        (r"self_attn\.q_proj", []),  # it must match the name whole: from its start
        (r"layers\.0\.mlp", []),  # to its end
        (r"layers\.\d\.mlp\.gate_proj", []),  # none of base.modules
    ],
)
def test_regex_targets_are_what_it_matches_whole(pattern: str, expected: list[str]) -> None:
    assert lora(pattern).targets(base(3)) == expected


def test_modules_are_the_runs_targets(root: Path) -> None:
    study = load_study(
        write(root, "extends: toy\ntraining: {lora: {target_modules: 'layers\\.[13]\\.mlp\\.(up|down)_proj'}}\n"), root
    )
    assert study.modules() == [f"layers.{n}.mlp.{m}_proj" for n in (1, 3) for m in ("down", "up")]
    listed = load_study({"study": "toy"}, root)
    assert len(listed.modules()) == 16
    assert listed.modules()[:2] == ["layers.0.self_attn.k_proj", "layers.0.self_attn.o_proj"]


def test_a_list_and_a_regex_of_the_same_modules_are_the_same(root: Path) -> None:
    text = "extends: toy\nruns: {x: {method: sft, lora: {target_modules: '.*\\.self_attn\\..*'}}}\n"
    assert load_study(write(root, text), root).runs["x"].training.lora.target_modules == r".*\.self_attn\..*"


FOUR_GPUS = "device: cuda\nexecution: {tensor_parallel: 4}"
ONLY_SFT = (
    "runs: {rft: null, dft: null, rift: null, rift_linear: null, offline_grpo: null, dpo: null, sft: {method: sft}"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rollouts: {samples: 1}", ["run 'offline_grpo': offline_grpo compares", "rollouts.samples is 1"]),
        (
            "rollouts: {log_probs: false}\nruns: {clipped: {method: offline_grpo_clipped}}",
            ["run 'clipped': offline_grpo_clipped reads rollouts.log_probs, which is false: set it to true"],
        ),
        (ONLY_SFT + ", pairs: {method: dpo}}\nrollouts: {samples: 1}", ["run 'pairs': dpo compares", "samples is 1"]),
        (
            "execution: {processes: 2}",
            ["run 'sft'", "execution.processes 2 times micro_batch_size 16", "batch_size 16"],
        ),
        ("execution: {processes: 0}", ["execution.processes", "greater than or equal to 1"]),
        ("execution: {jobs_per_gpu: 0}", ["execution.jobs_per_gpu", "greater than or equal to 1"]),
        (
            "device: cuda\nexecution: {jobs_per_gpu: 2, processes: 2}\ntraining: {micro_batch_size: 8}",
            ["execution.jobs_per_gpu is 2, but a job takes 2 GPUs (execution.processes", "set jobs_per_gpu: 1"],
        ),
        (
            "device: cuda\nexecution: {jobs_per_gpu: 2, tensor_parallel: 2}\nevaluation: {engine: vllm}",
            ["execution.jobs_per_gpu is 2, but a job takes 2 GPUs"],
        ),
        (
            "device: cuda\nexecution: {jobs_per_gpu: 3}\nrollouts: {engine: vllm}",
            [
                "execution.memory_share 0.9 of 3 vLLM engines",
                "execution.jobs_per_gpu",
                "set memory_share to 0.33 or less",
            ],
        ),
        ("execution: {report_to: [tensorbord]}", ["execution.report_to", "tensorboard"]),
        (
            "execution: {processes: 2}\ntraining: {micro_batch_size: 8}\n"
            "runs: {x: {method: sft, micro_batch_size: 16}}",
            ["run 'x': execution.processes 2 times micro_batch_size 16 must divide batch_size 16"],
        ),
        ("reference: {benchmark: null}", ["reference.benchmark None is none", "run 'sft'", "kl_every: null"]),
        (
            "reference: {benchmark: esy}",
            ["reference.benchmark 'esy' is none of the benchmarks (easy, hard, hard_sampled)"],
        ),
        ("runs: {x: {method: dpo, match_norm: {run: stf, how: stop}}}", ["runs.x.match_norm.run 'stf'", "other runs"]),
        (
            "runs: {x: {method: dpo, match_norm: {run: x, how: stop}}}",
            ["runs.x.match_norm.run 'x' is none of the other"],
        ),
        (
            "runs: {x: {method: dpo, match_norm: {run: y, how: stop}}, "
            "y: {method: dpo, match_norm: {run: sft, how: scale}}}",
            ["runs.x.match_norm.run 'y' matches another run itself", "plain LoRA run"],
        ),
        (
            "runs: {x: {method: dpo, match_norm: {run: full, how: stop}}, full: {method: sft, adapter: none}}",
            ["runs.x.match_norm.run 'full' trains without an adapter"],
        ),
        (
            "runs: {x: {method: sft, adapter: none, match_norm: {run: sft, how: stop}}}",
            ["runs.x: match_norm needs adapter: lora"],
        ),
        (
            "runs: {x: {method: dpo, match_norm: {run: sft, how: stretch}}}",
            ["runs.x.match_norm.how", "'stop' or 'scale'"],
        ),
        (
            "training: {snapshots: [2, 65]}",
            ["training: snapshots names step 65", "ends after step 64: name steps up to that"],
        ),
        ("training: {snapshots: [2, 33], report_step: 32}", ["training: snapshots names step 33", "after step 32"]),
        (
            "runs: {x: {method: sft, steps: 8, snapshots: [16]}}",
            ["runs.x: snapshots names step 16, but training ends after step 8"],
        ),
        ("training: {snapshots: [2, 4, 2]}", ["training.snapshots: names step 2 twice: name each step once"]),
        ("training: {snapshots: [0, 2]}", ["training.snapshots.0: input should be greater than or equal to 1; got 0"]),
        ("training: {snapshots: []}", ["training.snapshots: List should have at least 1 item"]),
        (
            "training: {snapshots: [2]}\nruns: {x: {method: sft, adapter: none}}",
            ["runs.x: snapshots needs adapter: lora", "set snapshots: null"],
        ),
        (
            "training: {snapshots: [2]}\nruns: {x: {method: dpo, match_norm: {run: sft, how: stop}}}",
            ["runs.x: snapshots cannot be promised with match_norm how: stop", "set snapshots: null"],
        ),
        (
            "training: {snapshots: [2, 4]}\nruns: {x: {method: sft, snapshots: [2, 8]}}",
            ["runs.x.snapshots [2, 8] are of other steps than the [2, 4] of run 'sft'", "same steps, or null"],
        ),
        (
            "measures: {trajectory: {}}",
            ["measures.trajectory holds runs against 'sft'", "keeps none", "measures.trajectory: null"],
        ),
        (
            "measures: {trajectory: {}}\nruns: {sft: {method: sft, snapshots: [2]}}",
            ["measures.trajectory compares runs", "of 8 runs only 'sft' keeps snapshots", "measures.trajectory: null"],
        ),
        (
            "measures: {trajectory: {}}\ntraining: {snapshots: [2]}\nruns: {sft: {method: sft, snapshots: null}}",
            ["measures.trajectory holds runs against 'sft'", "keeps none"],
        ),
        ("measures: {trajectory: {every: 2}}", ["measures.trajectory.every: unknown key"]),
        ("training: {lora: {target_modules: '('}}", ["training.lora.target_modules", "no regular expression"]),
        ("training: {lora: {target_modules: [self_attn.q_prj]}}", ["'self_attn.q_prj'", "none of base.modules"]),
        ("training: {lora: {target_modules: q_proj}}", ["'q_proj' matches no module", "layers.N.self_attn.q_proj"]),
        (
            "training: {lora: {target_modules: 'layers\\.0\\..*|layers\\.1\\.mlp.*'}}",
            ["selects other modules in one layer than in another"],
        ),
        (
            "runs: {x: {method: sft, lora: {target_modules: 'layers\\.[01]\\.self_attn.*'}}}",
            ["runs 'sft' and 'x' adapt other modules", "in 16 places", "in 8 places"],
        ),
    ],
)
def test_sections_that_do_not_fit(root: Path, text: str, says: list[str]) -> None:
    message = refusal(root, text)
    for part in says:
        assert part in message
    assert "\n" not in message or "snapshots" not in message


@pytest.mark.parametrize(
    "text",
    [
        ONLY_SFT + "}\nrollouts: {samples: 1}",
        "execution: {processes: 2}\ntraining: {micro_batch_size: 8}",
        "device: cuda\nexecution: {jobs_per_gpu: 3}",
        "device: cuda\nexecution: {jobs_per_gpu: 2, memory_share: 0.5}\nevaluation: {engine: vllm}",
        "execution: {jobs_per_gpu: 2, processes: 2}\ntraining: {micro_batch_size: 8}",  # of no weight on a CPU
        "device: cuda\nexecution: {jobs_per_gpu: 2, tensor_parallel: 2}",  # no vLLM
        "reference: {benchmark: null}\ntraining: {kl_every: null}",
        "runs: {k: {method: kto}, full: {method: kto, adapter: none}}",
        "training: {snapshots: [2, 64]}\nmeasures: {trajectory: {}}\nruns: {rft: {method: rft, snapshots: null}}",
        "training: {snapshots: [64, 2]}\nruns: {full: {method: sft, adapter: none, snapshots: null}}",
        "training: {snapshots: [2]}\nruns: {x: {method: dpo, match_norm: {run: sft, how: scale}}}",
        "runs: {x: {method: dpo, match_norm: {run: sft, how: stop}}, "
        "y: {method: dpo, match_norm: {run: sft, how: scale}}}",
    ],
)
def test_sections_that_fit(root: Path, text: str) -> None:
    load_study(write(root, "extends: toy\n" + text), root)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("", 0),
        ("device: cuda", 1),
        ("device: cuda\nexecution: {processes: 2}\ntraining: {micro_batch_size: 8}", 2),
        ("device: cuda\nexecution: {tensor_parallel: 4}", 1),
        ("device: cuda\nexecution: {tensor_parallel: 4}\nevaluation: {engine: vllm}", 4),
        (f"{FOUR_GPUS}\nreplicates: {{count: 1}}\nrollouts: {{engine: vllm, file: a.jsonl}}", 1),
    ],
)
def test_gpus_of_the_largest_job(root: Path, text: str, gpus: int) -> None:
    assert load_study(write(root, f"extends: toy\n{text}\n"), root).gpus() == gpus


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("measures: {compare_with: nope}", "studies/mine.yaml: measures.compare_with 'nope' is none of the runs"),
        ("measures: {cka: {benchmark: nope}}", "studies/mine.yaml: measures.cka.benchmark 'nope' is none of the"),
        ("rollouts: {samples: 1}", "studies/toy.yaml: run 'offline_grpo': offline_grpo compares"),
        ("measures: {cka: {benchmark: null}}", "measures.cka.benchmark: input should be a valid string; got None"),
    ],
)
def test_what_a_study_says_is_not_blamed_on_the_command_line(root: Path, text: str, says: str) -> None:
    write(root, f"extends: toy\n{text}\n")
    with pytest.raises(UserError, match=re.escape(says)):
        load_study({"study": "mine"}, root, [Layer("--config", {"study": "mine"})])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "runs: {rft: {steps: 12}}\nmeasures: {gradients: {batches: 13}}",
            "measures.gradients.batches 13 is more than the 12 steps, of a global batch each, that run 'rft' is "
            "trained for: lower batches to 12 or less",
        ),
        (
            "runs: {rft: {report_step: 9}}\nmeasures: {gradients: {batches: 10}}",
            "measures.gradients.batches 10 is more than the 9 steps",
        ),
        (
            "training: {adapter: none}\nmeasures: {gradients: {batches: 1}}",
            "measures.gradients compares runs with adapter: lora that are trained on rollouts, but there is none",
        ),
        ("measures: {gradients: {batches: 0}}", "measures.gradients.batches: input should be greater than or equal"),
        ("measures: {gradients: {}}", "measures.gradients.batches: is missing"),
        (
            "measures: {behaviour: {benchmark: nope, prompts: 8, max_tokens: 8, batch_size: 4, seed: 1}}",
            "measures.behaviour.benchmark 'nope' is none of the benchmarks: easy, hard, hard_sampled",
        ),
        (
            "measures: {behaviour: {benchmark: easy, prompts: 1, max_tokens: 8, batch_size: 4, seed: 1}}",
            "measures.behaviour.prompts: input should be greater than or equal to 2",
        ),
        (
            "measures: {loss_plane: {models: [base, sft, best], benchmark: easy, problems: 4, points: 3, margin: 0.1, "
            "batch_size: 4}}",
            "measures.loss_plane.models: 'best' is neither base nor one of the runs: sft, ",
        ),
        (
            "measures: {loss_plane: {models: [base, sft, sft], benchmark: easy, problems: 4, points: 3, margin: 0.1, "
            "batch_size: 4}}",
            "measures.loss_plane.models: name three different models",
        ),
        (
            "measures: {attribution: {benchmark: other, problems: 4, batch_size: 4}}",
            "measures.attribution.benchmark 'other' is none of the benchmarks",
        ),
        (
            "measures: {held_out_paths: {benchmark: easy, problems: 4, points: 3, batch_size: 4, beyond: -0.1}}",
            "measures.held_out_paths.beyond: input should be greater than or equal to 0",
        ),
        (
            "measures: {held_out_paths: {benchmark: easy, problems: 4, points: 3, batch_size: 4, accuracy: []}}",
            "measures.held_out_paths.accuracy: is empty: name an alpha, or leave it out",
        ),
        (
            "measures: {held_out_paths: {benchmark: easy, problems: 4, points: 3, batch_size: 4, accuracy: [0, .nan]}}",
            "measures.held_out_paths.accuracy.1: input should be a finite number",
        ),
        (
            "measures: {held_out_paths: {benchmark: easy, problems: 4, points: 3, batch_size: 4, accuracy: [-1.5]}}",
            "measures.held_out_paths.accuracy.0: input should be greater than or equal to -1",
        ),
        (
            "measures: {held_out_paths: {benchmark: easy, problems: 4, points: 3, batch_size: 4, accuracy: [1, 2.5]}}",
            "measures.held_out_paths.accuracy.1: input should be less than or equal to 2",
        ),
        (
            "measures: {representations: {resamples: 99, seed: 1}}",
            "measures.representations.resamples: input should be greater than or equal to 100",
        ),
        (
            "measures: {cka: {prompts: 3}, representations: {resamples: 100, seed: 1}}",
            "measures.cka.prompts: input should be greater than or equal to 4",
        ),
    ],
)
def test_an_optional_measure_that_cannot_be_is_refused_with_its_key(root: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        load_study(write(root, f"extends: toy\n{text}\n"), root)


def test_options_of_paths_that_are_off_change_nothing_that_is_told(root: Path) -> None:
    """Nor do those that are on: each is a stage of its own."""
    plain = "extends: toy\nmeasures: {held_out_paths: {benchmark: easy, problems: 4, points: 3, batch_size: 4%s}}\n"
    study, wide = (
        load_study(write(root, plain % more), root) for more in ("", ", from_base: true, accuracy: [1, 0, 0.5, 0.0]")
    )
    found, more = stages(study), stages(wide)
    keys = ("benchmark", "problems", "points", "batch_size", "beyond", "refine")
    assert tuple(study.model_dump(mode="json")["measures"]["held_out_paths"]) == keys
    assert more.keys() - found.keys() == {"held_out_from_base", "held_out_accuracy"}
    assert {name: more[name] for name in found} == found
    assert json.loads(more["held_out_accuracy"].told)["held_out_accuracy"]["alphas"] == [0, 0.5, 1]


def test_whole_runs_have_no_say_in_how_many_batches_there_are(root: Path) -> None:
    text = "runs: {mine: {method: sft, adapter: none, steps: 2}}\nmeasures: {gradients: {batches: 4}}"
    assert load_study(write(root, f"extends: toy\n{text}\n"), root).measures.gradients


def test_what_no_file_sets_is_asked_of_the_study(root: Path) -> None:
    text = "benchmarks: {one: {source: toy, split: easy, limit: 5}}\nruns: {sft: {method: sft}}\n"
    with pytest.raises(UserError, match=r"^studies/mine.yaml: measures.connectivity.benchmark: is not set, and has no"):
        load_study(write(root, text), root)
